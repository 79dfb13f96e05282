"""Measurements of a model that are kept with its weights.

They are the words of its captions, how well its VAE reconstructs the clips that it was trained on, and how far its
judgement of an edit can be trusted. A folder of weights may hold them as `calibration.json`. That file names the
weights that were measured by their digest; with other weights in the folder it is ignored.
"""

import difflib
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ..base import prompt_diff
from ..base.files import parse_json
from ..base.notices import warn_user
from ..media.clip_format import ClipFormat
from .checkpoint import Checkpoint

if TYPE_CHECKING:
    from torch import Tensor

FILE = "calibration.json"
DECODED_FRAMES = 5  # frames of a clip that are encoded and decoded to compare them
VAE_SHARE = 0.99  # of the training scenes have a PSNR of at least the bound


@dataclass(frozen=True)
class Calibration:
    """Measurements of one model. An empty field was not measured."""

    vocabulary: tuple[str, ...] = ()  # every word of its captions
    vae_psnr: float | None = None  # dB; 99 % of its training scenes are reconstructed better
    agreement: Mapping[str, Any] = field(default_factory=dict)  # see pipeline/agreement.py


class Calibrated(Protocol):
    """A backbone, loaded or not."""

    @property
    def name(self) -> str: ...
    @property
    def calibration(self) -> Calibration: ...
    @property
    def clip_format(self) -> ClipFormat: ...


class CalibratedDecoder(Calibrated, Protocol):
    """A backbone that is loaded."""

    def decode(self, z: "Tensor") -> Iterator["Tensor"]: ...


def read(checkpoint: Checkpoint) -> Calibration:
    """Return the measurements of a checkpoint; empty if there are none, or if they are of other weights."""
    values = read_values(checkpoint)
    if not values or values.get("weights") != digest_weights(checkpoint):
        return Calibration()
    psnr = values.get("vae", {}).get("psnr")
    return Calibration(tuple(values.get("vocabulary", ())), psnr, values.get("agreement", {}))


def read_values(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return the values of a checkpoint's calibration file; empty if it has none that can be read."""
    path = calibration_path(checkpoint)
    if not path.exists():
        return {}
    try:
        values = parse_json(path.read_text())
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


def calibration_path(checkpoint: Checkpoint) -> Path:
    """Return the path of a checkpoint's calibration file."""
    return checkpoint.folder / FILE


def digest_weights(checkpoint: Checkpoint) -> str:
    """Return a digest of all weights of a checkpoint."""
    digest = hashlib.sha256()
    for name, file in checkpoint.tensor_files().items():
        digest.update(name.as_posix().encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def check_words(info: Calibrated, texts: Sequence[str]) -> None:
    """Warn of words that a model was not trained on, and list the words that it was, the most similar first."""
    unknown = unknown_words(info, texts)
    if unknown:
        known = sort_by_likeness(unknown, info.calibration.vocabulary)
        warn_user(
            f"{info.name} has never read {', '.join(map(repr, unknown))}, and cannot follow "
            f"{'it' if len(unknown) == 1 else 'them'}; the words it knows, the most similar first: "
            f"{', '.join(known)}"
        )


def unknown_words(info: Calibrated, texts: Sequence[str]) -> list[str]:
    """Return the words that a model was not trained on; empty if its vocabulary was not measured."""
    known = info.calibration.vocabulary
    words = dict.fromkeys(word for text in texts for word in prompt_diff.folded_words(text))
    return [w for w in words if known and w not in known and any(map(str.isalnum, w))]


def sort_by_likeness(unknown: Sequence[str], known: Sequence[str]) -> list[str]:
    """Return the known words, those with the spelling closest to an unknown one first."""

    def likeness(word: str) -> float:
        return max(difflib.SequenceMatcher(None, word, other).ratio() for other in unknown)

    return sorted(known, key=lambda word: (-likeness(word), word))


def check_footage(backbone: CalibratedDecoder, frames: Any, latent: "Tensor") -> bool:
    """Return whether a clip looks like those that a model was trained on, and warn if it does not.

    It does not if the VAE reconstructs its beginning worse than nearly all training scenes. A model without a measured
    bound accepts every clip. frames: iterable of 3 H W in [0, 1]; latent: theirs, 1 c f h w.
    """
    bound = backbone.calibration.vae_psnr
    if bound is None:
        return True
    psnr = reconstruction_psnr(backbone, frames, latent)
    is_usual = psnr >= bound
    if not is_usual:
        warn_user(
            f"this clip is unlike what {backbone.name} was trained on: the model's own copy of it "
            f"has {psnr:.1f} dB, and {VAE_SHARE:.0%} of its training scenes have {bound:.1f} dB or "
            "more; the edit will run, but do not expect it to work"
        )
    return is_usual


def reconstruction_psnr(backbone: CalibratedDecoder, frames: Any, latent: "Tensor") -> float:
    """Return the PSNR in dB of the first frames of a clip, decoded from their latent."""
    import torch

    from ..metrics.base import psnr

    few = min(latent.shape[2], backbone.clip_format.count_latent_frames(DECODED_FRAMES))
    decoded = torch.cat(list(backbone.decode(latent[:, :, :few])))[:DECODED_FRAMES]
    source = torch.stack(list(islice(iter(frames), len(decoded)))).to(decoded)
    return psnr((decoded - source).square().mean().item())
