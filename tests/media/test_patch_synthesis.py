"""Guided patch synthesis: energy, vote and search against loops over single pixels, and what a propagation promises."""

import itertools

import numpy as np
import pytest

from holdfast.media.patch_synthesis import (
    blending,
    energy,
    guides,
    patch_match,
    propagation,
    synthesis,
)
from holdfast.media.patch_synthesis.synthesis import Example, Guide, Options

SIZE = (7, 8)
PATCH = 3
REACH = range(-(PATCH // 2), PATCH // 2 + 1)


def random_picture(seed, size=SIZE, channels=3):
    return np.random.default_rng(seed).random((*size, channels), np.float32)


def random_field(seed, size=SIZE):
    return np.random.default_rng(seed).integers(0, size, (*size, 2)).astype(np.int32)


def at(picture, y, x):
    """The pixel there; beyond the frame, the one at its edge."""
    height, width = picture.shape[:2]
    return picture[min(max(y, 0), height - 1), min(max(x, 0), width - 1)].astype(np.float64)


def pixels(size=SIZE):
    return itertools.product(range(size[0]), range(size[1]))


def naive_distance(source, target, p, q):
    pairs = itertools.product(REACH, REACH)
    return sum(
        float(((at(source, q[0] + y, q[1] + x) - at(target, p[0] + y, p[1] + x)) ** 2).sum())
        for y, x in pairs
    )


def naive_usage(field):
    covered = np.zeros(field.shape[:2])
    for (y, x), p in itertools.product(pixels(), pixels()):
        inside = abs(field[p][0] - y) <= PATCH // 2 and abs(field[p][1] - x) <= PATCH // 2
        covered[y, x] += inside
    used = np.zeros(field.shape[:2])
    for y, x in pixels():
        around = [at(covered, y + dy, x + dx) for dy, dx in itertools.product(REACH, REACH)]
        used[y, x] = np.mean(around) / PATCH**2
    return used


def naive_vote(style, field):
    out = np.zeros(style.shape)
    for y, x in pixels():
        copied = []
        for dy, dx in itertools.product(REACH, REACH):
            p = y - dy, x - dx
            if 0 <= p[0] < SIZE[0] and 0 <= p[1] < SIZE[1]:
                q = field[p]
                copied.append(at(style, q[0] + dy, q[1] + dx))
        out[y, x] = np.mean(copied, 0)
    return out


def naive_features(example, picture, style_weight):
    """Style and guides in 8-bit steps; the weight of each is divided among its channels."""
    parts = [(example.style, picture, style_weight)]
    parts += [(guide.source, guide.target, guide.weight) for guide in example.guides]
    scaled = [[255 * np.sqrt(w / a.shape[2]) * picture for picture in (a, b)] for a, b, w in parts]
    return [np.concatenate(pictures, 2) for pictures in zip(*scaled, strict=True)]


def naive_search(source, target, field, rng, iterations, uniformity):
    """PatchMatch by loops: every pixel is compared with the field before the candidate."""
    top = np.array(SIZE) - 1

    def consider(candidates):
        before = field.copy()
        for p in pixels():
            q, old = candidates[p], before[p]
            costs = [
                naive_distance(source, target, p, m) + uniformity * used[m[0], m[1]]
                for m in (q, old)
            ]
            if costs[0] < costs[1]:
                field[p] = q

    for _ in range(iterations):
        used = naive_usage(field)
        for jump, (dy, dx) in itertools.product((4, 2, 1), ((-1, 0), (1, 0), (0, -1), (0, 1))):
            offset = jump * np.array((dy, dx))
            candidates = field.copy()
            for p in pixels():
                neighbour = np.clip(p + offset, 0, top)
                candidates[p] = np.clip(field[tuple(neighbour)] - offset, 0, top)
            consider(candidates)
        for radius in (8, 4, 2, 1):
            moves = rng.integers(-radius, radius + 1, (SIZE[0] * SIZE[1], 2)).reshape(*SIZE, 2)
            consider(np.clip(field + moves, 0, top))


def random_example():
    guide = Guide(random_picture(2), random_picture(3), 6.0)
    position = Guide(random_picture(4, channels=2), random_picture(5, channels=2), 2.0)
    return Example(random_picture(1), (guide, position))


def test_the_energy_is_that_of_loops_over_pixels():
    source, target, field = random_picture(1), random_picture(2), random_field(3)
    used = naive_usage(field)
    expected = sum(
        naive_distance(source, target, p, field[p]) + 5.0 * used[tuple(field[p])] for p in pixels()
    )
    space = energy.make_space(source, target, PATCH)
    assert energy.energy(space, field, 5.0) == pytest.approx(expected, rel=1e-5)
    assert energy.usage(field, PATCH) == pytest.approx(used, rel=1e-5)


def test_a_bound_only_ends_sums_that_reach_it():
    space = energy.make_space(random_picture(1), random_picture(2), 5)
    p, q = energy.all_points(SIZE), random_field(3).reshape(-1, 2)
    whole = energy.patch_distances(space, p, q)
    bound = whole * np.tile([0.5, 1.5], len(whole) // 2).astype(np.float32)
    bounded = energy.patch_distances(space, p, q, bound)
    assert np.array_equal(bounded < bound, whole < bound)
    assert bounded[1::2] == pytest.approx(whole[1::2], rel=1e-5)


def test_the_usage_of_a_field_that_uses_all_patches_equally_is_1():
    y, x = np.mgrid[:20, :20]
    used = energy.usage(np.stack((y, x), -1), 5)
    assert used[4:-4, 4:-4] == pytest.approx(1.0)


def test_a_vote_is_the_mean_of_what_patches_copy():
    style, field = random_picture(1), random_field(2)
    assert synthesis.vote(style, field, PATCH) == pytest.approx(naive_vote(style, field), abs=1e-6)


def test_a_synthesis_is_that_of_loops_over_pixels():
    """Search and vote in turn, with every weight, the penalty of usage, and the same random candidates."""
    example = random_example()
    options = Options(
        patch=PATCH, iterations=2, search_iterations=1, stop_threshold=0, style_weight=2.0, seed=4
    )
    found = synthesis.synthesize(example, options, key=(3,))
    rng = np.random.default_rng([4, 3])
    field = rng.integers(0, SIZE, (*SIZE, 2))
    picture = naive_vote(example.style, field)
    for _ in range(2):
        source, target = naive_features(example, picture, 2.0)
        naive_search(source, target, field, rng, 1, 3500.0)
        picture = naive_vote(example.style, field)
    assert np.array_equal(found.field, field)
    assert found.picture == pytest.approx(picture, abs=1e-5)
    source, target = naive_features(example, picture, 2.0)
    p = (3, 4)
    distance = naive_distance(source, target, p, field[p])
    assert found.error[p] == pytest.approx(distance / PATCH**2, rel=1e-4)


@pytest.mark.parametrize("uniformity", [0.0, 3500.0])
def test_the_search_finds_a_known_shift_exactly(uniformity):
    """From random points, every patch that lies inside the source's frame is found."""
    source = random_picture(0, (40, 36))
    target = np.roll(source, (3, -2), (0, 1))  # target(p) = source(p - shift)
    example = Example(source, (Guide(source, target, 6.0),))
    found = synthesis.synthesize(example, Options(uniformity=uniformity)).field
    y, x = np.mgrid[:40, :36]
    shift = found - np.stack((y, x), -1)
    assert (shift[5:-2, 2:-4] == (-3, 2)).all()


def test_the_search_never_raises_the_energy():
    source, target = random_picture(1, (20, 24)), random_picture(2, (20, 24))
    space = energy.make_space(255 * source, 255 * target, 5)
    points = energy.all_points(space.size)
    matches = patch_match.begin_matches(space, random_field(3, space.size), points)
    before = energy.energy(space, matches.field, 0.0)
    patch_match.search(space, matches, points, np.random.default_rng(0), 2, 0.0)
    after = energy.energy(space, matches.field, 0.0)
    assert after < 0.7 * before
    assert matches.distances.sum() == pytest.approx(after, rel=1e-5)


def test_uniformity_spreads_the_matches():
    """A flat target has many equal matches in a flat source; the penalty lets no few of them serve all pixels."""
    flat = np.full((24, 24, 3), 0.5, np.float32)
    source = flat + 0.1 * random_picture(0, (24, 24))
    example = Example(source, (Guide(source, flat, 6.0),))
    used = [
        energy.usage(synthesis.synthesize(example, Options(uniformity=u)).field, 5).std()
        for u in (0.0, 3500.0)
    ]
    assert used[1] < 0.7 * used[0]


def test_a_pyramid_has_room_for_two_patches_on_each_level():
    assert synthesis.level_sizes((64, 48), Options()) == [(16, 12), (32, 24), (64, 48)]
    assert synthesis.level_sizes((64, 48), Options(levels=2)) == [(32, 24), (64, 48)]
    assert synthesis.level_sizes((3, 2), Options()) == [(3, 2)]


def test_an_enlarged_field_keeps_the_shift_of_each_pixel():
    y, x = np.mgrid[:6, :5]
    small = np.stack((y, x), -1) + np.array((1, -1))
    large = synthesis.enlarge_field(np.clip(small, 0, (5, 4)), (13, 10))
    y, x = np.mgrid[:13, :10]
    shift = large - np.stack((y, x), -1)
    assert (shift[:10, 2:] == (2, -2)).all()


def test_weights_and_guides_of_a_frame():
    frame, other = random_picture(1), random_picture(2)
    own = guides.own_positions(SIZE)
    pair = guides.GuidePair((frame, other), (other, frame), (own, own + np.array((1, 0))))
    made = guides.make_guides(pair, guides.GuideWeights())
    assert [guide.weight for guide in made] == [6.0, 0.5, 0.5, 2.0]
    assert np.array_equal(made[0].target, other)
    assert np.array_equal(made[1].source, guides.edges(frame))
    assert np.array_equal(made[2].source, other)
    assert made[3].target[0, 1] == pytest.approx((2 / SIZE[1], 0))
    flat = np.full((9, 9, 3), 0.3, np.float32)
    assert guides.edges(flat) == pytest.approx(0.5)
    assert len(guides.make_guides(pair, guides.GuideWeights(edges=0.0))) == 3


def moving_clip(frames=5, size=(40, 48), seed=0):
    """A smooth texture that moves by (1, 2) pixels a frame, with its exact flow."""
    import cv2

    noise = random_picture(seed, (size[0] + 20, size[1] + 20))
    texture = cv2.GaussianBlur(noise, (0, 0), 1.5)
    texture = (texture - texture.min()) / (texture.max() - texture.min())
    cut = [
        texture[10 - t : 10 - t + size[0], 10 - 2 * t : 10 - 2 * t + size[1]] for t in range(frames)
    ]
    step = np.array((2, 1), np.float32)

    def flows(frame, other):
        return np.broadcast_to((other - frame) * step, (*size, 2)).astype(np.float32)

    return [np.ascontiguousarray(frame) for frame in cut], flows


def psnr(a, b):
    return -10 * np.log10(((a - b) ** 2).mean() + 1e-12)


FAST = propagation.PropagationOptions(Options(iterations=2, search_iterations=2))


def test_an_unedited_keyframe_gives_the_clip_back():
    """Above 40 dB where the keyframe shows the pixels; a static clip exactly."""
    frames, flows = moving_clip(3)
    found = list(propagation.propagate(frames, flows, {0: frames[0]}, FAST))
    assert len(found) == 3
    assert np.array_equal(found[0], frames[0])
    assert all(psnr(a[8:, 12:], b[8:, 12:]) > 40 for a, b in zip(found, frames, strict=True))
    still, none = [frames[0]] * 3, lambda frame, other: np.zeros((40, 48, 2), np.float32)
    found = list(propagation.propagate(still, none, {0: frames[0]}, FAST))
    assert all(psnr(a, frames[0]) > 100 for a in found[1:])


def test_an_edit_follows_the_clip():
    frames, flows = moving_clip(4)
    truth = [1 - frame for frame in frames]
    found = list(propagation.propagate(frames, flows, {0: truth[0]}, FAST))
    assert all(psnr(a[8:, 12:], b[8:, 12:]) > 40 for a, b in zip(found, truth, strict=True))


def test_frames_between_two_keyframes_are_of_both():
    """The left half is edited in the first keyframe only: the edit fades out towards the second."""
    still = [random_picture(1, (24, 24))] * 4
    edited = still[0].copy()
    edited[:, :12] = 0.5 * edited[:, :12]

    def none(frame, other):
        return np.zeros((24, 24, 2), np.float32)

    options = propagation.PropagationOptions(FAST.synthesis, blend="average")
    found = list(propagation.propagate(still, none, {0: edited, 3: still[0]}, options))
    assert np.array_equal(found[0], edited)
    assert np.array_equal(found[3], still[0])
    brightness = [float(frame[:, :10].mean() / still[0][:, :10].mean()) for frame in found]
    assert brightness == pytest.approx([0.5, 2 / 3, 5 / 6, 1.0], abs=0.02)


def test_the_order_of_the_syntheses():
    parts = propagation.plan_parts(6, [0, 3])
    assert [(part.frame, part.key, part.other) for part in parts] == [
        (2, 3, 0),
        (1, 3, 0),
        (1, 0, 3),
        (2, 0, 3),
        (4, 3, None),
        (5, 3, None),
    ]
    assert [part.neighbour for part in parts] == [3, 2, 0, 1, 3, 4]
    assert propagation.plan_parts(1, [0]) == []


def test_pixels_outside_are_the_clips_own():
    frames, flows = moving_clip(3, (24, 24))
    inside = np.zeros((24, 24), bool)
    inside[:, 6:15] = True
    clip = propagation.Clip(frames, flows, {0: 1 - frames[0]}, lambda frame: inside)
    assert np.array_equal(clip.style(0)[~inside], frames[0][~inside])
    state = {}
    for part in propagation.plan_parts(3, [0]):
        state, picture = propagation.run_part(clip, part, state, FAST)
        assert np.array_equal(picture[~inside], frames[part.frame][~inside])
        truth = 1 - frames[part.frame]
        assert psnr(picture[4:, 11:14], truth[4:, 11:14]) > 20


def test_a_blend_of_different_pictures_keeps_their_contrast():
    first, second = random_picture(1, (30, 30)), random_picture(2, (30, 30))
    errors = np.zeros((30, 30)), np.ones((30, 30))
    plain = blending.blend(first, second, 0.5, errors, "average")
    assert plain == pytest.approx((first + second) / 2)
    assert plain.std() < 0.8 * first.std()
    restored = blending.blend(first, second, 0.5, errors, "contrast")
    assert restored.std() == pytest.approx(first.std(), rel=0.1)
    assert restored.mean((0, 1)) == pytest.approx(plain.mean((0, 1)), abs=0.02)
    for kind in ("average", "contrast", "poisson"):
        assert blending.blend(first, first, 0.3, errors, kind) == pytest.approx(first, abs=1e-5)
    assert blending.blend(first, second, 0.0, errors, "average") == pytest.approx(first)


def test_the_poisson_blend_solves_its_equation():
    """The minimum of |grad u - g|^2 + weight |u - colours|^2, against the normal equations as a dense matrix."""
    size, weight = (4, 5), blending.POISSON_WEIGHT
    picture, colours = (0.3 + 0.4 * random_picture(seed, size) for seed in (1, 2))
    parts = np.zeros(size, bool)
    parts[:, 3:] = True
    index = np.arange(20).reshape(size)
    rows, wanted = [], []
    neighbours = [*zip(index[:-1].ravel(), index[1:].ravel(), strict=True)]
    neighbours += [*zip(index[:, :-1].ravel(), index[:, 1:].ravel(), strict=True)]
    flat, flags = picture.reshape(20, 3), parts.ravel()
    for a, b in neighbours:
        row = np.zeros(20)
        row[a], row[b] = -1, 1
        rows.append(row)
        wanted.append(flat[b] - flat[a] if flags[a] == flags[b] else np.zeros(3))
    rows = np.array([*rows, *(np.sqrt(weight) * np.eye(20))])
    wanted = np.array([*wanted, *(np.sqrt(weight) * colours.reshape(20, 3))])
    solution = np.linalg.lstsq(rows, wanted, rcond=None)[0].reshape(*size, 3)
    found = blending.follow_gradients(picture, colours, parts)
    assert found == pytest.approx(np.clip(solution, 0, 1), abs=1e-5)


def test_the_poisson_blend_has_the_gradients_of_the_better_match():
    first, second = random_picture(1, (20, 20)), random_picture(2, (20, 20))
    errors = np.zeros((20, 20)), np.ones((20, 20))
    errors[1][:, 10:] = -1  # the second one is better in the right half
    found = blending.blend(first, second, 0.5, errors, "poisson")

    def likeness(a, b):
        return np.corrcoef(np.diff(a, axis=0).ravel(), np.diff(b, axis=0).ravel())[0, 1]

    assert likeness(found[:, :8], first[:, :8]) > 0.9
    assert likeness(found[:, 12:], second[:, 12:]) > 0.9
    assert likeness(found[:, 12:], first[:, 12:]) < 0.3


def test_the_search_of_a_frame_begins_where_the_flow_leads():
    frames, flows = moving_clip(3)
    clip = propagation.Clip(frames, flows, {0: frames[0]})
    state = {}
    for part in propagation.plan_parts(3, [0]):
        state, _ = propagation.run_part(clip, part, state, FAST)
    y, x = 20, 30
    moved = state["positions"]  # (x, y): two frames of (2, 1) pixels back
    assert moved[y, x] == pytest.approx((x - 4, y - 2))
    example = propagation.make_example(clip, part, frames[0], moved, FAST)
    assert example.start[y, x] == pytest.approx((y - 2, x - 4))
    random = propagation.PropagationOptions(starts_from_flow=False)
    assert propagation.make_example(clip, part, frames[0], moved, random).start is None


def test_the_last_pass_has_smaller_patches():
    example = random_example()
    found = synthesis.synthesize(example, Options(extra_pass=True, iterations=1))
    assert found.picture == pytest.approx(naive_vote(example.style, found.field), abs=1e-5)
