"""Runs of this program that another run starts and watches."""
