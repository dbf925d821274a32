"""What `benchmarks.real_data` is made of: runs, rows, training, scores and tables."""
