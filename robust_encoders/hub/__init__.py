"""Loading of artifacts by name, with verification; publishing of artifacts on the Hub."""
