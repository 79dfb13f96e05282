"""What an edit did not touch leaves as it came: the file's own samples, read back by PyAV and not by our reader."""

import os

import av
import numpy as np
import pytest

from holdfast.media import samples, video
from holdfast.pipeline import verification

BOX = (slice(7, 21), slice(9, 30))  # rows and columns, neither on the chroma's grid


def planes(path):
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
    return frames[0].format.name, [
        [samples.plane_array(f, n).copy() for n in range(len(f.planes))] for f in frames
    ]


def edited(clip, box=BOX):
    """The clip with noise in a box, which is where the edit shows in the frames as they are seen."""
    generator = np.random.default_rng(0)
    width, height = clip.size
    kind = np.uint8 if clip.bits == 8 else np.uint16
    alpha = np.zeros((height, width), np.float32)
    alpha[box] = 1
    for own, rgb in zip(video.read_stored(clip), video.read(clip), strict=True):
        made = generator.integers(0, np.iinfo(kind).max, rgb.shape, kind)
        whole = np.where(alpha[..., None] > 0, made, rgb)
        yield video.OutputFrame(lambda whole=whole: whole, own, made, alpha)


def outside(shape, size, box=BOX):
    """Samples of a plane of which some pixel is outside the box; as they are stored."""
    inside = np.zeros(size, bool)
    inside[box] = True
    rows, columns = (np.arange(n) * -(-side // n) for n, side in zip(shape, size, strict=True))
    steps = [-(-side // n) for n, side in zip(shape, size, strict=True)]
    found = np.zeros(shape, bool)
    for i in range(shape[0]):
        for j in range(shape[1]):
            cell = inside[rows[i] : rows[i] + steps[0], columns[j] : columns[j] + steps[1]]
            found[i, j] = not cell.all()
    return found


LOSSLESS = {
    "8-bit 4:2:0": ({}, "mp4"),
    "8-bit 4:2:2": ({"pixels": "yuv422p"}, "mp4"),
    "8-bit 4:4:4, odd": ({"pixels": "yuv444p", "size": (51, 37)}, "mp4"),
    "10-bit 4:2:0": ({"pixels": "yuv420p10le"}, "mp4"),
    "10-bit 4:2:2": ({"pixels": "yuv422p10le"}, "mp4"),
    "10-bit 4:4:4": ({"pixels": "yuv444p10le"}, "mkv"),
    "full range": ({"colour": {"color_range": 2, "colorspace": 1}}, "mp4"),
    "full range in its name": ({"pixels": "yuvj420p", "codec": "mjpeg"}, "mov"),
    "12-bit": ({"pixels": "yuv420p12le", "codec": "ffv1"}, "mkv"),
    "grey": ({"pixels": "gray", "codec": "ffv1"}, "mp4"),
    "4:1:1": ({"pixels": "yuv411p", "codec": "ffv1"}, "mkv"),
    "with opacity": ({"pixels": "yuva444p", "codec": "ffv1"}, "mkv"),
}


@pytest.mark.parametrize("case", LOSSLESS)
def test_lossless_keeps_every_sample_outside(case, make_clip, tmp_path):
    about, suffix = LOSSLESS[case]
    about = {"frames": 3} | about
    source = make_clip(f"a.{'mkv' if about.get('codec') == 'ffv1' else 'mp4'}", **about)
    clip = video.probe(source)
    result = tmp_path / f"out.{suffix}"
    video.write(result, clip, edited(clip), codec="lossless")
    (name, before), (after_name, after) = planes(source), planes(result)
    if case != "grey":  # which FFmpeg decodes from H.264 with neutral chroma beside it
        assert samples.strip_range_prefix(after_name) == samples.strip_range_prefix(name)
    height, width = before[0][0].shape
    for one, other in zip(before, after, strict=True):
        for n, (a, b) in enumerate(zip(one, other, strict=case != "grey")):
            keep = outside(a.shape, (height, width))
            assert np.array_equal(a[keep], b[keep])
            if n == 0:
                assert not np.array_equal(a, b)  # and the edit is there
    if "opacity" in case:
        assert all(np.array_equal(a[3], b[3]) for a, b in zip(before, after, strict=True))


def test_untouched_frames_are_the_sources_whatever_is_in_them(make_clip, tmp_path):
    source = make_clip(frames=3)
    clip = video.probe(source)
    untouched = (
        video.OutputFrame(None, own) for own in video.read_stored(clip)
    )  # never asked for RGB
    video.write(tmp_path / "out.mp4", clip, untouched, codec="lossless")
    for one, other in zip(planes(source)[1], planes(tmp_path / "out.mp4")[1], strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("rotation", [90, 180, 270])
def test_a_rotated_clip_keeps_its_stored_orientation(rotation, make_clip, tmp_path):
    source = make_clip(rotation=rotation, frames=3)
    clip = video.probe(source)
    result = tmp_path / "out.mp4"
    video.write(result, clip, edited(clip), codec="lossless")
    (_, before), (_, after) = planes(source), planes(result)
    assert video.probe(result).rotation == rotation
    width, height = clip.size
    inside = np.zeros((height, width), bool)
    inside[BOX] = True
    stored = np.rot90(inside, -(rotation // 90))
    for one, other in zip(before, after, strict=True):
        assert np.array_equal(one[0][~stored], other[0][~stored])
        changed = one[0][stored] != other[0][stored]
        assert changed.mean() > 0.9


@pytest.mark.parametrize(
    ("codec", "suffix", "pixels"),
    [
        ("h264", "mp4", "yuv420p"),
        ("h265", "mp4", "yuv420p"),
        ("vp9", "webm", "yuv420p"),
        ("av1", "mp4", "yuv420p10le"),
        ("prores", "mov", "yuv422p10le"),
    ],
)
def test_codecs_keep_layout_and_come_close_outside(codec, suffix, pixels, make_clip, tmp_path):
    source = make_clip(frames=3, pixels=pixels, size=(128, 96))
    clip = video.probe(source)
    result = tmp_path / f"out.{suffix}"
    video.write(result, clip, edited(clip), codec=codec)
    (name, before), (after_name, after) = planes(source), planes(result)
    assert after_name == name
    peak = 2 ** max(c.bits for c in av.VideoFormat(name).components) - 1
    keep = outside((96, 128), (96, 128))
    square = [
        np.square((a[0].astype(float) - b[0])[keep] / peak).mean()
        for a, b in zip(before, after, strict=True)
    ]
    assert -10 * np.log10(np.mean(square)) > 42  # noise beside it is the worst there is


def test_a_feathered_edit_mixes_in_the_samples():
    alpha = np.array([[0, 0.5, 1, 1]] * 2, np.float32)
    assert samples.downsample_weight(alpha, (2, 4)) is alpha
    assert samples.downsample_weight(alpha, (1, 2)).tolist() == [[0, 1]]
    assert samples.downsample_weight(np.ones((3, 5), np.float32), (2, 3)).min() == 1
    own, made = (av.VideoFrame(4, 2, "yuv420p") for _ in range(2))
    for frame, value in ((own, 100), (made, 200)):
        for n in range(3):
            samples.plane_array(frame, n)[:] = value
    samples.blend_planes(made, own, alpha)
    assert samples.plane_array(own, 0).tolist() == [[100, 150, 200, 200]] * 2
    assert samples.plane_array(own, 1).tolist() == [[100, 200]]


def test_odd_sides_of_halved_chroma_are_kept_where_a_codec_has_them(make_clip, tmp_path):
    source = make_clip("a.mkv", frames=3, size=(51, 37), codec="ffv1")
    clip = video.probe(source)
    with pytest.raises(
        ValueError, match=r"\.mp4 cannot hold lossless \(here ffv1, for yuv420p\): write \.mkv"
    ):
        video.check_output(tmp_path / "out.mp4", clip, "lossless")
    video.write(tmp_path / "out.mkv", clip, edited(clip), codec="lossless")
    for one, other in zip(planes(source)[1], planes(tmp_path / "out.mkv")[1], strict=True):
        keep = outside((37, 51), (37, 51))
        assert np.array_equal(one[0][keep], other[0][keep])


def test_what_an_encoder_cannot_take_is_said_before_any_work(make_clip, tmp_path):
    clip = video.probe(make_clip(size=(48, 32)))
    for codec in ("h265", "av1"):
        with pytest.raises(ValueError, match="64 pixels a side"):
            video.check_output(tmp_path / "out.mp4", clip, codec)
    odd = video.probe(make_clip("b.mp4", size=(97, 73), pixels="yuv444p"))
    with pytest.raises(ValueError, match="av1 cannot encode 97x73"):
        video.check_output(tmp_path / "out.mp4", odd, "av1")


def test_an_edited_frame_does_not_show_in_those_predicted_from_it(make_clip, tmp_path):
    source = make_clip(frames=40, size=(128, 96), options={"crf": "18", "bf": "0", "g": "40"})
    clip = video.probe(source)

    def every_second():
        for i, shown in enumerate(edited(clip, (slice(0, 96), slice(0, 128)))):
            yield shown if i % 2 == 0 else video.OutputFrame(None, shown.source)

    video.write(tmp_path / "out.mp4", clip, every_second(), codec="lossless")
    (_, before), (_, after) = planes(source), planes(tmp_path / "out.mp4")
    for one, other in list(zip(before, after, strict=True))[1::2]:
        assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def test_kinds_of_frames_are_the_encoders_own(make_clip, tmp_path):
    clip = video.probe(make_clip(frames=12, options={"g": "1", "crf": "18"}))
    untouched = (video.OutputFrame(None, own) for own in video.read_stored(clip))
    video.write(tmp_path / "out.mp4", clip, untouched)
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert [p.is_keyframe for p in container.demux(video=0) if p.size].count(True) == 1


def test_writing_av1_leaves_the_process_as_it_was_scheduled(tmp_path):
    """Run by root, SVT-AV1 makes the thread that opens it a real-time one."""
    before = os.sched_getscheduler(0)
    video.write_frames(tmp_path / "a.mp4", [np.zeros((64, 64, 3), np.uint8)] * 2, 8, "av1")
    assert os.sched_getscheduler(0) == before


@pytest.mark.parametrize(
    ("codec", "layout", "name", "kept"),
    [
        ("rawvideo", "yuyv422", "a.avi", "yuv422p"),
        ("rawvideo", "nv12", "a.avi", "yuv420p"),
        ("v408", "yuva444p", "a.mov", "yuv444p"),  # all of it is opaque
        ("png", "gray16be", "a.mov", "gray16le"),
    ],
)
def test_packed_samples_are_unpacked_and_no_other(codec, layout, name, kept, tmp_path):
    source = write_layout(tmp_path / name, codec, layout)
    clip, path = video.probe(source), tmp_path / "made.mkv"
    assert video.is_lossless(path, clip, "ffv1")
    video.write(path, clip, edited(clip), "ffv1")
    assert video.probe(path).pixel_format == kept
    alpha = np.zeros(clip.size[::-1], np.float32)
    alpha[BOX] = 1
    assert verification.measure_file(clip, path, [alpha] * 2)["samples_equal_outside"]


def test_grey_with_opacity_in_one_plane_is_edited_where_the_mask_is(tmp_path):
    clip = video.probe(write_layout(tmp_path / "a.mov", "png", "ya8"))
    path = tmp_path / "made.mkv"
    assert not video.is_lossless(path, clip, "ffv1")
    video.write(path, clip, edited(clip), "ffv1")
    pairs = zip(video.read(clip), video.read(video.probe(path)), strict=True)
    apart = np.max([np.abs(a.astype(int) - b).max(2) for a, b in pairs], axis=0) > 4
    rows, columns = np.nonzero(apart)
    found, box = (rows.min(), rows.max(), columns.min(), columns.max()), (7, 20, 9, 29)
    assert max(abs(a - b) for a, b in zip(found, box, strict=True)) <= 2  # a player spreads chroma


def write_layout(path, codec, layout):
    """Two frames of noise in a layout of samples, as capture programs write them."""
    generator = np.random.default_rng(1)
    with av.open(str(path), "w") as out:
        stream = out.add_stream(codec, rate=8)
        stream.width, stream.height, stream.pix_fmt = 48, 32, layout
        for number in range(2):
            array = generator.integers(30, 220, (32, 48, 3), np.uint8)
            frame = av.VideoFrame.from_ndarray(array, "rgb24").reformat(format=layout)
            frame.pts = number
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path
