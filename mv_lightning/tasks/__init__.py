"""One verb that a user types, one file."""
