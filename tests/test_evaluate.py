"""Which scenes an evaluation takes, and what one who knows the world would reach."""

from dataclasses import replace

import pytest

from holdfast.shapeworld import evaluate, scenes
from holdfast.shapeworld.scenes import sample, sample_edit


def test_pairs_are_scenes_of_two():
    seeds = evaluate.pairs(0, 10)
    assert len(set(seeds)) == 10
    assert {len(sample(s, "several").actors) for s in seeds} == {2}


def test_a_scene_without_room_is_passed_over_and_the_next_taken():
    seeds = evaluate.editable(0, 20, "add", "single")
    assert len(set(seeds)) == 20
    assert 16 not in seeds
    for seed in seeds:
        sample_edit(seed, "add", "single")
    assert evaluate.editable(5, 3, "shape", "several") == [5, 6, 7]


def test_a_first_frame_leaves_the_directions_that_begin_there():
    seen = [scenes.headings(sample(seed).actors[0]) for seed in range(400)]
    for seed, ways in enumerate(seen):
        actor = sample(seed).actors[0]
        assert actor.direction in ways
        for way in {*scenes.DIRECTIONS} - {*ways}:  # its path would leave the middle of the frame
            assert scenes.headings(replace(actor, direction=way)) == ways
    told = sum(len(ways) == 1 for ways in seen) / len(seen)
    right = sum(1 / len(ways) for ways in seen) / len(seen)  # a guess among them
    assert 0.2 < told < 0.4
    assert right == pytest.approx(0.62, abs=0.05)


def test_who_can_only_guess_the_direction_is_as_good_as_the_guess():
    for seed in range(6):
        ways = scenes.headings(sample(seed).actors[0])
        found = evaluate.foreseen(None, seed)["nearer"]
        assert found >= 1 / len(ways)  # the right one always is
        assert found == 1 or len(ways) > 1
