"""Folders of frames as people have them: deep, described, seen through, and with files that are no frames."""

import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image, ImageCms

from holdfast.base.errors import UserError
from holdfast.media import images, transparency, video

RNG = np.random.default_rng(0)


def png(path, array, kind, extra=b"", late=b""):
    """A PNG of 16 bits, of a colour type that OpenCV and Pillow do not write."""

    def chunk(name, data):
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    head = struct.pack(">IIBBBBB", array.shape[1], array.shape[0], 16, kind, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in array)
    body = chunk(b"IDAT", zlib.compress(rows))
    tail = (chunk(b"eXIf", late) if late else b"") + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + extra + body + tail)


def deep(channels, top=65536):
    return RNG.integers(0, top, (16, 20, channels), dtype=np.uint16)


def folder(tmp_path, suffix, arrays):
    (tmp_path / "in").mkdir()
    for i, array in enumerate(arrays):
        cv2.imwrite(str(tmp_path / "in" / f"f{i}.{suffix}"), array.squeeze())
    return tmp_path / "in"


def stored(path):
    array = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert array.dtype == np.uint16
    return array


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize(("channels", "top"), [(3, 65536), (1, 65536), (4, 65536), (3, 1024)])
def test_sixteen_bits_go_in_and_come_out(suffix, channels, top, tmp_path, capfd):
    arrays = [deep(channels, top) for _ in range(2)]
    clip = video.probe(folder(tmp_path, suffix, arrays))
    assert (clip.bits, clip.has_transparency, clip.size) == (16, channels == 4, (20, 16))
    assert video.losses(tmp_path / "out", clip) == []
    assert "bit depth" in video.kept_properties(tmp_path / "out", clip)
    video.write(tmp_path / "out", clip, video.read(clip))
    for i, array in enumerate(arrays):
        same = array if channels > 1 else np.repeat(array, 3, axis=2)
        assert np.array_equal(stored(tmp_path / "out" / f"f{i}.png"), same)
    assert capfd.readouterr().err == ""


def test_deep_grey_with_alpha_and_a_folder_of_two_depths(tmp_path):
    both = deep(2)
    (tmp_path / "in").mkdir()
    png(tmp_path / "in" / "a.png", both, 4)
    Image.fromarray(np.full((16, 20, 3), 255, np.uint8)).save(tmp_path / "in" / "b.png")
    clip = video.probe(tmp_path / "in")
    video.write(tmp_path / "out", clip, video.read(clip))
    first = stored(tmp_path / "out" / "a.png")
    assert np.array_equal(first[..., 0], both[..., 0])
    assert np.array_equal(first[..., 3], both[..., 1])
    assert (stored(tmp_path / "out" / "b.png") == 65535).all()


def test_deep_frames_stay_so_in_ffv1_and_are_announced_elsewhere(tmp_path):
    array = deep(3)
    clip = video.probe(folder(tmp_path, "png", [array]))
    assert video.losses(tmp_path / "o.mkv", clip, "ffv1") == []
    video.write(tmp_path / "o.mkv", clip, video.read(clip), "ffv1")
    written = video.probe(tmp_path / "o.mkv")
    assert written.bits == 16
    assert np.array_equal(next(video.read(written))[..., ::-1], array)
    for name, bits in (("o.mp4", 10), ("o.gif", 8), ("o.jpg", 8), ("o.webp", 8), ("o.webm", 8)):
        assert (
            f"{name} holds {bits} of the source's 16 bits" in video.losses(tmp_path / name, clip)[0]
        )
        assert "bit depth" not in video.kept_properties(tmp_path / name, clip)


def test_a_video_of_ten_bits_becomes_images_of_sixteen(make_clip, tmp_path):
    clip = video.probe(make_clip("c.mkv", pixels="yuv420p10le", frames=2))
    assert video.losses(tmp_path / "out", clip) == []
    video.write(tmp_path / "out", clip, video.read(clip))
    back = video.probe(tmp_path / "out")
    pairs = zip(video.read(clip), video.read(back), strict=True)
    assert all(np.array_equal(*pair) for pair in pairs)
    assert "holds 8 of the source's 10 bits" in video.losses(tmp_path / "o.gif", clip)[0]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_deep_images_are_turned_as_shallow_ones_are(orientation, tmp_path):
    exif = Image.Exif()
    exif[274] = orientation
    array = RNG.integers(0, 256, (16, 20, 3), np.uint8)
    Image.fromarray(array).save(tmp_path / "a.png", exif=exif)
    png(tmp_path / "b.png", array * np.uint16(257), 2, late=exif.tobytes()[6:])
    shallow, large = images.read(tmp_path / "a.png"), images.read(tmp_path / "b.png")
    assert np.array_equal(large, images.to_16_bit(shallow))
    assert (
        images.size(tmp_path / "a.png") == images.size(tmp_path / "b.png") == shallow.shape[1::-1]
    )


@pytest.mark.parametrize("kind", [np.float32, np.int32])
def test_numbers_that_are_no_picture_are_refused(kind, tmp_path):
    Image.fromarray(RNG.random((4, 4)).astype(kind)).save(tmp_path / "a.tif")
    with pytest.raises(UserError, match=r"(floating-point|32-bit).*: save it with 8 or 16 bits"):
        video.probe(tmp_path / "a.tif")


def wide_gamut():
    """A profile that is not sRGB: its name says so."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return profile.replace("sRGB".encode("utf-16-be"), "P3__".encode("utf-16-be"))


@pytest.mark.parametrize("bits", [8, 16])
def test_profile_and_camera_data_go_with_the_images(bits, tmp_path):
    exif = Image.Exif()
    exif[271], exif[272], exif[274] = "Holdfast", "One", 6
    (tmp_path / "in").mkdir()
    array = RNG.integers(0, 256, (16, 20, 3), np.uint8)
    plain = {"icc_profile": wide_gamut(), "exif": exif}
    Image.fromarray(array).save(tmp_path / "in" / "a.png", **plain)
    if bits == 16:
        cv2.imwrite(str(tmp_path / "in" / "b.png"), deep(3).swapaxes(0, 1))
    clip = video.probe(tmp_path / "in")
    assert clip.profile_names
    assert {"colour profile", "camera data"} <= {*video.kept_properties(tmp_path / "out", clip)}
    video.write(tmp_path / "out", clip, video.read(clip))
    with Image.open(tmp_path / "out" / "a.png") as made:
        made.load()
        assert made.info["icc_profile"] == plain["icc_profile"]
        assert (made.getexif()[271], made.getexif()[272], made.getexif().get(274)) == (
            "Holdfast",
            "One",
            None,
        )
        assert made.size == (16, 20)
    said = video.losses(tmp_path / "out.mp4", clip)
    assert any("colour profile" in text for text in said)
    assert any("EXIF" in text for text in said)


def test_what_is_converted_is_a_caution(tmp_path):
    Image.fromarray(RNG.integers(0, 255, (8, 8, 4), np.uint8), "CMYK").save(tmp_path / "a.jpg")
    assert any("CMYK" in text for text in video.probe(tmp_path / "a.jpg").cautions)
    palette = Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8), "P")
    palette.putpalette(bytes(range(192)))
    palette.save(tmp_path / "b.png", transparency=0)
    assert (transparency.read_alpha(tmp_path / "b.png") == 0).any()
    Image.fromarray(np.eye(8) > 0).save(tmp_path / "c.png")
    assert {*np.unique(images.read(tmp_path / "c.png"))} == {0, 255}


HIDDEN = ("._0.png", ".DS_Store", "Thumbs.db", "desktop.ini", ".hidden.png", "ehthumbs.db")


def test_the_systems_own_files_are_no_frames_and_others_are_named(tmp_path):
    place = folder(tmp_path, "png", [deep(3), deep(3)])
    for name in HIDDEN:
        (place / name).write_bytes(b"\0\5\x16\7" + bytes(200))
    (place / "__MACOSX").mkdir()
    (place / "more.png").mkdir()
    (place / "notes.txt").write_text("no frame")
    clip = video.probe(place)
    assert [file.name for file in clip.files] == ["f0.png", "f1.png"]
    assert clip.notes == ("16 bits a channel",)
    assert clip.cautions == ("ignored because they are not images: more.png, notes.txt",)
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "a.exr").write_bytes(b"x")
    with pytest.raises(UserError, match=r"has no images .*; it holds 1 \.exr"):
        video.probe(tmp_path / "none")


def test_an_image_is_decoded_only_when_it_is_read(tmp_path, monkeypatch):
    (tmp_path / "in").mkdir()
    for suffix in ("png", "jpg", "webp", "bmp", "tif"):
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "in" / f"{suffix}.{suffix}")

    def decode(*_):
        raise AssertionError("an image was decoded")

    from PIL import BmpImagePlugin, ImageFile, TiffImagePlugin, WebPImagePlugin

    kinds = (BmpImagePlugin.BmpImageFile, ImageFile.ImageFile, TiffImagePlugin.TiffImageFile)
    for kind in (*kinds, WebPImagePlugin.WebPImageFile):
        monkeypatch.setattr(kind, "load", decode)
    assert video.probe(tmp_path / "in").frames == 5
