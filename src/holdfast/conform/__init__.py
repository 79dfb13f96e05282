"""Conform another editor's clip to its source, in time, space and colour, and put only its change back."""
