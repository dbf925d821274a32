"""Several runs of this program as one experiment, and runs that another run starts and watches."""
