"""The artifact, a folder with an encoder or overlay: its manifest, files, fingerprints and model card."""
