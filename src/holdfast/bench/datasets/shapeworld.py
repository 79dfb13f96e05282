"""Held-out scenes with exact truth: `shapeworld`, `shapeworld:SETS` or `shapeworld:SETS/KINDS`, each separated by commas.

SETS are single, several, crossing, fast, long (default single); KINDS are the six edits (default all). Case i is seed i, which no
training draws; sets take turns, and with each round of them the kinds.
"""

from pathlib import Path

from ...shapeworld.demo import arrays, write_clip
from ...shapeworld.render import render
from ...shapeworld.scenes import KINDS, SETS, Edit, sample_edit
from ...shapeworld.truth import actor_mask
from .base import Case

USUAL = 24  # cases where no --limit is given


def cases(what: str, folder: Path, limit: int | None) -> list[Case]:
    sets, _, kinds = what.partition("/")
    chosen_sets = _known(sets, SETS, "set of scenes") or ["single"]
    chosen_kinds = _known(kinds, KINDS, "kind of edit") or list(KINDS)
    found: list[Case] = []
    seed = 0
    while len(found) < (limit or USUAL):
        i = len(found)
        name, kind = chosen_sets[i % len(chosen_sets)], chosen_kinds[i // len(chosen_sets) % len(chosen_kinds)]
        edit = _edit(seed, kind, name)
        if edit:
            found.append(_case(edit, seed, kind, name, folder))
        seed += 1
    return found


def _known(names: str, known: tuple[str, ...], what: str) -> list[str]:
    from ...registry import choose

    return [choose(n, known, what) for n in names.split(",") if n]


def _edit(seed: int, kind: str, name: str) -> Edit | None:
    try:
        return sample_edit(seed, kind, name)
    except ValueError:  # no room to add an actor; the next seed takes its place
        return None


def _case(edit: Edit, seed: int, kind: str, name: str, folder: Path) -> Case:
    name = "several" if kind == "remove" and name in ("single", "fast") else name  # sample_edit takes it from there
    title = f"{name}-{kind}-{seed:04d}"
    place = folder / title
    if not (place / "mask.mkv").exists():  # written last, and each whole or not at all
        source, target = render([edit.source, edit.target], edit.source.frames)
        mask = actor_mask(edit, edit.source.frames)[:, None].expand(-1, 3, -1, -1)
        for file, frames in (("source", source), ("truth", target), ("mask", mask)):
            write_clip(place / f"{file}.mkv", arrays(frames), "lossless")
    return Case(
        name=title,
        clip=str(place / "source.mkv"),
        source=edit.source.caption(),
        target=edit.target.caption(),
        kind=kind,
        group=name,
        mask=None if edit.actor is None else str(place / "mask.mkv"),  # a backdrop is everywhere
        local=_phrase(edit),
        truth=str(place / "truth.mkv"),
        scene=(seed, kind, name),
    )


def _phrase(edit: Edit) -> str:
    """The words of the edited thing in the target; none where it is removed."""
    if edit.actor is None:
        return f"a {edit.target.backdrop}"
    if edit.kind == "remove":
        return ""
    actor = edit.target.actors[edit.actor]
    return f"a {actor.material} {actor.colour} {actor.shape}"
