"""The artifact: manifest, files, fingerprints, model card."""
