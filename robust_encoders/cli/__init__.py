"""The command line of the loader."""
