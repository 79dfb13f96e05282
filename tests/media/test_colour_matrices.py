"""Colour tags: every matrix is converted, refused or announced, and unusual tags go into the result."""

import av
import numpy as np
import pytest

from holdfast.base.errors import UserError
from holdfast.media import colour_matrices, video

COLOUR = (200, 60, 30)
READ = {1: 1, 2: 5, 4: 4, 5: 5, 6: 5, 7: 7, 9: 9}  # FFmpeg's own conversion of each
REFUSED = (8, 10, 11, 13, 14, 15, 16, 17)


def tagged(path, space=2, primaries=2, trc=2, matrix=5, pixels="yuv444p", codec="libx264"):
    with av.open(str(path), "w") as out:
        stream = out.add_stream(codec, rate=8)
        stream.width, stream.height, stream.pix_fmt = 64, 48, pixels
        context = stream.codec_context
        context.colorspace, context.color_primaries, context.color_trc = space, primaries, trc
        frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), COLOUR, np.uint8), "rgb24")
        frame = frame.reformat(format=pixels, dst_colorspace=matrix)
        frame.pts = 0
        for packet in (*stream.encode(frame), *stream.encode(None)):
            out.mux(packet)
    return path


@pytest.mark.parametrize("space", READ)
def test_a_matrix_that_is_known_gives_the_colours_that_were_stored(space, tmp_path):
    clip = video.probe(tagged(tmp_path / "a.mp4", space, matrix=READ[space]))
    assert clip.cautions == ()
    assert np.abs(next(video.read(clip)).astype(int) - COLOUR).max() <= 3
    video.write(tmp_path / "b.mp4", clip, video.read(clip))
    assert video.probe(tmp_path / "b.mp4").colour["space"] == space


@pytest.mark.parametrize("space", REFUSED)
def test_a_matrix_that_is_not_converted_is_refused_with_its_name(space, tmp_path):
    with pytest.raises(UserError, match=rf"matrix {space}\), which is not supported.*zscale"):
        video.probe(tagged(tmp_path / "a.mkv", space, codec="ffv1"))


def test_one_that_follows_from_the_primaries_is_read_where_they_are_known(tmp_path):
    clip = video.probe(tagged(tmp_path / "a.mp4", 12, primaries=9, matrix=9))
    assert np.abs(next(video.read(clip)).astype(int) - COLOUR).max() <= 3
    with pytest.raises(UserError, match="matrix 12"):
        video.probe(tagged(tmp_path / "b.mp4", 12, primaries=5))


def test_a_tag_without_meaning_is_announced(tmp_path):
    clip = video.probe(tagged(tmp_path / "a.mkv", 0, codec="ffv1"))
    assert "means RGB" in clip.cautions[0]
    (said,) = colour_matrices.check_matrix(
        tmp_path, {"space": 3}
    )  # which FFmpeg itself writes nowhere
    assert "has no meaning" in said


@pytest.mark.parametrize("suffix", ["mp4", "mov", "mkv", "webm"])
@pytest.mark.parametrize(
    ("primaries", "trc"), [(9, 16), (9, 18), (12, 13), (4, 4), (10, 8), (1, 11)]
)
def test_unusual_primaries_and_transfers_stay_as_tags(primaries, trc, suffix, tmp_path):
    clip = video.probe(tagged(tmp_path / "a.mp4", 1, primaries, trc, 1))
    path = tmp_path / f"b.{suffix}"
    assert "colour tags" in video.kept_properties(path, clip)
    video.write(path, clip, video.read(clip))
    written = video.probe(path).colour
    assert (written["primaries"], written["trc"], written["space"]) == (primaries, trc, 1)


def test_colour_tags_that_change_how_it_looks_are_announced_where_they_are_lost(tmp_path):
    clip = video.probe(tagged(tmp_path / "a.mp4", 9, 9, 16, 9))
    assert "primaries 9, trc 16" in video.losses(tmp_path / "b.gif", clip)[0]
    assert "colour tags" not in video.kept_properties(tmp_path / "b.gif", clip)
    assert video.losses(tmp_path / "b.gif", video.probe(tagged(tmp_path / "c.mp4", 1, 1, 1))) == []
