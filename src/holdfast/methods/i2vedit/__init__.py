"""I2VEdit (arXiv:2405.16537): one edited frame, carried through the clip by an image-to-video model."""

from .config import FITTED, LONG, NEEDS, ONLY_WITH, Config, longer
from .propagation import edit

__all__ = ["FITTED", "LONG", "NEEDS", "ONLY_WITH", "Config", "edit", "longer"]
