"""Tables, pages and pictures of stored evaluations."""
