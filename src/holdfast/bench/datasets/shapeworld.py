"""Held-out scenes with exact truth: `shapeworld`, `shapeworld:SETS` or `shapeworld:SETS/KINDS`, separated by commas.

SETS are single, several, crossing, fast, long (default single); KINDS are the six edits (default all). Case i is seed
i, which no training draws; sets take turns, and with each round of them the kinds.
"""

from pathlib import Path

from torch import Tensor

from ...media import images, video
from ...shapeworld.rendering import render
from ...shapeworld.scenes import EDIT_KINDS, RATE, SCENE_SETS, SceneEdit, sample_edit
from ...shapeworld.truth import actor_mask
from .base import Case

USUAL = 24  # cases where no --limit is given


def cases(what: str, folder: Path, limit: int | None) -> list[Case]:
    sets, _, kinds = what.partition("/")
    chosen_sets = _known(sets, SCENE_SETS, "set of scenes") or ["single"]
    chosen_kinds = _known(kinds, EDIT_KINDS, "kind of edit") or list(EDIT_KINDS)
    found: list[Case] = []
    seed = 0
    while len(found) < (limit or USUAL):
        rounds, turn = divmod(len(found), len(chosen_sets))
        kind = chosen_kinds[rounds % len(chosen_kinds)]
        case = _case(seed, kind, chosen_sets[turn], folder)
        if case:
            found.append(case)
        seed += 1
    return found


def _known(names: str, known: tuple[str, ...], what: str) -> list[str]:
    return [names.choose(name, known, what) for name in names.split(",") if name]


def _case(seed: int, kind: str, name: str, folder: Path) -> Case | None:
    """None where there is no room to add an actor; the next seed takes its place."""
    try:
        edit = sample_edit(seed, kind, name)
    except ValueError:
        return None
    if kind == "remove" and name in ("single", "fast"):
        name = "several"  # sample_edit takes it from there
    title = f"{name}-{kind}-{seed:04d}"
    place = folder / title
    if not (place / "mask.mkv").exists():  # written last, and each whole or not at all
        _write_clips(edit, place)
    return Case(
        name=title,
        clip=str(place / "source.mkv"),
        source=edit.source.caption(),
        target=edit.target.caption(),
        kind=kind,
        group=name,
        # A backdrop is everywhere.
        mask=None if edit.actor is None else str(place / "mask.mkv"),
        local=_phrase(edit),
        truth=str(place / "truth.mkv"),
        scene=(seed, kind, name),
    )


def _write_clips(edit: SceneEdit, place: Path) -> None:
    source, target = render([edit.source, edit.target], edit.source.frames)
    mask = actor_mask(edit, edit.source.frames)[:, None].expand(-1, 3, -1, -1)
    _write_clip(place / "source.mkv", source)
    _write_clip(place / "truth.mkv", target)
    _write_clip(place / "mask.mkv", mask)


def _write_clip(path: Path, clip: Tensor) -> None:
    frames = [images.to_array(frame, 8) for frame in clip]
    video.write_frames(path, frames, RATE, "lossless")


def _phrase(edit: SceneEdit) -> str:
    """The words of the edited thing in the target; none where it is removed."""
    if edit.actor is None:
        return f"a {edit.target.backdrop}"
    if edit.kind == "remove":
        return ""
    actor = edit.target.actors[edit.actor]
    return f"a {actor.material} {actor.colour} {actor.shape}"
