"""Clips in and out, for the rest of the package.

What is read is written again: frame count, exact timestamps, size, rotation, colour tags and range, bit depth, audio
tracks. Frames are arrays `H W 3`, upright RGB, uint8 or (above 8 bits a channel) uint16 that fills its whole range.
This module only re-exports: `reading.py` and `writing.py` do the work.
"""

from .container_limits import is_lossless, kept_properties, losses
from .encoding import CODECS, pick_codec
from .probing import check_regular_file, probe
from .reading import Clip, apply_input_options, read, read_stored, read_with_alpha, to_rgb
from .samples import OutputFrame, as_output_frame
from .sampling import choose_frames, sample, sample_alike
from .tracks import CONTAINERS
from .writing import check_output, clip_from_frames, count_audio_tracks, write, write_frames

__all__ = [
    "CODECS",
    "CONTAINERS",
    "Clip",
    "OutputFrame",
    "apply_input_options",
    "as_output_frame",
    "check_output",
    "check_regular_file",
    "choose_frames",
    "clip_from_frames",
    "count_audio_tracks",
    "is_lossless",
    "kept_properties",
    "losses",
    "pick_codec",
    "probe",
    "read",
    "read_stored",
    "read_with_alpha",
    "sample",
    "sample_alike",
    "to_rgb",
    "write",
    "write_frames",
]
