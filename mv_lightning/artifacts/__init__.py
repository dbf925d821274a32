"""What a run leaves: where each file lies, and how it is read and written."""
