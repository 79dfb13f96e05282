"""An edit of some frames leaves the other groups of pictures as they lie in the source, packet by packet."""

import dataclasses
from fractions import Fraction

import av
import numpy as np
import pytest

from holdfast.media import avc, hevc, splicing, video

from ..browser import ARGUMENTS, BROWSER, needs_browser
from ..conftest import audio_packets
from .test_samples import planes
from .test_video import described

# other tools than ours, so that its parameter sets are not ours by chance
X265 = "bframes=0:keyint=8:min-keyint=8:scenecut=0:open-gop=0:log-level=error:ctu=32:no-sao=1:ref=1"
X265_B = X265.replace("bframes=0", "bframes=3")
KINDS = {
    "H.265": {"codec": "libx265", "options": {"x265-params": X265}, "size": (128, 96)},
    "H.265 with B-frames": {
        "codec": "libx265",
        "options": {"x265-params": X265_B},
        "size": (128, 96),
    },
    "H.265 of 10 bits": {
        "codec": "libx265",
        "options": {"x265-params": X265},
        "size": (128, 96),
        "pixels": "yuv420p10le",
    },
    "B-frames": {},
    "no B-frames": {"options": {"bf": "0"}},
    "baseline": {"options": {"profile": "baseline"}},
    "10-bit": {"pixels": "yuv420p10le"},
    "4:2:2": {"pixels": "yuv422p"},
    "rotated": {"rotation": 90},
    "sound": {"audio": 1},
    "29.97": {"rate": Fraction(30000, 1001)},
    "tagged": {"colour": {"color_range": 2, "colorspace": 1, "color_primaries": 1, "color_trc": 1}},
}


def grouped(make_clip, name="a.mp4", **about):
    """40 frames in groups of 8, closed ones."""
    if about.get("codec") == "libx265":
        return make_clip(name, frames=40, **about)
    options = {"g": "8", "keyint_min": "8", "sc_threshold": "0", "crf": "18"}
    options |= about.pop("options", {})
    return make_clip(name, frames=40, options=options, **about)


def edited(clip, part):
    for i, own in enumerate(video.read_stored(clip)):
        if i in part:
            made = np.full((*clip.size[::-1], 3), 200, np.uint8 if clip.bits == 8 else np.uint16)
            alpha = np.ones(made.shape[:2], np.float32)
            yield video.OutputFrame(lambda made=made: made, own, made, alpha)
        else:
            yield video.OutputFrame(None, own)


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "mov"])
@pytest.mark.parametrize("kind", KINDS)
def test_untouched_frames_decode_identical_and_all_else_is_kept(kind, suffix, make_clip, tmp_path):
    source = grouped(make_clip, **KINDS[kind])
    clip, part = video.probe(source), range(18, 21)
    result = tmp_path / f"out.{suffix}"
    how = video.write(result, clip, edited(clip, part), edited=part)
    codec = "h265" if kind.startswith("H.265") else "h264"
    assert how == {"copied_frames": 32, "encoded_frames": [16, 24], "codec": codec}
    (name, before), (after_name, after) = planes(source), planes(result)
    assert after_name == name
    assert len(after) == 40
    for i, (one, other) in enumerate(zip(before, after, strict=True)):
        same = all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))
        assert same == (not 16 <= i < 24), i
        if i in part:
            assert abs(int(other[0].mean()) - int(one[0].mean())) > 2
    if codec == "h265" and suffix != "mkv":
        assert tag_of(result) == "hvc1"  # Apple's players take no other
    if suffix == "mp4":
        known, now = described(source), described(result)
        assert now | {"rate": 0} == known | {"rate": 0}
        assert now["rate"] == pytest.approx(known["rate"], rel=0.02)
        assert audio_packets(result) == audio_packets(source)


def tag_of(path):
    with av.open(str(path)) as container:
        return container.streams.video[0].codec_context.codec_tag


def h265_units(path):
    """The header's parameter sets, by kind, and the units of each packet, in the order of decoding."""
    with av.open(str(path)) as container:
        track = container.streams.video[0]
        header = hevc.HevcHeader.parse(bytes(track.codec_context.extradata))
        packets = [bytes(p) for p in container.demux(track) if p.size]
    return header, [list(avc.split_units(packet)) for packet in packets]


def test_of_h265_too_all_parameter_sets_are_announced_and_each_slice_names_its_own(
    make_clip, tmp_path
):
    """As the sample entry hvc1 promises: none in the packets, and numbers that two encoders do not share."""
    clip = video.probe(grouped(make_clip, **KINDS["H.265 with B-frames"]))
    part = range(18, 21)
    video.write(tmp_path / "out.mp4", clip, edited(clip, part), edited=part)
    header, packets = h265_units(tmp_path / "out.mp4")
    assert not {hevc.unit_type(unit) for units in packets for unit in units} & set(hevc.SETS)
    announced = {avc.read_golomb(unit[2:]) for unit in header.sets(hevc.PPS)}
    assert announced == {0, 30}
    assert [unit[2] >> 4 for unit in header.sets(hevc.VPS)] == [0, 15]
    assert [hevc._read_id(unit) for unit in header.sets(hevc.SPS)] == [0, 15]
    used = []
    for units in packets:
        (first, *_) = (unit for unit in units if hevc.unit_type(unit) in hevc.SLICES)
        skipped = 2 if hevc.unit_type(first) in hevc.REFRESHING else 1
        bits = "".join(f"{byte:08b}" for byte in first[2:6])[skipped:]
        used.append(avc.read_golomb(int(bits.ljust(32, "0"), 2).to_bytes(4)))
    assert [n == 30 for n in used] == [16 <= i < 24 for i in range(40)]
    source = hevc.HevcHeader.parse(header_of(clip.path))
    assert header.head[12] >= source.head[12]
    assert not any(a & ~b for a, b in zip(header.head[2:12], source.head[2:12], strict=True))


def test_the_header_is_true_of_both_encoders_pictures():
    """Flags that both have, the higher tier and level; nothing is said of slices and of decoding in parallel."""
    head = b"\1\1" + b"\xf0" * 10 + b"\x3c" + b"\xff" * 9
    sps = b"\x42\1" + b"\1" + b"\x21" + b"\x90" * 10 + b"\x5d" + b"\xff"
    both = hevc._merge_profiles(head, sps)
    assert both[:2] == b"\1\x21"
    assert both[2:12] == b"\x90" * 10
    assert both[12:16] == b"\x5d\xf0\0\xfc"
    assert hevc._merge_profiles(head[:12] + b"\x7f" + head[13:], sps)[12] == 0x7F
    assert both[16:] == head[16:]


def header_of(path):
    with av.open(str(path)) as container:
        return bytes(container.streams.video[0].codec_context.extradata)


def test_parameter_sets_in_a_sources_packets_stay_and_are_not_denied(make_clip, tmp_path):
    options = {"x265-params": f"{X265}:repeat-headers=1"}
    source = grouped(make_clip, codec="libx265", options=options, size=(128, 96))
    again = tmp_path / "inband.mp4"
    header, _ = h265_units(source)
    sets = b"".join(avc.prefix_length(u) for which in hevc.SETS for u in header.sets(which))
    with av.open(str(source)) as known, av.open(str(again), "w") as out:
        track = known.streams.video[0]
        stream = out.add_stream_from_template(track)
        for packet in (p for p in known.demux(track) if p.size):
            made = packet
            if packet.is_keyframe:
                made = splicing._copy_times(packet, sets + bytes(packet))
            made.stream = stream
            out.mux(made)
    clip, part = video.probe(again), range(18, 21)
    how = video.write(tmp_path / "out.mp4", clip, edited(clip, part), edited=part)
    assert how["copied_frames"] == 32
    assert tag_of(tmp_path / "out.mp4") == "hev1"
    (_, before), (_, after) = planes(again), planes(tmp_path / "out.mp4")
    same = [np.array_equal(a[0], b[0]) for a, b in zip(before, after, strict=True)]
    assert same == [not 16 <= i < 24 for i in range(40)]


def test_numbers_that_are_taken_and_sets_that_change_are_not_copied(make_clip):
    clip = video.probe(grouped(make_clip, **KINDS["H.265"]))
    header = hevc.HevcHeader.parse(header_of(clip.path))
    units = b"".join(b"\0\0\0\1" + u for which in hevc.SETS for u in header.sets(which))
    twice = hevc.HevcHeader.parse(header.merge_extradata(units))
    with pytest.raises(ValueError, match="no id is free"):
        twice.merge_extradata(units)
    other = hevc._replace_numbers(header.sets(hevc.PPS)[0], (0, 20, 1))
    with pytest.raises(ValueError, match="change on the way"):
        header.begins_group(avc.prefix_length(other))


@pytest.mark.parametrize("pixels", ["yuv420p", "yuv444p", "yuv420p10le"])
def test_rgb_without_loss_is_written_of_any_clip(pixels, make_clip, tmp_path):
    """What an edit made, to the bit, where the source halves chroma; eight bits of it."""
    clip = video.probe(make_clip(pixels=pixels))
    frames = [np.roll(frame, 5 * i, axis=1) for i, frame in enumerate(video.read(clip))]
    video.write(tmp_path / "out.mp4", clip, frames, "lossless-rgb")
    for made, back in zip(frames, video.read(video.probe(tmp_path / "out.mp4")), strict=True):
        shown = made if clip.bits == 8 else made / 257
        assert np.abs(shown - back.astype(float)).max() <= (0 if clip.bits == 8 else 2)


@pytest.mark.parametrize("suffix", ["mp4", "mov", "m4v"])
def test_h265_that_is_encoded_anew_is_hvc1_too(suffix, make_clip, tmp_path):
    clip = video.probe(make_clip(size=(128, 96)))
    result = tmp_path / f"out.{suffix}"
    video.write(result, clip, video.read(clip), "h265")
    assert tag_of(result) == "hvc1"
    _, packets = h265_units(result)
    assert not {hevc.unit_type(unit) for units in packets for unit in units} & set(hevc.SETS)


@pytest.mark.parametrize("part", [range(2), range(39, 40), range(8, 16), range(30)])
def test_the_ends_are_found(part, make_clip, tmp_path):
    source = grouped(make_clip)
    clip = video.probe(source)
    how = video.write(tmp_path / "out.mp4", clip, edited(clip, part), edited=part)
    begin, stop = part.start // 8 * 8, -(-part.stop // 8) * 8
    assert how["encoded_frames"] == [begin, stop]
    (_, before), (_, after) = planes(source), planes(tmp_path / "out.mp4")
    for i in set(range(40)) - set(range(begin, stop)):
        assert np.array_equal(before[i][0], after[i][0]), i


def test_every_slice_names_a_parameter_set_that_the_header_announces(make_clip, tmp_path):
    """A strict player sets itself up by the header alone, and looks for no parameter sets in packets."""
    clip = video.probe(grouped(make_clip))
    part = range(18, 21)
    video.write(tmp_path / "out.mp4", clip, edited(clip, part), edited=part)
    with av.open(str(tmp_path / "out.mp4")) as container:
        track = container.streams.video[0]
        header = avc.AvcHeader.parse(bytes(track.codec_context.extradata))
        packets = [p for p in container.demux(track) if p.size]
    announced = {avc.read_golomb(unit[1:]) for unit in header.pps}
    assert len(announced) == len(header.sps) == 2
    assert all(unit[1] == header.profile_number and unit[3] <= header.level for unit in header.sps)
    used = []
    for packet in packets:
        found = [u for u in avc.split_units(bytes(packet)) if avc.unit_type(u) in (1, avc.IDR)]
        assert not {avc.unit_type(u) for u in avc.split_units(bytes(packet))} & {avc.SPS, avc.PPS}
        used.append(_pps(found[0]))
    assert set(used) == announced
    assert [n != used[0] for n in used] == [16 <= i < 24 for i in range(40)]
    dts = [p.dts for p in packets]
    assert dts == sorted(set(dts))
    assert all(p.dts <= p.pts for p in packets)


def test_the_header_tells_of_the_higher_level():
    known = avc.AvcHeader(100, 0, 10, (b"\x67\x64\x00\x0a\xac",), (b"\x68\xee",))
    other = known.add_sets([b"\x67\x64\x00\x1e\xac", b"\x68\xee"])
    assert other.level == 30
    assert avc.AvcHeader.parse(other.to_bytes()) == other


PLAYED = """async () => {
  const video = document.querySelector('video');
  video.muted = true; video.playbackRate = 4;
  const end = new Promise(done => { video.onended = done; video.onerror = done; });
  await video.play(); await end;
  return [video.error && video.error.message, video.ended, video.videoWidth];
}"""


@needs_browser
def test_a_browser_plays_the_joined_clip_to_its_end(make_clip, tmp_path):
    from playwright.sync_api import sync_playwright

    clip = video.probe(grouped(make_clip, size=(128, 96)))
    part = range(18, 21)
    assert video.write(tmp_path / "out.mp4", clip, edited(clip, part), edited=part)["copied_frames"]
    (tmp_path / "page.html").write_text('<video src="out.mp4"></video>')
    with sync_playwright() as play:
        opened = play.chromium.launch(executable_path=BROWSER, args=ARGUMENTS.split())
        page = opened.new_page()
        page.goto((tmp_path / "page.html").as_uri())
        assert page.evaluate(PLAYED) == [None, True, 128]
        opened.close()


def _pps(unit):
    """The third number of a slice's header."""
    bits = "".join(f"{byte:08b}" for byte in unit[1:9])
    for _ in range(3):
        zeros = bits.index("1")
        value, bits = int(bits[zeros : 2 * zeros + 1], 2) - 1, bits[2 * zeros + 1 :]
    return value


def test_what_cannot_be_copied_says_why_and_is_encoded(make_clip, tmp_path):
    part = range(18, 21)
    open_groups = {"x264-params": "open-gop=1:keyint=8:min-keyint=8:scenecut=0:bframes=3"}
    cases = {
        "not H.264": video.probe(make_clip("m.mp4", frames=40, codec="mpeg4")),
        "every group of pictures": video.probe(make_clip("one.mp4", frames=40)),
        "overlap|every group": video.probe(grouped(make_clip, "open.mp4", options=open_groups)),
        "not like MP4's": video.probe(grouped(make_clip, "a.avi", options={"bf": "0"})),
    }
    for why, clip in cases.items():
        how = video.write(tmp_path / "out.mp4", clip, edited(clip, part), edited=part)
        assert how["copied_frames"] == 0
        with pytest.raises(splicing.CannotCopyError, match=why):
            splicing.plan_splice(clip, ".mp4", "auto", part)
        assert video.probe(tmp_path / "out.mp4").frames == 40
    clip = video.probe(grouped(make_clip))
    with pytest.raises(splicing.CannotCopyError, match="deinterlaced"):
        splicing.plan_splice(dataclasses.replace(clip, is_deinterlaced=True), ".mp4", "auto", part)
    with pytest.raises(splicing.CannotCopyError, match=r"only H\.264 and H\.265"):
        splicing.plan_splice(clip, ".webm", "vp9", part)
    assert video.write(tmp_path / "all.mp4", clip, edited(clip, range(40)), edited=range(40)) == {}
