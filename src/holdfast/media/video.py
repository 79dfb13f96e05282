"""Stream clips in and out with PyAV: mp4, mov, mkv, webm, gif, image folders and single images.

What comes in goes out again: frame count, exact timestamps, size, rotation, colour tags and range, bit depth, audio
tracks. Frames are arrays `H W 3`, upright RGB, uint8 or (above 8 bits a channel) uint16 that fills its whole range.
This is the door: `reading.py` and `writing.py` do the work.
"""

from .aspects import is_exact, losses, promises
from .encoding import CODECS, pick_codec
from .probing import check_regular, probe
from .reading import Clip, read, read_layers, stored, treated, upright
from .samples import Picture, picture
from .tracks import CONTAINERS
from .writing import check_output, clip_of, count_audio, write, write_frames

__all__ = [
    "CODECS",
    "CONTAINERS",
    "Clip",
    "Picture",
    "check_output",
    "check_regular",
    "clip_of",
    "count_audio",
    "is_exact",
    "losses",
    "pick_codec",
    "picture",
    "probe",
    "promises",
    "read",
    "read_layers",
    "stored",
    "treated",
    "upright",
    "write",
    "write_frames",
]
