"""The nearest rendering: it accepts the truth, refuses each wrong attribute, and locates the actors itself."""

from dataclasses import replace

import pytest
import torch

from holdfast.shapeworld import caption_check
from holdfast.shapeworld.evaluate import seeds_with_two_actors
from holdfast.shapeworld.rendering import render
from holdfast.shapeworld.scenes import list_edits, sample_edit, sample_scene


def turn_first_actor(scene):
    turned = {"left": "up", "up": "right", "right": "down", "down": "left"}
    actor = replace(scene.actors[0], direction=turned[scene.actors[0].direction], x=0.5, y=0.5)
    return replace(scene, actors=(actor, *scene.actors[1:]))


def is_refused(scene, name, clip):
    """Whether another value of the attribute is nearer to the clip: what `check_caption` asks of each attribute."""
    sampled = clip[list(caption_check.SAMPLED_FRAMES)]
    own, match = caption_check.fit_scene(scene, sampled)
    return own >= caption_check.nearest_rival(match, name, sampled)


@pytest.mark.parametrize(
    ("name", "seed"), [("single", 2), ("several", seeds_with_two_actors(0, 1)[0])]
)
def test_the_judge_of_captions_accepts_the_truth_and_refuses_what_is_wrong(name, seed):
    scene = sample_scene(seed, name)
    torch.manual_seed(0)
    noisy = render([scene])[0] + 0.03 * torch.randn(13, 3, 64, 64)
    assert all(caption_check.check_caption(noisy, scene).values())
    for kind in ("shape", "material"):
        assert is_refused(scene, kind, render([list_edits(scene, kind)[0].target])[0])
    assert is_refused(scene, "direction", render([turn_first_actor(scene)])[0])
    recoloured = render([list_edits(scene, "colour")[0].target])[0]
    if name == "single":  # the whole check takes long, and asks every attribute as above
        assert not caption_check.check_caption(recoloured, scene)["colour"]
    assert is_refused(scene, "colour", recoloured)


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
