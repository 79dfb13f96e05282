"""The synthetic world: seeded, exact, and every edit changes only what it names."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch

from holdfast.media.optical_flow import sharp_dis
from holdfast.models.vision.latent_flow import warp
from holdfast.shapeworld import scenes
from holdfast.shapeworld.flow_accuracy import score_scene
from holdfast.shapeworld.rendering import (
    exact_flow,
    nearest_actor,
    render,
    render_variants,
    render_with_coverage,
)
from holdfast.shapeworld.scenes import (
    EDIT_KINDS,
    SCENE_SETS,
    Actor,
    Scene,
    list_edits,
    sample_edit,
    sample_scene,
)
from holdfast.shapeworld.truth import actor_mask, changed_region, exact_displacement, judge, psnr

BALL = Actor("ball", "red", "plain", "moves", "right", 0.2, 0.3, 0.5)


@pytest.mark.parametrize("name", SCENE_SETS)
def test_a_seed_is_a_scene(name):
    drawn = [sample_scene(i, name) for i in range(30)]
    assert drawn == [sample_scene(i, name) for i in range(30)]
    assert len({s.caption() for s in drawn}) > 20
    for scene in drawn:
        colours = [a.colour for a in scene.actors]
        assert len(set(colours)) == len(colours)


def test_the_sets_are_what_they_are_called():
    drawn = {name: [sample_scene(i, name) for i in range(60)] for name in SCENE_SETS}
    assert {len(s.actors) for s in drawn["single"]} == {1}
    assert {len(s.actors) for s in drawn["several"]} == {2, 3}
    assert {a.verb for s in drawn["fast"] for a in s.actors} == {"races"}
    assert {s.frames for s in drawn["long"]} == {25, 37, 49}
    assert all(scenes._smallest_gap(*s.actors, s.frames) < 0 for s in drawn["crossing"])
    for scene in drawn["several"]:
        for a, b in itertools.combinations(scene.actors, 2):
            assert scenes._smallest_gap(a, b, scene.frames) > -0.06  # they hardly touch
    with pytest.raises(ValueError, match="unknown set of scenes"):
        sample_scene(0, "many")


def test_actors_stay_in_sight_for_thirteen_frames():
    for seed in range(40):
        for name in ("single", "several", "fast"):
            scene = sample_scene(seed, name)
            for a in scene.actors:
                (vx, vy), ends = a.velocity, (0, scene.frames - 1)
                assert all(0 < a.x + vx * t < 1 and 0 < a.y + vy * t < 1 for t in ends), (
                    name,
                    seed,
                )


def test_rendering_is_the_same_alone_and_in_a_batch():
    batch = [sample_scene(i, "train") for i in range(6)]
    together = render(batch, 5)
    for i, scene in enumerate(batch):
        assert torch.allclose(render([scene], 5)[0], together[i], atol=1e-6)
    assert together.shape == (6, 5, 3, 64, 64)
    assert 0 <= together.min() < together.max() <= 1


def test_any_size_and_length():
    scene = sample_scene(3, "several")
    assert render([scene], 2, (40, 72)).shape == (1, 2, 3, 40, 72)
    small = torch.nn.functional.avg_pool2d(render([scene], 1, (128, 128))[0], 2)
    assert (small - render([scene], 1)[0]).abs().mean() < 0.02
    assert render([scene], 200).isfinite().all()


@pytest.mark.parametrize("direction", scenes.DIRECTIONS)
def test_a_long_clip_wraps_around(direction):
    actor = Actor("ball", "red", "plain", "moves", direction, 0.2, 0.5, 0.5)
    share = render_with_coverage([Scene("lake", (actor,))], 120)[1][0, 0].mean((1, 2))
    assert share.min() == 0  # quite out of sight at times
    assert share[-30:].max() > 0.9 * share[0]  # and back


def test_masks_are_exact_and_know_what_is_in_front():
    back, front = (
        Actor("box", "red", "plain", "moves", "right", 0.2, 0.4, 0.5),
        Actor("ball", "blue", "plain", "moves", "left", 0.2, 0.6, 0.5),
    )
    scene = Scene("desert", (back, front))
    visible = render_with_coverage([scene], 7)[1][0]
    alone = render_with_coverage([Scene("desert", (front,))], 7)[1][0, 0]
    assert torch.equal(visible[1], alone)
    assert (visible.sum(0) <= 1 + 1e-6).all()
    picture, empty = render([scene], 7)[0], render([Scene("desert", ())], 7)[0]
    untouched = visible.sum(0) == 0
    assert torch.equal(picture.transpose(0, 1)[:, untouched], empty.transpose(0, 1)[:, untouched])


def test_every_pixel_of_an_actor_is_nearest_to_it():
    scene = next(s for s in (sample_scene(i, "several") for i in range(99)) if len(s.actors) == 3)
    visible = render_with_coverage([scene], 13)[1][0]
    found = nearest_actor(scene, range(13))
    assert found.shape == (13, 64, 64)
    for k in range(3):
        there = visible[k] > 0.99
        assert there.sum() > 1000
        assert (found[there] == k).float().mean() > 0.95  # outlines may overlap by a little
    assert torch.equal(
        nearest_actor(scene, [7], (8, 8))[0], nearest_actor(scene, range(13), (8, 8))[7]
    )


@pytest.mark.parametrize("pan", ["", "left", "right"])
def test_flow_carries_each_frame_to_the_next(pan):
    """Warping a frame back along the exact flow gives the one before, away from outlines and what comes into sight."""
    scene = Scene("lake", (BALL,), pan)
    size = (200, 200)  # whole pixels a frame: 0.03 and 0.015 of it
    frames, moved = render([scene], 4, size)[0], exact_flow(scene, 4, size)
    inside = render_with_coverage([scene], 4, size)[1][0, 0]
    y, x = torch.meshgrid(torch.arange(200), torch.arange(200), indexing="ij")
    for t in range(3):
        tx, ty = (x + moved[t, 0]).round().long(), (y + moved[t, 1]).round().long()
        seen = (tx >= 0) & (tx < 200) & (ty >= 0) & (ty < 200)
        tx, ty = tx.clamp(0, 199), ty.clamp(0, 199)
        alike = (inside[t] == inside[t + 1][ty, tx]) & ((inside[t] == 0) | (inside[t] == 1)) & seen
        difference = (frames[t] - frames[t + 1][:, ty, tx]).abs().amax(0)
        assert alike.float().mean() > 0.8
        assert difference[alike].max() < 1e-3


CROSSING = (
    BALL,
    Actor("box", "blue", "spotted", "moves", "down", 0.2, 0.5, 0.3),
)


@pytest.mark.parametrize("step", [1, -1, 3, -3])
@pytest.mark.parametrize("pan", ["", "right"])
def test_warping_along_the_passage_gives_the_frame_again_where_nothing_is_lost(step, pan):
    scene, size = Scene("lake", CROSSING, pan), (200, 200)  # whole pixels a frame
    frames = render([scene], 7, size)[0]
    moved, lost = exact_displacement(scene, 7, step, size)
    first = max(0, -step)
    assert len(moved) == len(lost) == 7 - abs(step)
    for t in range(len(moved)):
        here, there = frames[first + t], frames[first + t + step]
        mismatch = (warp(there[None], moved[t][None])[0] - here).abs().amax(0)
        assert (mismatch[~lost[t]] > 0.02).float().mean() < 0.02  # outlines
        covered = lost[t].clone()
        covered[:, :30] = covered[:, -30:] = False  # what leaves the frame may look like its edge
        assert (mismatch[covered] > 0.02).float().mean() > 0.7


@pytest.mark.parametrize("step", [2, -2])
def test_lost_is_what_a_thing_moves_onto(step):
    size = (200, 200)
    _, lost = exact_displacement(Scene("lake", (BALL,)), 5, step, size)
    disc = render_with_coverage([Scene("lake", (BALL,))], 5, size)[1][0, 0] > 0.5
    here = disc[2:] if step < 0 else disc[:-2]
    there = disc[:-2] if step < 0 else disc[2:]
    wrong = lost != (there & ~here)
    assert wrong.sum() <= 0.02 * lost.sum()
    assert lost.sum() > 100


def test_what_leaves_the_frame_is_lost():
    _, lost = exact_displacement(
        Scene("lake", (), "right"), 2, 1, (200, 200)
    )  # all goes left by 3 pixels
    assert lost[0, :, :3].all()
    assert not lost[0, :, 3:].any()


def test_flow_that_stands_still_is_as_wrong_as_the_motion_is_large():
    found = score_scene(0, "crossing", lambda first, second: np.zeros((64, 64, 2), np.float32), 2)
    for row in found.values():
        assert row["error"] == pytest.approx(row["error_still"])
        assert row["error_actors"] == pytest.approx(2 * 0.03 * 64, abs=1e-3)
        assert row["occlusion_recall"] == 0


def test_both_directions_are_measured_against_their_own_truth():
    for row in score_scene(500_003, "fast", sharp_dis, 1).values():
        assert row["error_actors"] < 0.1 * 0.06 * 64
        assert row["occlusion_iou"] > 0.2


@pytest.mark.parametrize("kind", EDIT_KINDS)
def test_an_edit_changes_what_it_names_and_nothing_else(kind):
    for seed in range(8):
        name = "single" if kind == "add" else "several"
        edit = sample_edit(seed, kind, name)
        assert edit == sample_edit(seed, kind, name)
        assert edit.source.caption() != edit.target.caption()
        source, target = render([edit.source, edit.target])
        changed = (source - target).abs().amax(1) > 0
        assert changed.any()
        allowed = actor_mask(edit, edit.source.frames) > 0
        assert not changed[~allowed].any()
        assert edit in list_edits(edit.source, kind, seed)


def test_all_edits_of_a_kind():
    scene = Scene("lake", (BALL,))
    assert {k: len(list_edits(scene, k)) for k in EDIT_KINDS} == {
        "colour": 7,
        "shape": 3,
        "material": 2,
        "backdrop": 5,
        "add": 28,
        "remove": 0,
    }
    with pytest.raises(ValueError, match="unknown kind of edit"):
        list_edits(scene, "size")


def test_judging_knows_the_truth_the_source_and_a_wrong_edit():
    edit, wrong = list_edits(Scene("lake", (BALL,)), "colour")[:2]
    source, target, other = render([edit.source, edit.target, wrong.target])
    best = judge(edit, target)
    assert best["success"]
    assert best["psnr"] == float("inf")
    assert best["outside_share"] == 0
    assert best["psnr_source"] == pytest.approx(psnr(source, target))
    assert not judge(edit, source)["success"]
    assert not judge(edit, other)["success"]
    noisy = (target + 0.1 * (1 - changed_region(edit, 13))).clamp(0, 1)
    assert judge(edit, noisy)["psnr_inside"] == float("inf")
    assert judge(edit, noisy)["outside_share"] > 0.3


def test_training_scenes_are_not_held_out(monkeypatch):
    from holdfast.shapeworld.training import loop

    drawn = []
    monkeypatch.setattr(
        loop, "sample_scene", lambda seed, name: drawn.append(seed) or sample_scene(seed, name)
    )
    loop.draw_training_scenes(50, "vae/0")
    assert min(drawn) >= scenes.FIRST_TRAINING_SEED
    assert len(set(drawn)) == len(drawn) >= 50


def test_variants_of_one_actor_are_the_pixels_of_a_whole_rendering():
    scene = sample_scene(3, "crossing")
    for k, actor in enumerate(scene.actors):
        moved = []
        for i in range(3):
            other = dataclasses.replace(actor, x=actor.x + 0.1 * i, shape=scenes.SHAPES[i])
            actors = (*scene.actors[:k], other, *scene.actors[k + 1 :])
            moved.append(dataclasses.replace(scene, actors=actors))
        whole = render(moved, (0, 5))
        assert torch.equal(render_variants(moved, k, (0, 5)), whole)
