"""Metrics, calibration and figures: arrays in, numbers and figures out."""
