"""Edit both actors of a scene at once, and one after the other: `python benchmarks/targets.py`.

Scenes of two actors, held out; each actor gets another colour, shape or material. The masks are the exact ones.

- words per mask: one run, `mask=[{mask, words}, {mask, words}]`.
- one mask: one run, the union of both masks, with all words everywhere.
- two runs: the first actor alone, then the second one in that result.

An actor succeeds if the result is closer to the truth than to the same scene with any other value of that actor's
attribute, its old one included. Prints Markdown: means with 95 % intervals, and paired differences to two runs.
"""

import argparse
import random
import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy import ndarray
from tables import format_differences, format_intervals, print_header, print_row

import holdfast
from holdfast.media import images
from holdfast.models.base import Backbone
from holdfast.shapeworld.evaluate import FIRST_TUNING_SEED, seeds_with_two_actors
from holdfast.shapeworld.rendering import render
from holdfast.shapeworld.scenes import Scene, SceneEdit, list_edits, sample_scene
from holdfast.shapeworld.truth import actor_mask, psnr

KINDS = ("colour", "shape", "material")
SETTINGS = {"mask_velocity": True, "steps": 15}
METRICS = {"first": "first actor", "second": "second actor", "both": "both", "db": "dB to truth"}


@dataclass(frozen=True)
class Change:
    """The change of one actor: the edit, its kind, and the word that the target prompt has for it."""

    edit: SceneEdit
    word: str

    def mask(self) -> ndarray:
        """Return where the actor is, f H W boolean."""
        return actor_mask(self.edit, self.edit.source.frames).numpy() > 0


def draw_change(scene: Scene, actor: int, seed: int) -> Change:
    """Draw another value of one attribute of an actor."""
    rng = random.Random(f"targets/{seed}/{actor}")
    kind = rng.choice(KINDS)
    edit = rng.choice([e for e in list_edits(scene, kind, seed) if e.actor == actor])
    return Change(edit, getattr(edit.target.actors[actor], kind))


def has_succeeded(change: Change, result: torch.Tensor) -> bool:
    """Return whether a result f 3 H W shows the actor's new value and no other."""
    edit = change.edit
    others = [e.target for e in list_edits(edit.source, edit.kind) if e.actor == edit.actor]
    rivals = [scene for scene in (edit.source, *others) if scene != edit.target]
    clips = render([edit.target, *rivals], len(result), (result.shape[-2], result.shape[-1]))
    own, *errors = (clips - result).square().mean((1, 2, 3, 4)).tolist()
    return all(own < error for error in errors)


def run_edit(clip: ndarray, before: Scene, after: Scene, mask: Any, options: dict) -> ndarray:
    """Return the edited clip, f H W 3 uint8. options: words, and those that all edits share."""
    prompts = before.caption(), after.caption()
    return holdfast.edit(
        clip, *prompts, mask=mask, method="flowanchor", settings=SETTINGS, rate=8, **options
    ).array()


def measure(backbone: Backbone, seed: int) -> dict[str, dict[str, float | bool]]:
    """Return the metrics of each way to edit a scene."""
    scene = sample_scene(seed, "several")
    first = draw_change(scene, 0, seed)
    second = draw_change(first.edit.target, 1, seed)
    target = second.edit.target
    # The first actor is judged next to the second one's new look.
    alone = replace(scene, actors=(scene.actors[0], target.actors[1]))
    judged = replace(first, edit=SceneEdit(first.edit.kind, alone, target, 0))
    clip = np.stack([images.to_array(frame, 8) for frame in render([scene])[0]])
    truth = render([target])[0]
    changes, shared = (first, second), {"backbone": backbone, "seed": seed}
    masks = [change.mask() for change in changes]
    areas = [
        {"mask": mask, "words": change.word} for mask, change in zip(masks, changes, strict=True)
    ]
    words = tuple(dict.fromkeys(change.word for change in changes))
    between = run_edit(clip, scene, first.edit.target, masks[0], shared | {"words": first.word})
    ways = {
        "words per mask": run_edit(clip, scene, target, areas, shared),
        "one mask": run_edit(clip, scene, target, np.logical_or(*masks), shared | {"words": words}),
        "two runs": run_edit(
            between, first.edit.target, target, masks[1], shared | {"words": second.word}
        ),
    }
    return {way: score(result, judged, second, truth) for way, result in ways.items()}


def score(
    result: ndarray, first: Change, second: Change, truth: torch.Tensor
) -> dict[str, float | bool]:
    frames = torch.from_numpy(result).permute(0, 3, 1, 2) / 255
    marks = {"first": has_succeeded(first, frames), "second": has_succeeded(second, frames)}
    return marks | {"both": all(marks.values()), "db": psnr(frames, truth)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backbone", default="shapeworld-wan")
    parser.add_argument("--count", type=int, default=60, help="scenes")
    parser.add_argument("--minutes", type=float, default=1e9, help="start no scene after this time")
    parser.add_argument("--tuning", action="store_true", help="other scenes than the reported ones")
    options = parser.parse_args()
    torch.set_num_threads(1)
    backbone, begin = holdfast.load_backbone(options.backbone), time.monotonic()
    rows = []
    for seed in seeds_with_two_actors(FIRST_TUNING_SEED if options.tuning else 0, options.count):
        if time.monotonic() - begin > 60 * options.minutes:
            break
        rows.append(measure(backbone, seed))
    print_header(f"{len(rows)} scenes", *METRICS.values(), "both, minus two runs", "dB, the same")
    reference = [row["two runs"] for row in rows]
    for way in rows[0]:
        own = [row[way] for row in rows]
        cells = format_intervals(own, METRICS)
        print_row(way, *cells, *format_differences(own, reference, ("both", "db")))


if __name__ == "__main__":
    main()
