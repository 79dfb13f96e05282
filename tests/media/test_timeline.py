"""The result plays like its source, whatever the file does to the times of its frames."""

import itertools
from fractions import Fraction

import av
import numpy as np
import pytest

from holdfast.media import completeness, timeline, video

from ..conftest import audio_packets
from . import footage
from .footage import encode, every, remux, rewrite, sound_times, times

CLOCK = 16384  # ticks a second of an MP4 of eight frames a second
NO_B = {"bf": "0"}


@pytest.mark.parametrize(
    ("shown", "want"),
    [
        ((0, 4, 8, 12), (0, 4, 8, 12)),
        ((0, 4, 8, 8, 12), (0, 4, 8, 9, 12)),
        ((8, 8), (8, 9)),
        ((0, 4, 2, 12, 16), (0, 4, 8, 12, 16)),  # one is too early
        ((0, 4, 90, 12, 16), (0, 4, 8, 12, 16)),  # one is too late
        ((0, 12, 4, 8, 24, 16, 20), (0, 4, 8, 12, 16, 20, 24)),  # those of the order of decoding
        ((40, 44, 48, 40, 44, 48), (40, 44, 48, 52, 56, 60)),  # two recordings in one file
        ((None, None, 0, 4), (-8, -4, 0, 4)),
        ((0, None, None, 12), (0, 4, 8, 12)),
        ((None, None, None), (0, 4, 8)),
    ],
)
def test_times_rise_and_stay_near_the_true_ones(shown, want):
    found = timeline.build_timeline(shown, (), 4)
    assert (found.times, found.scale) == (want, 1)
    assert bool(found.repair) == (shown != want)


def test_frames_of_one_time_lie_apart_by_what_every_container_tells():
    found = timeline.build_timeline((0, 11250, 11250, 22500), (), 11250, min_gap=90)
    assert found.times == (0, 11250, 11340, 22500)
    assert timeline.build_timeline((0, 60, 60, 60, 120), (), 60, min_gap=90).times == (
        0,
        60,
        80,
        100,
        120,
    )


def test_equal_times_of_a_coarse_clock_get_a_finer_one():
    found = timeline.build_timeline((0, 1, 1, 1, 2), (), 1)
    assert [t / found.scale for t in found.times] == pytest.approx([0, 1, 4 / 3, 5 / 3, 2])


def test_where_a_file_begins():
    tick = Fraction(1, 1000)
    assert timeline.time_origin(80, tick, [Fraction(0)]) == 0
    assert timeline.time_origin(36_000_040, tick, [Fraction(36_000)]) == 36_000
    assert (
        timeline.time_origin(36_000_000, tick, [Fraction(0)]) == 0
    )  # its sound plays from the start
    assert timeline.time_origin(-500, tick, [Fraction(-1, 4)]) == Fraction(-1, 2)


def test_a_rate_that_its_times_deny_is_not_believed():
    tick = Fraction(1, 1000)
    assert timeline.mean_rate((0, 125, 250, 375), tick, Fraction(1000)) == 8
    assert timeline.mean_rate((0, 125, 250, 9000), tick, Fraction(8)) == 8
    assert timeline.mean_rate((0, 33, 67, 100), tick, Fraction(30000, 1001)) == Fraction(
        30000, 1001
    )
    assert timeline.mean_rate((0,), tick, None) == 25


@pytest.mark.parametrize("rate", [1000, Fraction(1, 20)])
def test_an_encoder_that_knows_no_such_rate_keeps_the_times(rate, tmp_path):
    frames = [np.full((64, 64, 3), 50 * i, np.uint8) for i in range(4)]
    video.write_frames(tmp_path / "a.mp4", frames, rate, "av1")
    assert times(tmp_path / "a.mp4") == pytest.approx([float(i / rate) for i in range(4)])


@pytest.mark.parametrize("codec", ["mpeg4", "libx264"])
def test_frames_that_a_capture_dropped_are_no_truncation(codec, tmp_path):
    numbers = [n for n in range(13) if n not in (4, 5, 9)]
    source = encode(tmp_path / "a.avi", numbers, codec, NO_B)
    assert rewrite(source, tmp_path / "b.mp4") == pytest.approx(times(source))
    assert codec == "libx264" or times(source) == every(
        numbers
    )  # FFmpeg shows H.264 one frame later
    assert any("3 of 13 frames" in text for text in video.probe(source).notes)


def test_an_avi_that_breaks_off_is_refused_whether_frames_were_dropped_or_not(tmp_path):
    numbers = [n for n in range(19) if n not in (4, 5, 9)]
    data = encode(tmp_path / "a.avi", numbers, "mpeg4").read_bytes()
    begin, end = data.index(b"movi"), data.rindex(b"idx1")
    (tmp_path / "cut.avi").write_bytes(data[: begin + (end - begin) * 3 // 4])
    assert completeness.is_complete(tmp_path / "a.avi")
    with pytest.raises(ValueError, match="truncated: it announces 19 frames, but only"):
        video.probe(tmp_path / "cut.avi")


def test_b_frames_in_avi_take_turns(tmp_path):
    """It stores when a frame is decoded, and FFmpeg's guess of when it is shown does not rise."""
    source = encode(tmp_path / "a.avi", range(13), options={"bf": "3", "b-adapt": "0"})
    assert times(source) != sorted(times(source))
    assert rewrite(source, tmp_path / "b.mp4") == pytest.approx(every(range(13)))
    assert "take the times of decoding" in video.probe(source).cautions[0]


def test_a_bare_stream_has_the_rate_that_its_header_says(tmp_path):
    source = encode(tmp_path / "a.h264", range(13))
    assert rewrite(source, tmp_path / "b.mp4") == pytest.approx(every(range(13)))


def test_two_frames_of_one_time_are_both_kept(tmp_path):
    plain = encode(tmp_path / "a.mp4", options=NO_B)
    source = remux(plain, tmp_path / "a.mkv", lambda n, p: -CLOCK // 8 if n > 4 else 0)
    assert len(set(times(source))) == 8
    found = rewrite(source, tmp_path / "b.mp4")
    assert found == pytest.approx(every([0, 1, 2, 3, 4, 4, 5, 6, 7]), abs=0.002)
    assert all(b > a for a, b in itertools.pairwise(found))


@pytest.mark.parametrize("name", ["a.ts", "a.mkv", "a.mp4"])
def test_a_clip_that_starts_hours_after_zero_starts_at_once(name, tmp_path):
    plain = encode(tmp_path / "plain.mp4", options=NO_B, sound="aac")
    hours = 36_000
    source = remux(plain, tmp_path / name, lambda n, p: round(hours / p.time_base))
    gap = sound_times(source)[0] - times(source)[0]
    for result in (tmp_path / "b.mp4", tmp_path / "b.mkv"):
        found = rewrite(source, result)
        assert found[0] < 0.1
        assert found == pytest.approx(every(range(9), found[0]), abs=0.001)
        assert sound_times(result)[0] - found[0] == pytest.approx(gap, abs=0.002)
        assert len(audio_packets(result)[0][1]) == len(audio_packets(source)[0][1])


def test_frames_before_zero_are_shown(tmp_path):
    plain = encode(tmp_path / "plain.mp4", options=NO_B)
    early = {"avoid_negative_ts": "disabled"}
    source = remux(plain, tmp_path / "a.mkv", lambda n, p: -CLOCK // 2, early)
    assert rewrite(source, tmp_path / "b.mp4") == pytest.approx(every(range(9)))


def test_what_an_encoder_puts_before_the_sound_moves_nothing(tmp_path):
    source = encode(tmp_path / "a.mp4", options=NO_B, sound="aac")
    assert rewrite(source, tmp_path / "b.mkv") == pytest.approx(times(source))
    assert sound_times(tmp_path / "b.mkv") == pytest.approx(sound_times(source), abs=0.001)
    assert rewrite(tmp_path / "b.mkv", tmp_path / "c.mkv") == pytest.approx(times(source))


def test_a_delay_that_matroska_says_itself_is_kept(tmp_path):
    source = encode(tmp_path / "a.mkv", options=NO_B, sound="aac")
    for name in ("b.mkv", "b.mp4"):
        assert rewrite(source, tmp_path / name) == pytest.approx(times(source))
        assert sound_times(tmp_path / name) == pytest.approx(sound_times(source), abs=0.001)


def test_two_recordings_in_one_file_follow_each_other_with_their_sound(tmp_path):
    one = encode(tmp_path / "one.ts", options=NO_B, sound="aac")
    (tmp_path / "two.ts").write_bytes(one.read_bytes() * 2)
    found = rewrite(tmp_path / "two.ts", tmp_path / "b.mp4")
    assert found == pytest.approx(every(range(18), found[0]), abs=0.001)
    heard = [time for time, _ in audio_packets(tmp_path / "b.mp4")[0][1]]
    assert len(heard) == 2 * len(audio_packets(one)[0][1])
    assert heard[len(heard) // 2] - heard[0] == pytest.approx(9 / 8, abs=0.06)


def test_an_edit_list_that_begins_within_a_group_leaves_out_what_it_leaves_out(tmp_path):
    plain = encode(tmp_path / "plain.mp4", range(12), options=NO_B)
    source = remux(plain, tmp_path / "a.mp4", lambda n, p: -5 * CLOCK // 8)
    assert rewrite(source, tmp_path / "b.mp4") == pytest.approx(every(range(7)))


def test_a_last_frame_that_is_shown_for_long_is_no_truncation(tmp_path):
    """Screen recorders write a frame where something changes, and the length of the whole."""
    plain = encode(tmp_path / "plain.mp4", options=NO_B)
    source = tmp_path / "a.mkv"
    with av.open(str(plain)) as known, av.open(str(source), "w") as out:
        stream = out.add_stream_from_template(known.streams.video[0])
        for packet in (p for p in known.demux(video=0) if p.size):
            packet.duration = CLOCK * 60 if packet.pts == CLOCK else CLOCK // 8
            packet.stream = stream
            out.mux(packet)
    data = source.read_bytes()
    clip = video.probe(source)
    assert clip.frames == 9
    assert clip.durations[-1] * clip.time_base == 60
    source.write_bytes(data[: len(data) * 2 // 3])
    with pytest.raises(ValueError, match="truncated"):
        video.probe(source)


def test_a_file_says_itself_where_it_ends(tmp_path):
    live = tmp_path / "live.mkv"
    encode(tmp_path / "a.mkv")
    with open(live, "wb") as file, av.open(footage.Pipe(file), "w", format="matroska") as out:
        stream = out.add_stream("libx264", rate=8)
        stream.width, stream.height = footage.SIZE
        out.mux(stream.encode(av.VideoFrame(*footage.SIZE, "yuv420p")))
        out.mux(stream.encode(None))
    assert completeness.is_complete(live) is None
    assert completeness.is_complete(tmp_path / "a.mkv")
    assert completeness.is_complete(encode(tmp_path / "a.mp4")) is None
    assert video.probe(live).frames == 1
