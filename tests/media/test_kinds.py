"""Less usual kinds of files: seen through, interlaced, with uneven times; and those that are no clip at all."""

import av
import numpy as np
import pytest
from PIL import Image

from holdfast.media import transparency, video


def clear_clip(path, codec, pixels, frames=4):
    """Solid at the left, clear at the right."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream(codec, rate=8)
        stream.width, stream.height, stream.pix_fmt = 64, 48, pixels
        for i in range(frames):
            array = np.zeros((48, 64, 4), np.uint8)
            array[..., 0], array[..., 3] = 40 * i, np.arange(64)[::-1] * 4
            frame = av.VideoFrame.from_ndarray(array, "rgba").reformat(format=pixels)
            frame.pts = i
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path


def seen(path):
    """Opacity of the first frame, from a decoder that knows of it."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        if stream.codec_context.name == "vp9":
            decoder = av.CodecContext.create("libvpx-vp9", "r")
            frame = next(f for p in container.demux(stream) for f in decoder.decode(p))
        else:
            frame = next(container.decode(stream))
        return frame.reformat(format="rgba").to_ndarray()[..., 3].astype(int)


CLEAR = {
    "webm": ("a.webm", "libvpx-vp9", "yuva420p", "b.webm", "auto"),
    "prores": ("a.mov", "prores_ks", "yuva444p10le", "b.mov", "prores"),
    "rgb": ("a.mov", "qtrle", "argb", "b.mov", "prores"),
    "ffv1": ("a.mkv", "ffv1", "yuva420p", "b.mkv", "ffv1"),
    "ffv1 of rgb": ("a.mov", "qtrle", "argb", "b.mkv", "ffv1"),
}


@pytest.mark.parametrize("case", CLEAR)
def test_what_is_seen_through_stays_so(case, tmp_path):
    name, codec, pixels, result, chosen = CLEAR[case]
    source = clear_clip(tmp_path / name, codec, pixels)
    clip = video.probe(source)
    assert clip.has_transparency
    assert any("alpha" in text for text in clip.notes)
    path = tmp_path / result
    assert not any("alpha" in text for text in video.losses(path, clip, chosen))
    pictures = (
        video.OutputFrame(
            lambda rgb=rgb: rgb, own, 255 - rgb if rgb.dtype == np.uint8 else rgb, ones
        )
        for own, rgb in zip(video.read_stored(clip), video.read(clip), strict=True)
        for ones in [np.ones(rgb.shape[:2], np.float32)]
    )
    video.write(path, clip, pictures, chosen)
    assert np.abs(seen(path) - seen(source)).max() <= 4
    assert video.probe(path).has_transparency


def test_what_cannot_hold_it_says_so_and_a_background_is_laid_behind(tmp_path):
    source = clear_clip(tmp_path / "a.mov", "qtrle", "argb")
    clip = video.probe(source)
    (said,) = video.losses(tmp_path / "b.mp4", clip)
    assert "cannot hold the alpha channel, which is left out" in said
    laid = video.apply_input_options(clip, False, "#ff0000")
    assert video.losses(tmp_path / "b.mp4", laid) == []
    first = next(video.read(laid))
    assert first[0, -1].tolist() == [255, 0, 0]
    assert first[0, 0, 0] < 10
    video.write(
        tmp_path / "b.mp4", laid, (video.OutputFrame(lambda f=f: f) for f in video.read(laid))
    )
    assert next(video.read(video.probe(tmp_path / "b.mp4")))[0, -1, 0] > 240
    with pytest.raises(ValueError, match="is not a colour"):
        video.apply_input_options(clip, False, "sky")


def test_images_that_are_seen_through_stay_so(tmp_path):
    folder = tmp_path / "a"
    folder.mkdir()
    for i in range(2):
        array = np.full((8, 8, 4), 90, np.uint8)
        array[..., 3] = 30 * i
        Image.fromarray(array).save(folder / f"f{i}.png")
    clip = video.probe(folder)
    assert clip.has_transparency
    video.write(tmp_path / "b", clip, video.read(clip))
    for i in range(2):
        assert (transparency.read_alpha(tmp_path / "b" / f"f{i}.png") == 30 * i).all()
    laid = video.apply_input_options(clip, False, "white")
    assert next(video.read(laid))[0, 0].tolist() == [255] * 3
    assert any("alpha" in text for text in video.losses(tmp_path / "c.gif", clip))


@pytest.mark.parametrize("first", ["top", "bottom"])
def test_interlaced_clips_are_kept_as_such_or_become_whole_frames(first, make_clip, tmp_path):
    order = {"top": "tff=1", "bottom": "bff=1"}[first]
    source = make_clip(options={"x264-params": order, "crf": "10"}, size=(64, 48))
    clip = video.probe(source)
    assert clip.field_order == first
    assert f"interlaced, {first} field first" in clip.notes
    pictures = (video.OutputFrame(None, own) for own in video.read_stored(clip))
    video.write(tmp_path / "b.mp4", clip, pictures)
    assert video.probe(tmp_path / "b.mp4").field_order == first
    assert "interlaced" in video.losses(tmp_path / "b.webm", clip)[0]
    whole = video.apply_input_options(clip, True, None)
    assert whole.field_order == ""
    frames = list(video.read(whole))
    assert len(frames) == clip.frames
    video.write(
        tmp_path / "c.mp4",
        whole,
        (video.OutputFrame(None, own) for own in video.read_stored(whole)),
    )
    assert video.probe(tmp_path / "c.mp4").field_order == ""


def test_delays_of_a_gif_and_the_last_frames_duration_are_kept(make_clip, tmp_path):
    frames = [Image.new("RGB", (16, 16), (60 * i, 0, 0)) for i in range(4)]
    delays = [100, 200, 50, 700]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:], duration=delays)
    clip = video.probe(tmp_path / "a.gif")
    video.write(tmp_path / "b.gif", clip, video.read(clip))
    with Image.open(tmp_path / "b.gif") as image:
        found = [(image.seek(i), image.info["duration"])[1] for i in range(4)]
    assert found == delays
    video.write(tmp_path / "c.mp4", clip, video.read(clip))
    back = video.probe(tmp_path / "c.mp4")
    assert float(back.durations[-1] * back.time_base) == pytest.approx(0.7)


@pytest.mark.parametrize("name", ["b.mp4", "b.mkv", "b.mov", "b.webm"])
def test_the_range_is_said_in_every_container(name, make_clip, tmp_path):
    clip = video.probe(make_clip(colour={"color_range": 2, "colorspace": 1}))
    video.write(tmp_path / name, clip, video.read(clip))
    back = video.probe(tmp_path / name)
    assert (back.colour["range"], back.colour["space"]) == (2, 1)


def test_only_files_that_hold_their_own_picture_are_opened(make_clip, tmp_path, monkeypatch):
    clip = make_clip(frames=4, audio=1)
    lists = {
        "list.mp4": f"ffconcat version 1.0\nfile {clip.name}\n",
        "list.m3u8": f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{clip.name}\n#EXT-X-ENDLIST\n",
        "list.mkv": f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{clip.name}\n#EXT-X-ENDLIST\n",
    }
    for name, text in lists.items():
        (tmp_path / name).write_text(text)
        with pytest.raises(ValueError, match="is not a readable video"):
            video.probe(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    for name in ("http:b.mp4", "concat:b.mp4"):
        clip.rename(tmp_path / name)
        clip = tmp_path / name
        known = video.probe(name)
        assert known.frames == 4
        video.write(f"out-{name}", known, video.read(known))
        assert video.probe(f"out-{name}").frames == 4
    with pytest.raises(ValueError, match="there is no file"):
        video.probe("concat:http:b.mp4|http:b.mp4")


def test_what_is_cut_off_says_how_much_is_missing(make_clip, tmp_path):
    frames = [
        Image.fromarray(np.random.default_rng(i).integers(0, 255, (40, 40, 3), np.uint8))
        for i in range(6)
    ]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:], duration=100)
    whole = (tmp_path / "a.gif").read_bytes()
    (tmp_path / "b.gif").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="truncated: it ends prematurely after"):
        video.probe(tmp_path / "b.gif")
    clip = video.probe(make_clip(frames=40, size=(128, 96)))
    video.write(tmp_path / "c.mkv", clip, video.read(clip))
    whole = (tmp_path / "c.mkv").read_bytes()
    (tmp_path / "d.mkv").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"about \d+ of 40 frames are missing"):
        video.probe(tmp_path / "d.mkv")
