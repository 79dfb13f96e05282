"""The nearest rendering: it accepts the truth, refuses each wrong attribute, and locates the actors itself."""

from dataclasses import replace

import pytest
import torch

from holdfast.shapeworld import caption_check
from holdfast.shapeworld.evaluate import seeds_with_two_actors
from holdfast.shapeworld.rendering import render
from holdfast.shapeworld.scenes import list_edits, sample_edit, sample_scene


@pytest.mark.parametrize(
    ("name", "seed"), [("single", 0), ("single", 2), ("several", seeds_with_two_actors(0, 1)[0])]
)
def test_the_judge_of_captions_accepts_the_truth_and_refuses_what_is_wrong(name, seed):
    scene = sample_scene(seed, name)
    torch.manual_seed(0)
    noisy = render([scene])[0] + 0.03 * torch.randn(13, 3, 64, 64)
    assert all(caption_check.check_caption(noisy, scene).values())
    for kind in ("colour", "shape", "material"):
        wrong = list_edits(scene, kind)[0].target
        assert not caption_check.check_caption(render([wrong])[0], scene)[kind]
    turned = {"left": "up", "up": "right", "right": "down", "down": "left"}[
        scene.actors[0].direction
    ]
    wrong = replace(
        scene, actors=(replace(scene.actors[0], direction=turned, x=0.5, y=0.5), *scene.actors[1:])
    )
    assert not caption_check.check_caption(render([wrong])[0], scene)["direction"]


def test_what_is_added_may_stand_anywhere_but_must_be_what_was_asked_for():
    edit = sample_edit(5, "add", "single")
    actor = edit.target.actors[edit.actor]

    def shown(**changes):
        actors = (*edit.source.actors, replace(actor, **changes))
        return render([replace(edit.target, actors=actors)])[0]

    assert caption_check.is_object_added(
        edit, shown(x=actor.x + 0.1, y=actor.y - 0.05, size=actor.size + 0.02)
    )
    assert not caption_check.is_object_added(edit, render([edit.source])[0])
    assert not caption_check.is_object_added(
        edit, shown(shape="star" if actor.shape != "star" else "ball")
    )
