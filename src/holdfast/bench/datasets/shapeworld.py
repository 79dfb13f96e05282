"""Held-out scenes with exact truth: `shapeworld`, `shapeworld:SETS` or `shapeworld:SETS/KINDS`, separated by commas.

SETS are single, several, crossing, fast, long (default single); KINDS are the six edits (default all). Case i has seed
i, which no training draws. Sets alternate from case to case, and kinds from round to round of the sets.
"""

from pathlib import Path

from torch import Tensor

from ...base.files import atomic_write
from ...base.names import choose
from ...media import images, video
from ...shapeworld.rendering import render
from ...shapeworld.scenes import EDIT_KINDS, RATE, SCENE_SETS, SceneEdit, sample_edit
from ...shapeworld.truth import actor_mask
from .base import Case

DEFAULT_COUNT = 24  # cases without --limit


def cases(selection: str, folder: Path, limit: int | None) -> list[Case]:
    sets, _, kinds = selection.partition("/")
    chosen_sets = _parse_names(sets, SCENE_SETS, "set of scenes") or ["single"]
    chosen_kinds = _parse_names(kinds, EDIT_KINDS, "kind of edit") or list(EDIT_KINDS)
    found: list[Case] = []
    seed = 0
    while len(found) < (limit or DEFAULT_COUNT):
        rounds, position = divmod(len(found), len(chosen_sets))
        kind = chosen_kinds[rounds % len(chosen_kinds)]
        case = _make_case(seed, kind, chosen_sets[position], folder)
        if case:
            found.append(case)
        seed += 1
    return found


def _parse_names(text: str, known: tuple[str, ...], role: str) -> list[str]:
    return [choose(name, known, role) for name in text.split(",") if name]


def _make_case(seed: int, kind: str, name: str, folder: Path) -> Case | None:
    """Return a case, or None if the scene has no room for another actor; the next seed is used instead."""
    try:
        edit = sample_edit(seed, kind, name)
    except ValueError:
        return None
    if kind == "remove" and name in ("single", "fast"):
        name = "several"  # sample_edit draws it from there
    title = f"{name}-{kind}-{seed:04d}"
    place = folder / title
    if not (place / "mask.mkv").exists():  # written last, completely or not at all
        _write_clips(edit, place)
    first_frame = place / "first_frame.png"
    if not first_frame.exists():  # also in the folder of an earlier version
        _write_first_frame(place / "truth.mkv", first_frame)
    return Case(
        name=title,
        clip=str(place / "source.mkv"),
        source_prompt=edit.source.caption(),
        target_prompt=edit.target.caption(),
        kind=kind,
        group=name,
        # a backdrop covers the whole frame
        mask=None if edit.actor is None else str(place / "mask.mkv"),
        object_prompt=_object_prompt(edit),
        truth=str(place / "truth.mkv"),
        scene=(seed, kind, name),
        first_frame=str(first_frame),
    )


def _write_clips(edit: SceneEdit, place: Path) -> None:
    source, target = render([edit.source, edit.target], edit.source.frames)
    mask = actor_mask(edit, edit.source.frames)[:, None].expand(-1, 3, -1, -1)
    _write_clip(place / "source.mkv", source)
    _write_clip(place / "truth.mkv", target)
    _write_clip(place / "mask.mkv", mask)


def _write_first_frame(truth: Path, path: Path) -> None:
    """Write the first frame of the true result."""
    frame = next(video.read(video.probe(truth)))
    with atomic_write(path) as part:
        images.write(part, images.to_tensor(frame))


def _write_clip(path: Path, clip: Tensor) -> None:
    frames = [images.to_array(frame, 8) for frame in clip]
    video.write_frames(path, frames, RATE, "lossless")


def _object_prompt(edit: SceneEdit) -> str:
    """Return a prompt for the edited object in the target; empty if it is removed."""
    if edit.actor is None:
        return f"a {edit.target.backdrop}"
    if edit.kind == "remove":
        return ""
    actor = edit.target.actors[edit.actor]
    return f"a {actor.material} {actor.colour} {actor.shape}"
