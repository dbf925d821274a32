"""`python -m mv_lightning`."""

from mv_lightning.cli import main

if __name__ == "__main__":
    main()
