"""The command line of training and evaluation."""
