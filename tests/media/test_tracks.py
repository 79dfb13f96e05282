"""What lies next to the picture is copied where the container takes it, and else named before any work."""

from fractions import Fraction

import av
import numpy as np
import pytest
from av.stream import Disposition
from PIL import Image

from holdfast.media import video

from ..conftest import audio_packets
from .footage import encode, rewrite, times


def unreadable_sound(path):
    """A MOV whose second track has a codec that nobody knows, as the spatial sound of phones."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=8)
        stream.width, stream.height = 64, 48
        tracks = [out.add_stream("aac", rate=44100) for _ in range(2)]
        for i in range(5):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 40 * i, np.uint8), "rgb24")
            frame.pts, frame.time_base = i, Fraction(1, 8)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
        for track in tracks:
            frame = av.AudioFrame.from_ndarray(np.zeros((2, 1024), np.float32), "fltp", "stereo")
            frame.sample_rate, frame.pts = 44100, 0
            out.mux([*track.encode(frame), *track.encode(None)])
    data = bytearray(path.read_bytes())
    entry = data.rindex(b"stsd")
    for old, new in ((b"mp4a", b"apac"), (b"esds", b"dapa")):
        place = data.index(old, entry)
        data[place : place + 4] = new
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("name", ["b.mov", "b.mp4", "b.mkv"])
def test_a_track_that_nobody_reads_is_named_and_the_others_are_kept(name, tmp_path):
    source = unreadable_sound(tmp_path / "a.mov")
    (said,) = video.losses(tmp_path / name, video.probe(source))
    assert said == f"left out: audio track 2 (codec unknown), which {name} cannot hold"
    rewrite(source, tmp_path / name)
    assert len(audio_packets(tmp_path / name)) == 1
    assert video.count_audio_tracks(tmp_path / name, video.probe(source)) == 1


def test_sound_that_another_container_keeps_is_not_left_out(tmp_path):
    source = encode(tmp_path / "a.avi", codec="mpeg4", sound="pcm_s16le")
    with pytest.raises(ValueError, match=r"hold the source's audio \(pcm_s16le\): write (.+)") as e:
        rewrite(source, tmp_path / "b.webm")
    for suffix in e.value.remedy.removeprefix("write ").split(" or "):
        assert rewrite(source, tmp_path / f"b{suffix}") == pytest.approx(times(source))
        assert len(audio_packets(tmp_path / f"b{suffix}")) == 1


def test_what_a_muxer_refuses_only_with_a_packet_is_known_before_any_work(tmp_path):
    """MP4 takes PCM of a known layout alone, which AVI does not say."""
    source = encode(tmp_path / "a.avi", codec="mpeg4", sound="pcm_s16le")
    clip = video.probe(source)
    with pytest.raises(ValueError, match=r"write \.mov or \.mkv"):
        video.check_output(tmp_path / "b.mp4", clip)


def add_tracks(source, path, cover=False, timecode="", second=False):
    with av.open(str(source)) as known, av.open(str(path), "w") as out:
        main = known.streams.video[0]
        stream = out.add_stream_from_template(main)
        if timecode:
            stream.metadata["timecode"] = timecode
        copies = [stream, *[out.add_stream_from_template(main)] * second]
        for copy in copies:
            copy.disposition = Disposition.default
        art = out.add_stream("mjpeg", rate=1) if cover else None
        if art:
            art.width, art.height, art.pix_fmt = 64, 64, "yuvj420p"
            art.disposition = Disposition.attached_pic
        for packet in (p for p in known.demux(main) if p.size):
            for copy in copies:
                packet.stream = copy
                out.mux(packet)
        if art:
            frame = av.VideoFrame.from_image(Image.new("RGB", (64, 64), (9, 80, 200)))
            out.mux([*art.encode(frame.reformat(format="yuvj420p")), *art.encode(None)])
    return path


def kinds(path):
    return [str(track) for track in video.probe(path).tracks]


def test_a_cover_is_no_clip_and_goes_along(tmp_path):
    source = add_tracks(encode(tmp_path / "plain.mp4"), tmp_path / "a.mp4", cover=True)
    clip = video.probe(source)
    assert (clip.frames, clip.size) == (9, (64, 48))
    for name in ("b.mp4", "b.mkv"):
        assert video.losses(tmp_path / name, clip) == []
        assert rewrite(source, tmp_path / name) == pytest.approx(times(source))
        assert kinds(tmp_path / name) == ["cover track 1 (mjpeg)"]
    (said,) = video.losses(tmp_path / "b.mov", clip)  # which takes it, and does not write it
    assert said.startswith("left out: cover track 1 (mjpeg), which b.mov cannot hold; .mp4 or")


def test_a_song_with_a_cover_is_no_clip(tmp_path):
    with av.open(str(tmp_path / "a.mp4"), "w") as out:
        art = out.add_stream("mjpeg", rate=1)
        art.width, art.height, art.pix_fmt, art.disposition = (
            64,
            64,
            "yuvj420p",
            Disposition.attached_pic,
        )
        sound = out.add_stream("aac", rate=44100)
        frame = av.AudioFrame.from_ndarray(np.zeros((2, 1024), np.float32), "fltp", "stereo")
        frame.sample_rate, frame.pts = 44100, 0
        out.mux([*sound.encode(frame), *sound.encode(None)])
        out.mux([*art.encode(av.VideoFrame(64, 64, "yuvj420p")), *art.encode(None)])
    with pytest.raises(ValueError, match="no video track, only a cover picture"):
        video.probe(tmp_path / "a.mp4")


def test_a_second_picture_is_copied_and_the_first_stays_the_clip(tmp_path):
    source = add_tracks(encode(tmp_path / "plain.mp4"), tmp_path / "a.mp4", second=True)
    for name in ("b.mp4", "b.mkv"):
        rewrite(source, tmp_path / name)
        assert kinds(tmp_path / name) == ["video track 1 (h264)"]
        with av.open(str(tmp_path / name)) as container:
            assert [bool(s.disposition & 1) for s in container.streams.video] == [True, False]
    (said,) = video.losses(tmp_path / "b.webm", video.probe(source))
    assert "left out: video track 1 (h264), which b.webm cannot hold" in said


def test_a_timecode_is_kept(tmp_path):
    plain = encode(tmp_path / "plain.mp4")
    source = add_tracks(plain, tmp_path / "a.mov", timecode="10:00:00:00")
    clip = video.probe(source)
    for name in ("b.mov", "b.mp4", "b.mkv", "b.webm"):
        assert video.losses(tmp_path / name, clip) == []
        rewrite(source, tmp_path / name)
        assert video.probe(tmp_path / name).timecode.startswith("10:00:00:0")
    assert "left out: the timecode 10:00:00:0" in video.losses(tmp_path / "b.gif", clip)[0]
