"""Marks become masks; masks are propagated both ways, past crossings, and corrected by further marks."""

import numpy as np
import pytest
from PIL import Image

from holdfast.media import grabcut, overlays, propagation, video
from holdfast.media import marks as anchors
from holdfast.media.marks import Marks
from holdfast.media.two_layer_tracker import TwoLayerTracker

SIZE, SIDE = (72, 48), 14  # of the frame, and of the object


def texture(seed: int, low: int, high: int, size=SIZE) -> np.ndarray:
    """Smooth noise, H W 3."""
    import cv2

    noise = np.random.default_rng(seed).random((*size[::-1], 3), dtype=np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), 2)
    smooth = (smooth - smooth.min()) / (smooth.max() - smooth.min())
    return (low + (high - low) * smooth).astype(np.uint8)


def passing(frames=14, step=3, wall=False) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Frames and exact masks of a reddish square that moves right over a greenish ground, and behind a wall."""
    ground, thing = texture(0, 40, 120), texture(1, 60, 200)[:SIDE, :SIDE]
    ground[..., 1] += 100
    thing[..., 0] = 220
    thing[..., 2] //= 3
    shown, exact = [], []
    for t in range(frames):
        frame, inside = ground.copy(), np.zeros(SIZE[::-1], bool)
        x = 4 + step * t
        frame[16 : 16 + SIDE, x : x + SIDE] = thing
        inside[16 : 16 + SIDE, x : x + SIDE] = True
        if wall:
            frame[:, 26:42] = (30, 40, 200)
            inside[:, 26:42] = False
        shown.append(frame)
        exact.append(inside)
    return shown, exact


def written(frames, folder, name="clip.mkv") -> video.Clip:
    video.write_frames(folder / name, frames, 8, "lossless-rgb")
    return video.probe(folder / name)


def overlap(a, b) -> float:
    return (a & b).sum() / max(1, (a | b).sum())


def test_a_box_on_the_first_frame_is_carried_to_the_last(tmp_path):
    frames, exact = passing()
    clip = written(frames, tmp_path)
    n, inside = anchors.make_anchor(f"3,15,{SIDE + 2},{SIDE + 2}", clip)
    assert n == 0
    assert overlap(inside, exact[0]) > 0.9
    found = list(propagation.propagate(clip, {0: inside}))
    assert [f.shape for f in found] == [SIZE[::-1]] * 14
    assert found[0].dtype == bool
    assert min(overlap(a, b) for a, b in zip(found, exact, strict=True)) > 0.85


def test_a_thing_that_passes_behind_another_comes_out_again_and_the_other_is_never_it(tmp_path):
    frames, exact = passing(18, wall=True)
    found = list(propagation.propagate(written(frames, tmp_path), {0: exact[0]}))
    assert not any(f[:, 28:40].any() for f in found)  # the wall
    assert found[8].sum() < 0.2 * SIDE**2  # behind it
    assert overlap(found[-1], exact[-1]) > 0.85


def test_what_something_moving_hides_is_remembered_and_goes_on_with_the_rest():
    frames, exact = passing(8)
    covered = [np.zeros(SIZE[::-1], bool) for _ in frames]
    for t, frame in enumerate(frames):
        frame[10:36, 58 - 5 * t : 76 - 5 * t] = (30, 40, 200)
        covered[t][10:36, 58 - 5 * t : 76 - 5 * t] = True
    layers = TwoLayerTracker(frames[0].astype(np.float32) / 255, exact[0])
    for frame in frames[1:7]:
        seen = layers.follow(frame.astype(np.float32) / 255) > 0.5
    assert overlap(seen, exact[6] & ~covered[6]) > 0.8
    hidden = exact[6] & covered[6]
    assert hidden.sum() > 80
    assert layers.presence[hidden].mean() > 0.5
    shown = passing(7)[0][6].astype(np.float32) / 255
    # The colour of the passing object differs by 0.3 and more from what it hides.
    assert np.median(np.abs(layers.object_memory - shown)[hidden]) < 0.06
    assert np.median(np.abs(np.float32((30, 40, 200)) / 255 - shown)[hidden]) > 0.3


def test_an_outline_is_tightened_within_reach_and_not_against_what_is_certain():
    frame = texture(0, 40, 60)
    frame[10:40, 10:60] = (220, 40, 30)
    inside = np.zeros(SIZE[::-1], bool)
    inside[14:36, 14:56] = True  # the edge is four pixels off
    near = grabcut.refine(frame, inside, 2)
    assert not (near & ~grabcut.dilate(inside, 2)).any()
    assert overlap(grabcut.refine(frame, inside, 6), frame[..., 0] > 200) > 0.99
    sketch = np.full(SIZE[::-1], grabcut.PROBABLY_INSIDE, np.uint8)
    sketch[10:40, 10:13] = grabcut.OUTSIDE
    assert not grabcut.refine(frame, inside, 6, sketch)[10:40, 10:13].any()


def test_before_a_mark_a_mask_is_carried_back_in_runs_of_any_length(tmp_path, monkeypatch):
    frames, exact = passing()
    clip = written(frames, tmp_path)
    whole = list(propagation.propagate(clip, {13: exact[13]}))
    assert min(overlap(a, b) for a, b in zip(whole, exact, strict=True)) > 0.85
    monkeypatch.setattr(propagation, "BUFFER_BYTES", 0)  # eight frames at a time
    runs = list(propagation.propagate(clip, {13: exact[13]}))
    assert all(np.array_equal(a, b) for a, b in zip(whole, runs, strict=True))


def test_on_a_marked_frame_the_mark_itself_and_from_there_on_it_is_followed(tmp_path):
    frames, exact = passing()
    clip = written(frames, tmp_path)
    wrong = np.zeros(SIZE[::-1], bool)
    wrong[38:46, 50:70] = True  # the ground, which does not move
    lost = list(propagation.propagate(clip, {0: wrong}))
    assert overlap(lost[-1], exact[-1]) < 0.1
    mended = list(propagation.propagate(clip, {0: wrong, 8: exact[8]}))
    assert np.array_equal(mended[0], wrong)
    assert np.array_equal(mended[8], exact[8])
    assert overlap(mended[-1], exact[-1]) > 0.85
    assert (
        overlap(mended[7], exact[7]) > 0.7
    )  # nearer to the second mark, which is tracked backwards
    assert overlap(mended[1], wrong) > 0.7


def test_a_part_has_the_same_masks_and_no_others(tmp_path):
    frames, exact = passing(8)
    clip = written(frames, tmp_path)
    whole = list(propagation.propagate(clip, {2: exact[2]}))
    part = list(propagation.propagate(clip, {2: exact[2]}, range(3, 6)))
    assert len(part) == 3
    assert all(np.array_equal(a, b) for a, b in zip(whole[3:6], part, strict=True))


def test_frames_are_read_as_they_are_asked_for(tmp_path, monkeypatch):
    frames, exact = passing(8)
    clip = written(frames, tmp_path)
    read: list[int] = []

    def counted(clip):
        for i, frame in enumerate(frames):
            read.append(i)
            yield frame

    monkeypatch.setattr(propagation.video, "read", counted)
    masks = propagation.propagate(clip, {0: exact[0]})
    for _ in range(3):
        next(masks)
    assert read == [0, 1, 2]


def test_masks_of_no_frame_or_another_size_are_refused(tmp_path):
    frames, exact = passing(3)
    clip = written(frames, tmp_path)
    for marks, words in (
        ({}, "no frame has a mask"),
        ({3: exact[0]}, "frame 3 does not exist"),
        ({0: exact[0][:10]}, "is 72x10, the clip 72x48"),
    ):
        with pytest.raises(ValueError, match=words):
            list(propagation.propagate(clip, marks))


def test_a_large_clip_is_followed_small_and_tightened_to_its_own_edges(tmp_path):
    import cv2

    frames, exact = passing(2)
    size = (72 * 21, 48 * 21)  # nearly four times the size of tracking
    large = [cv2.resize(f, size, interpolation=cv2.INTER_NEAREST) for f in frames]
    inside = [cv2.resize(e.astype(np.uint8), size, interpolation=0) > 0 for e in exact]
    found = list(propagation.propagate(written(large, tmp_path), {0: inside[0]}))
    assert found[1].shape == size[::-1]
    assert overlap(found[1], inside[1]) > 0.999  # 0.99 if it is only enlarged


def test_a_thing_that_left_is_found_again_where_it_comes_in():
    frames, exact = passing(9, step=3)
    ground = frames[0].copy()
    ground[16 : 16 + SIDE, 4 : 4 + SIDE] = frames[8][16 : 16 + SIDE, 4 : 4 + SIDE]
    shown = [*frames[:4], *[ground] * 4, frames[8], frames[8]]
    layers = TwoLayerTracker(shown[0].astype(np.float32) / 255, exact[0])
    found = [layers.follow(f.astype(np.float32) / 255) > 0.5 for f in shown[1:]]
    assert not found[5].any()
    assert overlap(found[-1], exact[8]) > 0.6


def test_points_grow_over_the_colour_they_lie_on_and_those_beside_hold_it_back():
    frame = texture(0, 40, 60)
    frame[10:30, 10:30] = (220, 40, 30)
    frame[10:30, 40:60] = (220, 40, 30)  # the same colour, but not marked
    exact = np.zeros(SIZE[::-1], bool)
    exact[10:30, 10:30] = True
    assert overlap(anchors.segment_marks(frame, Marks(points=((20, 20),))), exact) > 0.9
    both = anchors.segment_marks(frame, Marks(boxes=((5, 5, 60, 30),)))
    one = anchors.segment_marks(frame, Marks(boxes=((5, 5, 60, 30),), negative_points=((50, 20),)))
    assert both[20, 50]
    assert not one[20, 50]
    assert one[20, 20]


def test_paint_is_tightened_unless_it_is_exact():
    frames, exact = passing(1)
    rough = grabcut.dilate(exact[0], 2)
    assert overlap(anchors.segment_marks(frames[0], Marks(brush=rough)), exact[0]) > 0.9
    assert np.array_equal(
        anchors.segment_marks(frames[0], Marks(brush=rough, is_exact=True)), rough
    )


def test_a_box_leaves_out_what_is_like_its_surroundings():
    frame = texture(0, 40, 60)
    frame[10:34, 20:44] = (220, 40, 30)
    frame[18:26, 28:36] = texture(0, 40, 60)[18:26, 28:36]  # a hole
    inside = anchors.segment_marks(frame, Marks(boxes=((20, 10, 24, 24),)))
    assert inside[12, 22]
    assert not inside[22, 32]


@pytest.mark.parametrize(
    ("text", "kind", "frame", "marks"),
    [
        ("1,2,30,20", "", 0, Marks(boxes=((1, 2, 30, 20),))),
        ("2=1,2,30,20", "box", 2, Marks(boxes=((1, 2, 30, 20),))),
        ("1,2", "", 0, Marks(points=((1, 2),))),
        (
            "1 = 5,6 !7,8;9,9",
            "points",
            1,
            Marks(points=((5, 6), (9, 9)), negative_points=((7, 8),)),
        ),
    ],
)
def test_what_is_typed(text, kind, frame, marks, tmp_path):
    clip = written(passing(3)[0], tmp_path)
    assert anchors.parse_marks(text, clip, kind) == (frame, marks)


def test_a_painted_picture_of_any_size_is_a_mark(tmp_path):
    clip = written(passing(3)[0], tmp_path)
    inside = np.zeros((24, 36), np.uint8)
    inside[4:10, 8:20] = 255
    Image.fromarray(inside).save(tmp_path / "2=paint.png")
    Image.fromarray(inside).save(tmp_path / "paint.png")
    for text, frame in ((f"2={tmp_path}/paint.png", 2), (f"{tmp_path}/2=paint.png", 0)):
        found, marks = anchors.parse_marks(text, clip)
        assert found == frame
        assert marks.brush.sum() == 4 * 6 * 12


@pytest.mark.parametrize(
    ("text", "kind", "words"),
    [
        ("3=1,2,3,4", "", "frame 3, and the clip has frames 0 to 2"),
        ("60,2,30,20", "", "not inside the 72x48 frame"),
        ("80,2", "", "the point 80,2 is not inside"),
        ("nothing.png", "", "no file nothing.png"),
        ("1,2", "box", "--box takes"),
        ("1,2,3,4", "points", "--points takes"),
    ],
)
def test_what_is_no_mark_is_refused_with_what_is_one(text, kind, words, tmp_path):
    clip = written(passing(3)[0], tmp_path)
    with pytest.raises(ValueError, match=words):
        anchors.parse_marks(text, clip, kind)


def test_the_picture_to_look_at_is_the_frame_but_for_the_tint_and_its_outline():
    frame, inside = texture(0, 0, 255), np.zeros(SIZE[::-1], bool)
    inside[10:20, 10:20] = True
    shown = overlays.draw_mask(frame, inside)
    assert shown.dtype == np.uint8
    assert (shown[10:20, 10:20] != frame[10:20, 10:20]).any(2).all()
    assert (shown[9, 10:20] == 255).all()
    assert np.array_equal(shown[:8], frame[:8])
    deep = (frame.astype(np.uint16) << 8) | frame
    assert np.array_equal(overlays.draw_mask(deep, inside), shown)
