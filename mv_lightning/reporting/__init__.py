"""Blocks, tables and pages that commands print or write."""
