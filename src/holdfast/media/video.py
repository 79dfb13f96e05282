"""Stream clips in and out with PyAV: mp4, mov, mkv, webm, gif, image folders and single images.

What comes in goes out again: frame count, exact timestamps, size, rotation, colour tags and range, bit depth, audio
tracks. Frames are arrays `H W 3`, upright RGB, uint8 or (above 8 bits a channel) uint16 that fills its whole range.
This is the door: `reading.py` and `writing.py` do the work.
"""

from .encoding import CODECS, pick_codec
from .reading import Clip, probe, read, stored, upright
from .samples import Picture, picture
from .writing import CONTAINERS, check_output, clip_of, write, write_frames

__all__ = [
    "CODECS",
    "CONTAINERS",
    "Clip",
    "Picture",
    "check_output",
    "clip_of",
    "pick_codec",
    "picture",
    "probe",
    "read",
    "stored",
    "upright",
    "write",
    "write_frames",
]
