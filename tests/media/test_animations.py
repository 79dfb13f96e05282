"""Of an animated picture every frame is read, with its delay; where one picture is wanted, it is refused."""

import av
import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from holdfast.media import images, marks, masks, video

from ..conftest import picture

DELAYS = [100, 200, 50, 33, 700]


def frames(alpha=255):
    """A picture that moves, seen through at its right."""
    for i in range(len(DELAYS)):
        opacity = np.full((32, 48, 1), 255, np.uint8)
        opacity[:, 40:] = alpha
        yield Image.fromarray(np.concatenate([picture(i, 48, 32), opacity], -1))


def save(path, alpha=255, **more):
    first, *others = frames(alpha)
    delays = {} if path.suffix == ".tif" else {"duration": DELAYS}
    lossless = {".webp": {"lossless": True}, ".avif": {"quality": 100}}.get(path.suffix, {})
    first.save(path, save_all=True, append_images=others, **{**delays, **lossless, **more})
    return path


@pytest.mark.parametrize("name", ["a.webp", "a.png", "a.apng", "a.avif", "a.tif"])
def test_all_frames_are_read_with_their_delays(name, tmp_path):
    clip = video.probe(save(tmp_path / name, format="PNG" if name == "a.apng" else None))
    assert clip.frames == len(DELAYS)
    want = [40] * 5 if name == "a.tif" else DELAYS
    assert [round(1000 * d * clip.time_base) for d in clip.durations] == want
    for one, other in zip(video.read(clip), frames(), strict=True):
        assert np.abs(one.astype(int) - np.asarray(other)[..., :3]).mean() < 3
    video.write(tmp_path / "b.mp4", clip, video.read(clip))
    with av.open(str(tmp_path / "b.mp4")) as container:
        shown = [float(f.pts * f.time_base) for f in container.decode(video=0)]
    assert shown == pytest.approx([sum(want[:i]) / 1000 for i in range(5)], abs=0.001)


@pytest.mark.parametrize("name", ["a.webp", "a.png", "a.tif"])
def test_what_is_seen_through_stays_so_or_is_said(name, tmp_path):
    clip = video.probe(save(tmp_path / name, alpha=0))
    assert clip.has_transparency
    assert "alpha channel" in video.losses(tmp_path / "b.mp4", clip)[0]
    assert video.losses(tmp_path / "b.webm", clip) == []
    pairs = zip(video.read(clip), video.read_stored(clip), strict=True)
    video.write(tmp_path / "b.webm", clip, (video.OutputFrame(lambda r=r: r, f) for r, f in pairs))
    assert video.probe(tmp_path / "b.webm").has_transparency
    laid = video.apply_input_options(clip, False, "#ff0000")
    assert next(video.read(laid))[0, -1].tolist() == [255, 0, 0]


def test_a_stand_in_for_old_readers_is_no_frame(tmp_path):
    source = save(tmp_path / "a.png", default_image=True, duration=DELAYS[1:])
    clip = video.probe(source)
    assert clip.frames == 4
    assert np.abs(next(video.read(clip)).astype(int) - picture(1, 48, 32)).max() == 0


def test_a_page_that_is_another_in_small_is_no_frame(tmp_path):
    large = Image.fromarray(picture(0, 48, 32))
    small, tags = large.resize((12, 8)), TiffImagePlugin.ImageFileDirectory_v2()
    tags[254] = 1
    small.encoderinfo = {"tiffinfo": tags}
    large.save(tmp_path / "a.tif", save_all=True, append_images=[small])
    assert video.probe(tmp_path / "a.tif").frames == 1
    large.save(tmp_path / "b.tif", save_all=True, append_images=[large.resize((12, 8))])
    with pytest.raises(ValueError, match=r"frame 1 is 12x8, the first one 48x32"):
        video.probe(tmp_path / "b.tif")


@pytest.mark.parametrize("name", ["a.mp4", "a.jpg", "a.gif"])
def test_a_picture_is_known_by_what_it_holds(name, tmp_path):
    save(tmp_path / "a.webp").rename(tmp_path / name)
    assert video.probe(tmp_path / name).frames == 5


@pytest.mark.filterwarnings(
    "ignore::holdfast.base.notices.Notice"
)  # the picture is no sensible mask
@pytest.mark.parametrize("name", ["a.webp", "a.png", "a.tif", "a.gif"])
def test_where_one_picture_is_wanted_an_animated_one_is_refused(name, tmp_path):
    """For a first frame, a key frame, a brush, and in a folder of frames; a mask may move."""
    folder = tmp_path / "frames"
    folder.mkdir()
    source = save(tmp_path / name)
    for i in range(2):
        Image.fromarray(picture(i, 48, 32)).save(folder / f"{i}.png")
    clip = video.probe(folder)
    for read in (images.read, images.size, lambda path: marks.make_anchor(path, clip)):
        with pytest.raises(ValueError, match=f"{name}.* holds 5 frames, but one picture is needed"):
            read(source)
    mask = masks.open_mask(source, video.probe(source), range(5))
    assert len({inside.tobytes() for inside in mask.frames()}) == 5
    if name != "a.gif":  # which is no frame of a folder
        source.rename(folder / f"2{source.suffix}")
        with pytest.raises(ValueError, match="holds 5 frames"):
            video.probe(folder)


@pytest.mark.parametrize("name", ["a.webp", "a.png", "a.avif", "a.tif"])
def test_one_that_breaks_off_is_refused(name, tmp_path):
    whole = save(tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: len(whole) * 2 // 3])
    with pytest.raises(ValueError, match=rf"{name} is (damaged|not a readable image)"):
        video.probe(tmp_path / name)


def test_a_phones_picture_is_refused_with_the_cure(tmp_path):
    head = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"
    (tmp_path / "a.heic").write_bytes(head + bytes(100))
    with pytest.raises(
        ValueError, match="is a HEIF picture, which is not supported: save it as JPEG"
    ):
        video.probe(tmp_path / "a.heic")
