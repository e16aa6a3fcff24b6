"""What every room of the loader uses."""
