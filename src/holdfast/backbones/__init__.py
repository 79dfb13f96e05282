"""One adapter per model family. A module here offers MODELS (its backbones by name) and load()."""
