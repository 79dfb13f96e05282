"""Which scenes an evaluation uses, and the best result that is possible."""

import pytest

from holdfast.shapeworld import evaluate, scenes
from holdfast.shapeworld.scenes import sample_edit, sample_scene


def test_pairs_are_scenes_of_two():
    seeds = evaluate.seeds_with_two_actors(0, 10)
    assert len(set(seeds)) == 10
    assert {len(sample_scene(s, "several").actors) for s in seeds} == {2}


def test_a_scene_without_room_is_passed_over_and_the_next_taken():
    seeds = evaluate.seeds_with_edit(0, 20, "add", "single")
    assert len(set(seeds)) == 20
    assert 16 not in seeds
    for seed in seeds:
        sample_edit(seed, "add", "single")
    assert evaluate.seeds_with_edit(5, 3, "shape", "several") == [5, 6, 7]


def test_where_an_actor_begins_tells_what_is_left_of_its_direction():
    """Among all scenes that leave the same directions, each is drawn as often as any."""
    drawn: dict[tuple[str, ...], list[str]] = {}
    for seed in range(3000):
        actor = sample_scene(seed).actors[0]
        drawn.setdefault(tuple(scenes.possible_directions(actor)), []).append(actor.direction)
    many = {ways: found for ways, found in drawn.items() if len(found) > 100}
    assert {len(ways) for ways in many} == {1, 2}
    for ways, found in many.items():
        for way in scenes.DIRECTIONS:
            share = found.count(way) / len(found)
            assert share == pytest.approx((way in ways) / len(ways), abs=0.1), (ways, way)


def test_who_must_guess_the_direction_is_nearer_as_often_as_the_guess_is_right():
    scene = sample_scene(0)
    assert len(scenes.possible_directions(scene.actors[0])) == 2
    assert evaluate.continuation_chance(None, 0) == {
        "nearer": 0.5
    }  # the other way is further than the still
    told = next(
        s for s in range(100) if len(scenes.possible_directions(sample_scene(s).actors[0])) == 1
    )
    assert evaluate.continuation_chance(None, told) == {"nearer": 1.0}


def test_a_summary_has_wilsons_interval_for_rates_and_an_asymmetric_one_for_means():
    rows = [{"success": True, "gain": float(i % 7 == 0) * 5 + i / 50} for i in range(50)]
    found = evaluate.summarise(rows)
    assert (found["success"], found["success 95 %"]) == (1, [0.9287, 1])
    low, high = found["gain 95 %"]
    assert high - found["gain"] > found["gain"] - low > 0
    assert set(evaluate.summarise(rows[:1])) == {"success", "success 95 %", "gain"}
    assert evaluate.summarise([{"psnr": float("inf")}]) == {}
