"""Trained verifiers as folders that other tools can load."""
