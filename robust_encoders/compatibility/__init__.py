"""Does an artifact fit a pipeline? Every reason why not, at once."""
