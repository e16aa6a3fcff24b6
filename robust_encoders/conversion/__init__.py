"""From the formats of others to an artifact."""
