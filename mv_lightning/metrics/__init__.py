"""How good the verdicts are: arrays in, numbers and figures out."""
