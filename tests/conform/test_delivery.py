"""Delivered files, all forms of a result, and the report: planes are compared as PyAV decodes them."""

import inspect
import json

import cv2
import numpy as np
import pytest
from PIL import Image

import holdfast
from holdfast.base.errors import UserError
from holdfast.base.notices import Notice
from holdfast.base.schema import list_settings
from holdfast.conform.task import KeepTask
from holdfast.media import samples, video

from ..conftest import audio_packets
from ..media.footage import times
from ..media.test_samples import planes
from . import scenes
from .checks import (
    COUNT,
    FAR,
    assert_outside_is_the_source,
    dilate,
    erode,
    error_inside,
    keep,
    overlap_of,
)
from .editors import (
    recolour,
)

FILES = {
    "H.264 with sound": ({"codec": "libx264", "sound": True}, "mp4"),
    "full range, BT.709": ({"colour": {"color_range": 2, "colorspace": 1}}, "mkv"),
    "10 bits": ({"pixels": "yuv420p10le", "codec": "libx264"}, "mp4"),
    "odd size": ({"size": (159, 95)}, "mkv"),
    "variable rate": ({"times": [0, 90, 210, 300, 420, 490, 600, 710, 800, 905]}, "mkv"),
    "rotated": ({"codec": "libx264", "rotation": 90}, "mp4"),
    "RGB": ({"pixels": "bgr0"}, "mkv"),
}


def plane_outside(plane, exact, quarter_turns):
    """Samples of a plane that no pixel near the change belongs to. exact: boolean H W, as it is seen."""
    far = dilate([exact], FAR + 2)[0]
    stored = np.rot90(far, quarter_turns).astype(np.uint8)
    return cv2.resize(stored, plane.shape[1::-1], interpolation=cv2.INTER_AREA) == 0


@pytest.mark.parametrize("case", FILES)
def test_the_delivered_file_is_the_source_outside_the_change(case, source, edited, tmp_path):
    """The planes are compared as PyAV decodes them."""
    about, suffix = FILES[case]
    about = dict(about)
    width, height = about.pop("size", scenes.SIZE)
    clips = [frames[:, :height, :width] for frames in (source, edited)]
    turns = about.get("rotation", 0) // 90
    stored = np.rot90(clips[0], -turns, (1, 2)) if turns else clips[0]
    first = scenes.encode(tmp_path / f"a.{suffix}", np.ascontiguousarray(stored), **about)
    known = video.probe(first)
    scale = 257 if known.bits > 8 else 1
    assert np.abs(scenes.read(first)[0] / scale - clips[0][0]).mean() < 8  # upright as it was drawn
    second = scenes.encode(tmp_path / "b.mkv", clips[1], times=about.get("times"))
    out = tmp_path / f"out.{suffix}"
    kept = holdfast.keep(first, second, out)
    written = video.probe(out)
    assert (written.frames, written.size, written.bits) == (COUNT, known.size, known.bits)
    assert written.orientation == known.orientation
    assert times(out) == pytest.approx(times(first), abs=2e-3)
    assert audio_packets(out) == audio_packets(first)
    exact = scenes.changes(range(COUNT), (width, height))
    (name, before), (after_name, after) = planes(first), planes(out)
    if case != "RGB":
        assert samples.strip_range_prefix(after_name) == samples.strip_range_prefix(name)
        for i, frames in enumerate(zip(before, after, strict=True)):
            for one, other in zip(*frames, strict=True):
                outside = plane_outside(one, exact[i], -turns)
                assert outside.mean() > 0.4
                assert np.array_equal(one[outside], other[outside])
    inner = erode(exact, 5)
    assert error_inside(scenes.read(out) / scale, clips[1], inner) < 5
    assert kept.array().dtype == (np.uint16 if known.bits > 8 else np.uint8)
    manifest = json.loads((tmp_path / f"out.{suffix}.json").read_text())
    if case != "RGB":
        assert manifest["delivered"]["samples_equal_outside"]
    assert (manifest["frames"], manifest["size"]) == (COUNT, list(known.size))
    assert manifest["audio_tracks"] == len(audio_packets(first))
    assert (tmp_path / f"out.{suffix}.mask.png").exists()


def save_folder(folder, frames):
    folder.mkdir()
    for i, frame in enumerate(frames):
        Image.fromarray(frame).save(folder / f"{i:03}.png")
    return folder


@pytest.mark.filterwarnings("default::holdfast.base.notices.Notice")
def test_folders_of_images_on_both_sides(source, edited, tmp_path):
    folders = [save_folder(tmp_path / n, f) for n, f in (("a", source), ("b", edited))]
    kept = holdfast.keep(*folders)
    assert overlap_of(kept) > 0.9
    result = kept.array()
    assert_outside_is_the_source(result, source, scenes.changes(range(COUNT)))
    kept.save(tmp_path / "out.mkv")
    assert np.array_equal(scenes.read(tmp_path / "out.mkv"), result)


def test_webm_is_written_with_a_notice(source, edited, tmp_path):
    kept = keep(source, edited)
    with pytest.warns(Notice, match="cannot hold a lossless codec"):
        kept.save(tmp_path / "out.webm")
    shown = scenes.read(tmp_path / "out.webm")
    assert shown.shape == source.shape
    assert np.abs(shown.astype(float) - kept.array()).mean() < 6


def test_the_forms_of_a_result_agree(source, edited):
    kept = keep(source[:4], edited[:4])
    result = kept.array()
    assert np.array_equal(np.stack(list(kept.frames())), result)
    assert np.array_equal(np.stack([np.asarray(i) for i in kept.images()]), result)
    assert np.array_equal(np.rint(kept.tensor().permute(0, 2, 3, 1).numpy() * 255), result)
    assert kept.report["sentence"] in repr(kept)


def test_progress_is_reported_by_stage(source, edited, tmp_path):
    events = []
    kept = keep(source, edited, progress=lambda *about: events.append(about))
    kept.save(tmp_path / "out.mkv", lambda *about: events.append(about))
    stages = list(dict.fromkeys(stage for stage, _, _ in events))
    assert stages == ["align", "compare", "write", "check"]
    for stage in stages:
        steps = [(done, count) for name, done, count in events if name == stage]
        assert steps == sorted(steps)
        assert steps[-1][0] == steps[-1][1]


def test_compare_reports_what_was_done_to_the_whole_picture(source, edited):
    report = holdfast.compare(
        source, recolour(scenes.resize(edited, (112, 67))), rate=10, edited_rate=10
    )
    assert report["space"]["scale"] == pytest.approx([0.7, 67 / 96], rel=2e-3)
    assert report["colour"]["is_changed"]
    quality = report["outside"]["psnr"]
    assert quality["raw"] < quality["corrected"]
    assert report["outside"]["changed_share"]["raw"] > 0.5
    x, y, width, height = report["mask"]["box"]
    rows, columns = (
        np.flatnonzero(scenes.changes(range(COUNT)).any(axes)) for axes in ((0, 2), (0, 1))
    )
    assert (x, y) == pytest.approx((columns[0], rows[0]), abs=3)
    assert (x + width, y + height) == pytest.approx((columns[-1] + 1, rows[-1] + 1), abs=3)
    json.dumps(report)


def test_compare_of_equal_clips(source):
    report = holdfast.compare(source, source, rate=10, edited_rate=10)
    assert report["mask"]["box"] is None
    assert report["outside"]["changed_share"]["raw"] == 0
    assert report["time"]["offset"] == 0
    assert report["space"]["matrix"] == [[1, 0, 0], [0, 1, 0]]
    assert not report["colour"]["is_changed"]
    assert report["outside"]["flicker"] == 0


def test_the_clips_are_never_replaced(source, edited, tmp_path):
    files = [scenes.encode(tmp_path / n, f[:3]) for n, f in (("a.mkv", source), ("b.mkv", edited))]
    for output in files:
        before = output.read_bytes()
        with pytest.raises(UserError, match="overwrite"):
            holdfast.keep(*files, output)
        assert output.read_bytes() == before


def test_keep_has_an_argument_for_every_setting_and_writes_the_preview(tmp_path, source, edited):
    arguments = inspect.signature(holdfast.keep).parameters
    assert set(list_settings(KeepTask)) <= set(arguments)
    keep(source, edited, preview=str(tmp_path / "preview.mp4"))
    assert video.probe(tmp_path / "preview.mp4").frames == len(source)


def test_notices_in_python_name_arguments(source, edited):
    with pytest.warns(Notice, match="mask_use= has no effect"):
        keep(source, edited, mask_use="replace")
