"""Tables 1 and 2 of the contest report, and a search of settings, at a scale that one CPU thread
can do: the files of the experiments, their results and their tables."""
