"""A verifier behind HTTP: requests, batches that they share, and metrics."""
