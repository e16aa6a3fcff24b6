"""From a name to a verified artifact, and from an artifact to the Hub."""
