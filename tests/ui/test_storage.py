"""Uploads and drawn masks go when nobody used them for a day, or when there is too much; what an edit needs stays."""

import os
import time

import pytest

from holdfast.ui import storage


@pytest.fixture
def uploads(tmp_path):
    """Files of 1,000 bytes, by their age in hours."""
    ages = {"a/new.mp4": 0, "b/clip.mp4": 3, "mask-1.mkv": 5, "c/old.mp4": 25, "brush-1.png": 30}
    for name, age in ages.items():
        path = tmp_path / "uploads" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(1000))
        make_old(path, age)
    return tmp_path / "uploads"


def make_old(path, hours):
    then = time.time() - 3600 * hours
    os.utime(path, (then, then))


def left(uploads):
    return {str(p.relative_to(uploads)) for p in uploads.rglob("*") if p.is_file()}


def test_what_nobody_used_for_a_day_goes(uploads):
    assert storage.sweep(uploads, 1e9) == 2000
    assert left(uploads) == {"a/new.mp4", "b/clip.mp4", "mask-1.mkv"}


def test_above_the_limit_the_oldest_go_but_not_what_was_just_used(uploads):
    storage.sweep(uploads, 2000)
    assert left(uploads) == {"a/new.mp4", "b/clip.mp4"}
    storage.sweep(uploads, 0)
    assert left(uploads) == {"a/new.mp4"}


def test_what_an_edit_needs_stays(uploads):
    storage.sweep(uploads, 0, [uploads / "c/old.mp4"])
    assert left(uploads) == {"a/new.mp4", "c/old.mp4"}


def test_what_is_used_again_is_new_and_keeps_its_time_of_change(uploads):
    path = uploads / "c/old.mp4"
    before = path.stat().st_mtime_ns
    storage.touch(path)
    storage.sweep(uploads, 1e9)
    assert path.stat().st_mtime_ns == before


def test_a_file_that_a_run_keeps_is_counted_once(uploads):
    (uploads.parent / "runs" / "one").mkdir(parents=True)
    os.link(uploads / "a/new.mp4", uploads.parent / "runs" / "one" / "new.mp4")
    usage = storage.measure_usage(uploads.parent)
    assert (usage.runs, usage.uploads) == (1000, 4000)
    assert usage.free > 0
