"""What attaching changes in a pipeline, and how it is undone."""
