"""Tables, pages and pictures of finished evaluations."""
