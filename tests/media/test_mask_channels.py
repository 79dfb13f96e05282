"""A mask's shape in its colour or in its alpha; labels; masks that are empty or full."""

import av
import numpy as np
import pytest
from PIL import Image

from holdfast.base.errors import UserError
from holdfast.media import arrays, marks, masks, video

PART = range(3)
INSIDE = np.zeros((32, 48), bool)
INSIDE[8:20, 10:30] = True
ELSE = np.zeros((32, 48), bool)
ELSE[:, 24:] = True


@pytest.fixture
def clip(make_clip):
    return video.probe(make_clip(frames=3, size=(48, 32)))


def layers(seen, hidden, alpha=INSIDE, of=np.uint8):
    """A picture whose colour is `seen` where it is solid and `hidden` where it is clear."""
    peak = np.iinfo(of).max
    seen, hidden = (np.broadcast_to(np.asarray(colour), (3,)) for colour in (seen, hidden))
    colour = np.where(alpha[..., None], seen, hidden).astype(of)
    return np.dstack((colour, alpha.astype(of) * peak))


def read(path, clip, **more):
    return list(masks.open_mask(path, clip, PART, **more).frames())


@pytest.mark.filterwarnings("ignore:the mask .* has one colour")
@pytest.mark.parametrize("hidden", [(255, 255, 255), (0, 0, 0), (9, 200, 30)])
@pytest.mark.parametrize("seen", [(255, 255, 255), (0, 0, 0), (60, 60, 60), (250, 20, 20)])
@pytest.mark.parametrize("suffix", ["png", "webp", "tif"])
def test_a_shape_in_one_colour_on_a_clear_layer_is_that_of_the_alpha(
    seen, hidden, suffix, clip, tmp_path
):
    path = tmp_path / f"m.{suffix}"
    Image.fromarray(layers(seen, hidden)).save(
        path, **({"exact": True} if suffix == "webp" else {})
    )
    assert all(np.array_equal(frame, INSIDE) for frame in read(path, clip))
    assert np.array_equal(marks.read_brush(path, clip.size), INSIDE)
    with Image.open(path) as picture:
        assert np.array_equal(arrays.to_mask(picture)[0], INSIDE)


def test_a_black_picture_with_a_hole_is_no_guess(clip, tmp_path):
    """An eraser's mask: black may be what holds, or what was painted."""
    Image.fromarray(layers(0, 0, ~INSIDE)).save(tmp_path / "m.png")
    with pytest.raises(UserError, match=r"black wherever it is opaque.*--mask-channel"):
        read(tmp_path / "m.png", clip)


def test_that_the_alpha_was_taken_is_said(clip, tmp_path):
    Image.fromarray(layers(255, 255)).save(tmp_path / "m.png")
    with pytest.warns(UserWarning, match="its shape is read from its alpha"):
        read(tmp_path / "m.png", clip)


@pytest.mark.filterwarnings("ignore:the mask .* has one colour")
def test_a_video_with_alpha_a_folder_and_sixteen_bits(clip, tmp_path):
    import cv2

    with av.open(str(tmp_path / "m.mov"), "w") as out:
        stream = out.add_stream("qtrle", rate=8)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "argb"
        for i in range(3):
            frame = av.VideoFrame.from_ndarray(layers(255, 255), "rgba").reformat(format="argb")
            frame.pts = i
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    (tmp_path / "m").mkdir()
    for i in range(3):  # one of them clear everywhere
        Image.fromarray(layers(0, 0, INSIDE & (i > 0))).save(tmp_path / "m" / f"{i}.png")
    cv2.imwrite(str(tmp_path / "m.png"), layers(0, 0, of=np.uint16))
    for name, first in (("m.mov", INSIDE), ("m.png", INSIDE), ("m", 0 * INSIDE)):
        frames = read(tmp_path / name, clip)
        assert np.array_equal(frames[0], first)
        assert np.array_equal(frames[2], INSIDE)


def test_two_shapes_are_refused_and_one_can_be_said(clip, tmp_path):
    both = layers(0, 0, INSIDE)
    both[ELSE, :3] = 255
    Image.fromarray(both).save(tmp_path / "m.png")
    with pytest.raises(UserError, match=r"its colour and another in its alpha.*--mask-channel"):
        read(tmp_path / "m.png", clip)
    with pytest.raises(UserError, match="save it without transparency"):
        marks.read_brush(tmp_path / "m.png", clip.size)
    assert np.array_equal(read(tmp_path / "m.png", clip, channel="colour")[0], ELSE)
    assert np.array_equal(read(tmp_path / "m.png", clip, channel="alpha")[0], INSIDE)
    Image.fromarray(both[..., :3]).save(tmp_path / "m.png")
    with pytest.raises(UserError, match="has no alpha"):
        read(tmp_path / "m.png", clip, channel="alpha")


def test_a_bright_shape_whose_alpha_is_soft_but_nowhere_clear_is_read_by_its_colour(clip, tmp_path):
    soft = np.dstack([ELSE.astype(np.uint8) * 255] * 3 + [np.full(ELSE.shape, 200, np.uint8)])
    Image.fromarray(soft).save(tmp_path / "m.png")
    assert np.array_equal(read(tmp_path / "m.png", clip)[0], ELSE)


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_labels_of_0_and_1_are_known(kind, clip, tmp_path):
    Image.fromarray(INSIDE.astype(kind)).save(tmp_path / "m.png")
    with pytest.warns(UserWarning, match="are 0 and 1: 1 is read as inside"):
        assert np.array_equal(read(tmp_path / "m.png", clip)[0], INSIDE)
    with pytest.warns(UserWarning, match="are 0 and 1: 1 is read as painted"):
        assert np.array_equal(marks.read_brush(tmp_path / "m.png", clip.size), INSIDE)


def test_other_labels_say_how_bright_they_are(clip, tmp_path):
    Image.fromarray(INSIDE.astype(np.uint8) + ELSE).save(tmp_path / "m.png")
    for read_it in (lambda p: read(p, clip), lambda p: marks.read_brush(p, clip.size)):
        with pytest.raises(UserError, match="its brightest value is 2 of 255"):
            read_it(tmp_path / "m.png")


@pytest.mark.parametrize("pixels", ["gray", "gray16le", "bgr0", "gbrp"])
def test_labels_in_a_video_without_loss(pixels, clip, tmp_path):
    video.write_frames(
        tmp_path / "m.mkv", [np.dstack([INSIDE.astype(np.uint8)] * 3)] * 3, 8, "ffv1"
    )
    with pytest.warns(UserWarning, match="are 0 and 1"):
        assert np.array_equal(read(tmp_path / "m.mkv", clip)[0], INSIDE)


def test_noise_in_a_black_clip_is_no_label(clip, make_clip, tmp_path):
    with av.open(str(tmp_path / "m.mp4"), "w") as out:
        stream = out.add_stream("libx264", rate=8)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        for i in range(3):
            black = av.VideoFrame.from_ndarray(
                np.zeros((32, 48, 3), np.uint8) + INSIDE[..., None], "rgb24"
            )
            black.pts = i
            out.mux(stream.encode(black))
        out.mux(stream.encode(None))
    with pytest.raises(UserError, match="is empty"):
        read(tmp_path / "m.mp4", clip)


SHAPES = {
    "empty": (0 * INSIDE, {}, "is empty .its brightest value is 0 of 255.; nothing would change"),
    "full": (INSIDE | True, {}, "is full; every pixel of every frame may change"),
    "shrunk": (INSIDE, {"grow": -40}, "is empty .once it is shrunk by 40 pixels."),
    "inverted": (INSIDE | True, {"invert": True}, "is empty .once it is inverted."),
    "grown": (INSIDE, {"grow": 100}, "is full"),
}


@pytest.mark.parametrize("case", SHAPES)
def test_an_empty_or_full_mask_stops_unless_it_is_allowed(case, clip, tmp_path):
    inside, shape, words = SHAPES[case]
    Image.fromarray(inside.astype(np.uint8) * 255).save(tmp_path / "m.png")
    with pytest.raises(UserError, match=f"{words}.*--allow-any-mask"):
        read(tmp_path / "m.png", clip, shape=masks.MaskShape(**shape))
    with pytest.warns(UserWarning, match=words[:7]):
        read(tmp_path / "m.png", clip, shape=masks.MaskShape(**shape), allow_any=True)


def test_one_pixel_of_one_frame_is_enough(clip, tmp_path):
    (tmp_path / "m").mkdir()
    for i in range(3):
        one = np.full((32, 48), 255, np.uint8)
        one[0, 0] = 255 * (i > 0)
        Image.fromarray(one).save(tmp_path / "m" / f"{i}.png")
    with pytest.warns(UserWarning, match="100% of the frame"):
        read(tmp_path / "m", clip)
    with pytest.raises(UserError, match="is full"):
        masks.open_mask("0,0,48,32", clip, PART)
