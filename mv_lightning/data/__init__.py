"""From a file, a folder or the Hub to packed batches."""
