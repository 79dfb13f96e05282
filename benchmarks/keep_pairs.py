"""Make pairs of a source and its exact edit, of shapeworld scenes and real footage, and degrade the edit."""

import zlib
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from keep_degradations import Degraded, VaeRoundTrip, degrade
from keep_footage import FOOTAGE_EDITS, REAL_CLIPS, edit_footage, read_part
from numpy import ndarray

from holdfast.base.errors import UserError
from holdfast.models.registry import load_backbone
from holdfast.shapeworld.rendering import render_with_coverage
from holdfast.shapeworld.scenes import FIRST_TUNING_SEED, RATE, SceneEdit, sample_edit

FRAMES = 48
SCENE_SIZE = (320, 480)
SCENE_RATE = 30
EDIT_KINDS = ("colour", "shape", "remove", "add")
REAL_KINDS = tuple(FOOTAGE_EDITS)
SCENE_SETS = ("single", "several")
PANS = ("", "left", "")  # every third scene has a moving camera
VISIBLE_CHANGE = 2  # a pixel is changed if a channel differs by more levels
EDGE_WIDTH = 3.0  # pixels over which a synthetic edit of real footage fades out
# The VAE whose loss on such pictures is that of published video VAEs, about 28 to 32 dB at these sizes. The Wan VAE
# knows only the shapeworld: it leaves 16 dB of real footage.
VAES = {"shapeworld": "shapeworld-wan", "real": "shapeworld-sd"}
FIRST_FOOTAGE_SEED = 2_000_000  # keeps the seeds of real footage apart from those of scenes


@dataclass(frozen=True)
class Pair:
    """A source and its exact edit."""

    name: str
    source: ndarray  # f H W 3, uint8
    exact: ndarray  # f H W 3, uint8
    mask: ndarray  # f H W bool: where the change is
    # f H W bool: the mask, and what of the edited object looks as before: white stripes of an object that is recoloured
    area: ndarray
    rate: float
    seed: int
    origin: str  # shapeworld | real
    kind: str  # of edit

    @property
    def differs(self) -> ndarray:
        """Where the clips differ visibly, f H W. It is wider than the mask where soft edges fade out."""
        return _find_differences(self.source, self.exact)


def _find_differences(source: ndarray, other: ndarray) -> ndarray:
    difference = np.maximum(source, other) - np.minimum(source, other)
    return difference.max(-1) > VISIBLE_CHANGE


def list_names(count: int, variants: int, clips: str) -> list[str]:
    """Return the names of pairs: `count` scenes, and `variants` edits of each real clip. clips: or both."""
    scenes = [f"{EDIT_KINDS[i % 4]}-{i // 4}" for i in range(count)]
    real = [f"{clip}-{REAL_KINDS[i % 2]}-{i // 2}" for clip in REAL_CLIPS for i in range(variants)]
    return (scenes if clips != "real" else []) + (real if clips != "shapeworld" else [])


def make_pair(name: str, is_tuning: bool) -> Pair:
    """Make the pair of a name from `list_names`."""
    parts = name.split("-")
    if len(parts) == 2:
        return _make_scene(name, parts[0], int(parts[1]), is_tuning)
    return _make_real(name, parts[0], parts[1], int(parts[2]), is_tuning)


def _make_scene(name: str, kind: str, index: int, is_tuning: bool) -> Pair:
    first = FIRST_TUNING_SEED if is_tuning else 0
    seed = first + 1000 * EDIT_KINDS.index(kind) + index
    edit = _sample_scene_edit(seed, kind, SCENE_SETS[index % 2])
    pan = PANS[index % 3]
    times: Any = [frame * RATE / SCENE_RATE for frame in range(FRAMES)]
    scenes = [replace(scene, pan=pan) for scene in (edit.source, edit.target)]
    pictures, shares = zip(
        *(render_with_coverage([scene], times, SCENE_SIZE) for scene in scenes), strict=True
    )
    source, exact = (_to_levels(picture[0].numpy()) for picture in pictures)
    mask = _find_differences(source, exact)
    area = mask
    if kind in ("colour", "shape"):  # the object is in both clips
        area = mask | np.any([share[0, edit.actor].numpy() > 0.5 for share in shares], 0)
    return Pair(name, source, exact, mask, area, SCENE_RATE, seed, "shapeworld", kind)


def _sample_scene_edit(seed: int, kind: str, name: str) -> SceneEdit:
    """Draw an edit. A seed whose scene has no room for another actor stands for a seed far away."""
    try:
        return sample_edit(seed, kind, name)
    except UserError:
        return _sample_scene_edit(seed + 10_000, kind, name)


def _to_levels(picture: ndarray) -> ndarray:
    """Convert f 3 H W in [0, 1] to f H W 3, uint8."""
    return np.ascontiguousarray((255 * picture).round().astype(np.uint8).transpose(0, 2, 3, 1))


def _make_real(name: str, clip: str, kind: str, index: int, is_tuning: bool) -> Pair:
    source, rate = read_part(clip, FRAMES, is_tuning)
    number = 100 * list(REAL_CLIPS).index(clip) + 10 * REAL_KINDS.index(kind) + index
    seed = FIRST_FOOTAGE_SEED + number + (FIRST_TUNING_SEED if is_tuning else 0)
    exact, mask = edit_footage(source, kind, seed)
    return Pair(name, source, exact, mask, mask, rate, seed, "real", kind)


@cache
def load_vae(origin: str) -> VaeRoundTrip:
    """Return the round trip through the VAE for clips of this origin."""
    import torch

    backbone = load_backbone(VAES[origin])

    def round_trip(frames: ndarray) -> ndarray:
        legal = backbone.clip_format.round_up_frames(len(frames))
        padded = np.concatenate((frames, frames[-1:].repeat(legal - len(frames), 0)))
        tensors = (torch.from_numpy(frame).permute(2, 0, 1) / 255 for frame in padded)
        with torch.no_grad():
            chunks = [
                _to_levels(chunk.numpy()) for chunk in backbone.decode(backbone.encode(tensors))
            ]
        return np.concatenate(chunks)[: len(frames)]

    return round_trip


def degrade_pair(pair: Pair, kind: str, cache_folder: Path | None = None) -> Degraded:
    """Degrade the exact edit of a pair. What a VAE made is kept in the folder, because it takes long."""

    def round_trip(frames: ndarray) -> ndarray:
        digest = zlib.crc32(frames.tobytes())
        path = cache_folder / f"{pair.name}-{kind}-{digest:08x}.npy" if cache_folder else None
        if path and path.exists():
            return np.load(path)
        result = load_vae(pair.origin)(frames)
        if path:
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_suffix(".part.npy")  # complete or absent, if the run is stopped
            np.save(part, result)
            part.rename(path)
        return result

    return degrade(pair.exact, pair.rate, kind, pair.seed, round_trip)
