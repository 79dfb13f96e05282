"""Title, time, place and chapters: carried over where a container can hold them, else named before the work."""

from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image

from holdfast.media import video

from .footage import encode

TAGS = {
    "title": "A title",
    "comment": "hello",
    "creation_time": "2024-05-06T07:08:09.000000Z",
    "location": "+52.5000+013.4000/",
    "make": "Apple",
    "model": "iPhone 15",
    "com.apple.quicktime.location.ISO6709": "+52.5000+013.4000/",
    "com.apple.quicktime.creationdate": "2024-05-06T09:08:09+0200",
}
CHAPTERS = [("one", 0, 500), ("two", 500, 1000)]


def described(path, flags="+use_metadata_tags", gop=2):
    """A clip with everything that a phone writes."""
    options = {"movflags": flags} if flags and path.suffix in (".mp4", ".mov") else {}
    with av.open(str(path), "w", options=options) as out:
        stream = out.add_stream("libx264", rate=8)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        stream.codec_context.options = {"g": str(gop), "bf": "0", "x264-params": "open-gop=0"}
        stream.metadata["title"] = "the picture"
        out.metadata.update(TAGS)
        base = Fraction(1, 1000)
        ids = enumerate(CHAPTERS, 1)
        out.set_chapters(
            [
                {"id": n, "start": a, "end": b, "time_base": base, "metadata": {"title": name}}
                for n, (name, a, b) in ids
            ]
        )
        for i in range(8):
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 20 * i, np.uint8), "rgb24")
            frame.pts, frame.time_base = i, Fraction(1, 8)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path


def found(path):
    """Names in lower case with values, as FFmpeg reads them; and the chapters."""
    with av.open(str(path)) as container:
        tags = {name.lower(): value for name, value in container.metadata.items()}
        chapters = [
            (c["metadata"]["title"], float(c["start"] * c["time_base"]))
            for c in container.chapters()
        ]
    return tags, chapters


@pytest.mark.parametrize("result", ["mp4", "mov", "mkv"])
@pytest.mark.parametrize("source", ["mp4", "mov", "mkv"])
def test_all_of_it_is_carried_over_whether_or_not_groups_are_copied(source, result, tmp_path):
    clip = video.probe(described(tmp_path / f"a.{source}"))
    assert not any("left out" in text for text in clip.notes)  # its chapters are no lost track
    for edited in (None, range(4, 6)):
        path = tmp_path / f"b.{result}"
        assert video.losses(path, clip) == []
        assert "metadata" in video.kept_properties(path, clip)
        how = video.write(path, clip, video.read(clip), edited=edited)
        tags, chapters = found(path)
        assert {name: tags.get(name.lower()) for name in TAGS} == TAGS
        assert chapters == [("one", 0.0), ("two", 0.5)]
        assert dict(video.probe(path).metadata.track)["title"] == "the picture"
    assert how["copied_frames"] == 6


def test_names_are_written_as_apples_programs_look_for_them(tmp_path):
    clip = video.probe(described(tmp_path / "a.mkv"))  # Matroska has them in capitals
    video.write(tmp_path / "b.mov", clip, video.read(clip))
    with av.open(str(tmp_path / "b.mov")) as container:
        assert "com.apple.quicktime.location.ISO6709" in container.metadata


def test_mp4s_own_places_are_used_where_they_hold_all_of_it(tmp_path):
    clip = video.probe(described(tmp_path / "a.mp4", flags=""))
    video.write(tmp_path / "b.mp4", clip, video.read(clip))
    assert b"\xa9nam" in (tmp_path / "b.mp4").read_bytes()
    assert found(tmp_path / "b.mp4")[0]["title"] == "A title"


@pytest.mark.parametrize("name", ["b.gif", "b", "b.webm"])
def test_what_is_lost_is_named(name, tmp_path):
    clip = video.probe(described(tmp_path / "a.mp4"))
    said = video.losses(tmp_path / name, clip)
    if name == "b.webm":
        assert said == []
        return
    assert "title" in said[-1]
    assert "com.apple.quicktime.location.ISO6709" in said[-1]
    assert "2 chapters" in said[-1]
    assert "metadata" not in video.kept_properties(tmp_path / name, clip)


def test_a_clip_without_any_says_nothing(make_clip, tmp_path):
    clip = video.probe(make_clip())
    assert video.losses(tmp_path / "b.gif", clip) == []
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "c.png")
    assert video.losses(tmp_path / "b.mp4", video.probe(tmp_path / "c.png")) == []


def test_promises_are_of_the_container(make_clip, tmp_path):
    clip = video.probe(
        make_clip(audio=1, colour={"colorspace": 1, "color_primaries": 1, "color_trc": 1})
    )
    every = ["frame count", "timestamps", "size", "sound", "colour tags"]
    assert video.kept_properties(tmp_path / "b.mp4", clip) == every
    hundredths = "timestamps to a hundredth of a second"  # an eighth is none
    assert video.kept_properties(tmp_path / "b.gif", clip) == ["frame count", hundredths, "size"]
    assert video.kept_properties(tmp_path / "b", clip) == ["frame count", "size"]
    (said,) = video.losses(tmp_path / "b.gif", clip)
    assert said == "b.gif cannot hold the source's audio, which is left out"
    fast = video.probe(make_clip("fast.mp4", rate=240))
    assert (
        "of its frames have the time of the one before" in video.losses(tmp_path / "b.gif", fast)[0]
    )


def test_a_tag_that_is_not_utf8_is_read_with_a_mark_and_named(tmp_path):
    path = encode(tmp_path / "a.avi", range(2), "mpeg4")
    data = path.read_bytes()
    at = data.index(b"ISFT") + 8  # the program's name, in the encoding of an old Windows
    path.write_bytes(data[:at] + "Видео".encode("cp1251") + data[at + 5 :])
    data = path.read_bytes().replace(b"ISFT", b"INAM")  # as the title
    path.write_bytes(data)
    clip = video.probe(path)
    assert clip.metadata.unreadable == ["title"]
    assert any("not UTF-8: title" in caution for caution in clip.cautions)
