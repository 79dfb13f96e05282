"""I2VEdit (arXiv:2405.16537): one edited frame, carried through the clip by an image-to-video model.

tune: low-rank adapters on the temporal layers learn the clip's motion (Eq. 4)
invert: EDM inversion of the clip, its flat areas perturbed a little (Eq. 5), without adapters
edit: denoise from there under the edited frame, with the source's attention of the paired inversion step: over space
      blended by how far attention moved, out = (1 - M) A0 V + M A V; over time replaced in early steps
A long clip is edited in segments that share a frame: the last latent of one is the first frame of the next, and the
temporal layers attend to the first segment too (Eq. 3), which is evaluated again for that.
"""

from ...sampling.perturbation import UNUSED_UNLESS
from ..base import MethodInfo
from .long_clip import describe_segments, edit
from .settings import Config

__all__ = ["METHOD", "Config", "edit"]

METHOD = MethodInfo(
    requires=frozenset({"image", "spatial_attention", "temporal_attention"}),
    fits_adapters=("tuning_steps", "rank", "learning_rate", "tuned_layers", "variant"),
    # the first segment's inverted latents, which later segments are tuned on
    fits_segment_adapters=(
        "attend_first_segment",
        "attend_in_tuning",
        "steps",
        "strength",
        "shift",
        "schedule",
        "timesteps",
        "sarp",
        "sarp_threshold",
        "sarp_area",
    ),
    long_clips="segments",
    unused_unless={
        "rank": "tuning_steps",
        "learning_rate": "tuning_steps",
        "tuned_layers": "tuning_steps",
        "attend_in_tuning": "attend_first_segment",
        "threshold_first": "matching",
        "threshold_last": "matching",
        **UNUSED_UNLESS,
    },
    describe_segments=describe_segments,
    explains=True,
)
