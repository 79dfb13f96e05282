"""What was measured of a model once, and is kept with its weights: the words of its captions, how well its VAE shows
the footage it was trained on, and how far its judgement of an edit can be trusted.

A folder of weights may hold it as `calibration.json`. The file names the weights that were measured by their digest:
with other weights in the folder it does not count.
"""

import difflib
import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..base import prompt_diff
from ..base.files import from_json
from ..base.notices import note

FILE = "calibration.json"
LOOK = 5  # frames of a clip that are decoded again
VAE_SHARE = 0.99  # of the training scenes are reconstructed better than the bound says


@dataclass(frozen=True)
class Calibration:
    """Measurements of one model. An empty field was not measured."""

    vocabulary: tuple[str, ...] = ()  # every word of its captions
    vae_psnr: float | None = None  # dB; 99 % of its training scenes are reconstructed better
    agreement: Mapping[str, Any] = field(default_factory=dict)  # see agreement.py


def read(folder: Path) -> Calibration:
    """Return what was measured of the weights in a folder; nothing where they are not those that were measured."""
    path = folder / FILE
    if not path.exists():
        return Calibration()
    try:
        found = from_json(path.read_text())
    except (OSError, ValueError):
        return Calibration()
    if not isinstance(found, dict) or found.get("weights") != digest(folder):
        return Calibration()
    vae = found.get("vae", {}).get("psnr")
    return Calibration(tuple(found.get("vocabulary", ())), vae, found.get("agreement", {}))


def digest(folder: Path) -> str:
    """Return a digest of all weights in a folder of a model's parts."""
    made = hashlib.sha256()
    for file in sorted(folder.glob("*/*.safetensors")):
        made.update(file.relative_to(folder).as_posix().encode())
        made.update(file.read_bytes())
    return made.hexdigest()[:16]


def check_words(about: Any, texts: Sequence[str]) -> None:
    """Warn of words that a model has never read, and name those that it has, the nearest first."""
    known, strange = about.calibration.vocabulary, unknown_words(about, texts)
    if strange:
        note(
            f"{about.name} has never read {', '.join(map(repr, strange))}, and cannot follow "
            f"{'it' if len(strange) == 1 else 'them'}; the words it knows, the nearest first: "
            f"{', '.join(nearest(strange, known))}"
        )


def unknown_words(about: Any, texts: Sequence[str]) -> list[str]:
    """Return the words that a model has never read; none where its vocabulary was not measured."""
    known = about.calibration.vocabulary
    asked = dict.fromkeys(word for text in texts for word in prompt_diff.split(text))
    return [w for w in asked if known and w not in known and any(map(str.isalnum, w))]


def nearest(strange: Sequence[str], known: Sequence[str]) -> list[str]:
    """Return the known words, those spelt most like one of the strange ones first."""

    def likeness(word: str) -> float:
        return max(difflib.SequenceMatcher(None, word, other).ratio() for other in strange)

    return sorted(known, key=lambda word: (-likeness(word), word))


def check_footage(backbone: Any, frames: Any, latent: Any) -> bool:
    """Return whether a clip is of the kind that a model was trained on, and warn where its beginning is shown by the
    VAE worse than nearly all training scenes. A model without a measured bound cannot tell, and takes every clip.

    frames: as the model takes them, 3 H W in [0, 1]; latent: theirs, 1 c f h w.
    """
    bound = backbone.calibration.vae_psnr
    psnr = math.inf if bound is None else reconstruction(backbone, frames, latent)
    is_usual = bound is None or psnr >= bound
    if not is_usual:
        note(
            f"this clip is unlike what {backbone.name} was trained on: the model's own copy of it "
            f"has {psnr:.1f} dB, and {VAE_SHARE:.0%} of its training scenes have {bound:.1f} dB or "
            "more; expect nothing of the edit but that it runs"
        )
    return is_usual


def reconstruction(backbone: Any, frames: Any, latent: Any) -> float:
    """Return the PSNR in dB of the first frames of a clip, decoded from their latent."""
    from itertools import islice

    import torch

    from ..metrics.base import psnr

    few = min(latent.shape[2], backbone.grid.latent_frames(LOOK))
    shown = torch.cat(list(backbone.decode(latent[:, :, :few])))[:LOOK]
    own = torch.stack(list(islice(iter(frames), len(shown)))).to(shown)
    return psnr((shown - own).square().mean().item())
