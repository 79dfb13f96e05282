"""Clips come out as they went in: what each kind of clip keeps, read back by PyAV itself; and what bad files get."""

from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image

from holdfast.media import video

from ..conftest import audio_packets, picture

CASES = {
    "plain": {},
    "odd size": {"size": (51, 37), "pixels": "yuv444p"},
    "portrait by rotation": {"rotation": 90},
    "upside down": {"rotation": 180},
    "variable rate": {"times": [0, 40, 120, 133, 300, 1000]},
    "29.97": {"rate": Fraction(30000, 1001)},
    "10-bit": {"pixels": "yuv420p10le"},
    "two audio tracks": {"audio": 2, "frames": 12},
    "full range": {
        "colour": {"color_range": 2, "colorspace": 1, "color_primaries": 1, "color_trc": 1}
    },
    "601 tags": {
        "colour": {"color_range": 1, "colorspace": 6, "color_primaries": 6, "color_trc": 6}
    },
    "MPEG-4 part 2": {"codec": "mpeg4"},
    "4:2:2": {"pixels": "yuv422p"},
    "turned pixels": {"rotation": 90, "colour": {"sample_aspect_ratio": Fraction(4, 3)}},
    "late start": {"times": [80, 120, 160, 200, 240, 280]},
}


def described(path):
    """What a player would be told, from PyAV and not from our reader."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        context, frames = stream.codec_context, list(container.decode(video=0))
        return {
            "times": [f.pts * stream.time_base for f in frames],
            "rate": stream.average_rate,
            "size": (context.width, context.height),
            "rotation": frames[0].rotation,
            "aspect": stream.sample_aspect_ratio,
            "depth": frames[0].format.components[0].bits,
            "colour": (
                context.color_range,
                context.colorspace,
                context.color_primaries,
                context.color_trc,
            ),
            "audio": [
                (a.codec_context.name, a.codec_context.sample_rate, a.codec_context.channels)
                for a in container.streams.audio
            ],
        }


@pytest.mark.parametrize("case", CASES)
def test_what_comes_in_goes_out(case, make_clip, tmp_path):
    source = make_clip(**CASES[case])
    clip = video.probe(source)
    result = tmp_path / "out.mp4"
    video.write(result, clip, video.read(clip))
    before, after = described(source), described(result)
    if (
        "times" in CASES[case]
    ):  # with B-frames a file's average rate depends on which packet comes last; the times are what counts
        before["rate"] = after["rate"]
    assert after == before
    assert audio_packets(result) == audio_packets(source)
    pairs = zip(video.read(clip), video.read(video.probe(result)), strict=True)
    peak = np.iinfo(np.uint8 if clip.bits == 8 else np.uint16).max
    worst = max(np.square((a.astype(float) - b) / peak).mean() for a, b in pairs)
    assert worst < 1e-3, (
        f"{-10 * np.log10(worst):.1f} dB"
    )  # over 30 dB on tiny frames: chroma is halved twice
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


@pytest.mark.parametrize("name", ["out.mkv", "out.mov", "out.webm", "out.gif", "frames"])
def test_containers(name, make_clip, tmp_path):
    clip = video.probe(make_clip(frames=5))
    video.write(tmp_path / name, clip, video.read(clip))
    back = video.probe(tmp_path / name)
    assert (back.frames, back.size) == (clip.frames, clip.size)
    if name != "frames":  # a folder has no times
        assert [float(t * back.time_base) for t in back.times] == pytest.approx(
            [float(t * clip.time_base) for t in clip.times], abs=0.006
        )


def test_frames_that_were_never_a_video_keep_every_bit_of_their_rgb(tmp_path):
    frames = list(np.random.default_rng(0).integers(0, 255, (3, 32, 48, 3), np.uint8))
    video.write_frames(tmp_path / "a.mp4", frames, 8, "lossless")
    back = list(video.read(video.probe(tmp_path / "a.mp4")))
    assert np.array_equal(frames, back)


def test_rotation_is_applied_for_reading(make_clip):
    """The picture of a rotated clip is read upright: its displayed size, turned back against the tag."""
    plain, turned = video.probe(make_clip("a.mp4")), video.probe(make_clip("b.mp4", rotation=90))
    assert turned.size == plain.size[::-1]
    assert np.array_equal(np.rot90(next(video.read(plain))), next(video.read(turned)))


def test_colour_matrix_and_range_are_honoured(make_clip):
    """The same picture under different tags reads as the same colours only if the tags are used."""
    tags = {"colorspace": 1, "color_range": 2}
    source = make_clip("a.mp4", colour=tags, pixels="yuv444p")
    clip = video.probe(source)
    wrong = video.Clip(**{**vars(clip), "colour": {"space": 5, "range": 1}})
    right, other = next(video.read(clip)).astype(int), next(video.read(wrong)).astype(int)
    assert np.abs(right - other).max() > 20
    narrow = video.probe(make_clip("b.mp4", pixels="yuv444p"))
    full = video.Clip(**{**vars(narrow), "colour": narrow.colour | {"range": 2}})
    right, other = next(video.read(narrow)).astype(int), next(video.read(full)).astype(int)
    assert np.abs(right - other).max() > 8


def test_an_rgb_source_keeps_its_colours_in_h264(tmp_path):
    """Its tag says RGB, which the YUV result must not."""
    clip = video.probe(write_flat(tmp_path / "a.mp4", (200, 40, 30)))
    assert clip.pixel_format.startswith("gbr")
    video.write(tmp_path / "b.mp4", clip, video.read(clip))
    assert (
        np.abs(next(video.read(video.probe(tmp_path / "b.mp4"))).astype(int) - (200, 40, 30)).max()
        < 6
    )


def write_flat(path, colour):
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264rgb", rate=8, options={"qp": "0"})
        stream.width, stream.height, stream.pix_fmt = 32, 32, "rgb24"
        frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), colour, np.uint8), "rgb24")
        out.mux([*stream.encode(frame), *stream.encode(None)])
    return path


def test_a_still_gif_keeps_its_frames(tmp_path):
    clip = video.Clip(tmp_path, (16, 16), Fraction(10), Fraction(1, 10), tuple(range(6)), (1,) * 6)
    video.write(tmp_path / "a.gif", clip, [np.full((16, 16, 3), 90, np.uint8)] * 6)
    assert video.probe(tmp_path / "a.gif").frames == 6


def test_images_are_read_upright_and_at_their_depth(tmp_path):
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(picture(0, 20, 10)).save(tmp_path / "turned.jpg", exif=exif)
    assert video.probe(tmp_path / "turned.jpg").size == (10, 20)
    Image.fromarray(np.full((4, 4), 128 * 256, np.uint16)).save(tmp_path / "deep.png")
    assert next(video.read(video.probe(tmp_path / "deep.png"))).max() == 128 * 256


def test_image_folder_in_natural_order(tmp_path):
    folder = tmp_path / "frames"
    folder.mkdir()
    for i in (1, 2, 10):
        Image.fromarray(np.full((8, 12, 3), 20 * i, np.uint8)).quantize(4).save(
            folder / f"f{i}.png"
        )
    clip = video.probe(folder)
    assert [int(f[0, 0, 0]) for f in video.read(clip)] == [20, 40, 200]
    video.write(tmp_path / "out", clip, video.read(clip))
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["f1.png", "f10.png", "f2.png"]


def test_single_image(tmp_path):
    Image.fromarray(picture(0, 20, 10)).save(tmp_path / "a.png")
    clip = video.probe(tmp_path / "a.png")
    assert (clip.frames, clip.size) == (1, (20, 10))
    video.write(tmp_path / "b.png", clip, video.read(clip))
    assert np.array_equal(np.asarray(Image.open(tmp_path / "b.png")), picture(0, 20, 10))


def bad_files(tmp_path, make_clip):
    whole = make_clip("whole.mp4", frames=40, size=(160, 120)).read_bytes()
    header = whole.rindex(b"moov") > whole.index(
        b"mdat"
    )  # PyAV writes the index last: a cut file has none
    assert header
    from_start = make_clip("whole.mkv", frames=40, size=(160, 120)).read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "noise.mp4").write_bytes(bytes(range(256)) * 40)
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "head.mkv").write_bytes(from_start[:300])
    (tmp_path / "half.mkv").write_bytes(from_start[: len(from_start) // 2])
    (tmp_path / "text.txt").write_text("not a video")
    (tmp_path / "none").mkdir()
    (tmp_path / "mixed").mkdir()
    for i in (1, 2):
        Image.new("RGB", (8 * i, 8)).save(tmp_path / "mixed" / f"{i}.png")
    with av.open(str(tmp_path / "sound.mp4"), "w") as out:
        from ..conftest import write_tone

        write_tone(out, out.add_stream("aac", rate=44100), 440, 0.2)
    return [
        "absent.mp4",
        "cut.mp4",
        "noise.mp4",
        "empty.mp4",
        "head.mkv",
        "half.mkv",
        "text.txt",
        "none",
        "mixed",
        "sound.mp4",
    ]


def test_bad_files_are_named_and_explained(tmp_path, make_clip):
    for name in bad_files(tmp_path, make_clip):
        with pytest.raises(ValueError, match=name) as caught:
            video.probe(tmp_path / name)
        assert len(str(caught.value)) > len(str(tmp_path / name)) + 10


def test_a_clip_cut_short_behind_its_index_is_refused(tmp_path, make_clip):
    """The index says 40 frames, the data ends earlier."""
    clip = video.probe(make_clip("whole.mp4", frames=40, size=(160, 120)))
    video.write(tmp_path / "fast.mp4", clip, video.read(clip))  # our writer puts the index first
    data = (tmp_path / "fast.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(data[: len(data) * 2 // 3])
    with pytest.raises(ValueError, match=r"truncated|damaged"):
        video.probe(tmp_path / "cut.mp4")


def test_nothing_stays_behind_when_writing_fails(make_clip, tmp_path):
    clip = video.probe(make_clip())

    def broken():
        yield next(video.read(clip))
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        video.write(tmp_path / "out.mp4", clip, broken())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["clip.mp4"]


def test_what_cannot_be_written_is_refused(make_clip, tmp_path):
    clip = video.probe(make_clip(audio=1))
    with pytest.raises(ValueError, match=r"use \.mp4"):
        video.write(tmp_path / "out.xyz", clip, video.read(clip))
    with pytest.raises(ValueError, match="unknown codec"):
        video.write(tmp_path / "out.mp4", clip, video.read(clip), codec="h263")
    with pytest.raises(ValueError, match=r"ffv1.*\.mkv"):
        video.write(tmp_path / "out.mp4", clip, video.read(clip), codec="ffv1")
    with pytest.raises(ValueError, match=r"audio \(aac\)"):
        video.write(tmp_path / "out.webm", clip, video.read(clip))
