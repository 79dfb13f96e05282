"""Driving, saving, stopping."""

import json
import math

import pytest
import torch

from holdfast import run
from holdfast.run import Cancelled, Step, Store, drive


def counting(until, begin=0, stop_at=None):
    z = torch.zeros(1) + begin
    for i in range(begin, until):
        if i == stop_at:
            raise KeyboardInterrupt
        z = z + 1
        yield Step(i + 1, until, z, {"memory": 2 * z})


def test_progress_and_the_last_step_saved(tmp_path):
    store, seen = Store(tmp_path / "l.safetensors", "k"), []
    last = drive(counting(3), Step(0, 3, torch.zeros(1), {}), store, lambda done, count: seen.append((done, count)))
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert store.load().z == last.z == 3
    assert store.load().state["memory"] == 6


def test_ctrl_c_saves_the_last_whole_step(tmp_path):
    store = Store(tmp_path / "l.safetensors", "k")
    with pytest.raises(Cancelled, match="after step 2 of 5"):
        drive(counting(5, stop_at=2), Step(0, 5, torch.zeros(1), {}), store)
    begin = store.load()
    assert begin.index == 2
    assert drive(counting(5, begin.index), begin, store).z == 5


def test_an_empty_walk_returns_where_it_began():
    begin = Step(5, 5, torch.ones(1), {})
    assert drive(iter(()), begin) is begin


def test_saved_latents_of_another_task_or_broken_ones_are_refused(tmp_path):
    path = tmp_path / "l.safetensors"
    assert Store(path, "a").load() is None
    Store(path, "a").save(Step(1, 2, torch.zeros(1), {}))
    with pytest.raises(ValueError, match="another task"):
        Store(path, "b").load()
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(ValueError, match="cannot be read"):
        Store(path, "a").load()


def test_json_has_no_bare_infinity(tmp_path):
    run.write_json(tmp_path / "m.json", {"a": math.inf, "b": [{"c": math.inf, "d": 1.5}]})
    text = (tmp_path / "m.json").read_text()
    assert "Infinity" not in text
    assert json.loads(text) == {"a": "inf", "b": [{"c": "inf", "d": 1.5}]}
