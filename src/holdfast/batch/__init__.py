"""Many edits: rows of a file, each done once by workers that hold one warm backbone, here or on a Ray cluster."""
