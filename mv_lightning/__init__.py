"""Train a model that says whether a math answer is correct."""

__version__ = "0.1.0"
