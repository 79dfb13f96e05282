"""Estimate optical flow between two frames, warp along it, find occlusions, and track points along it.

Frames are `H W 3` float32 in [0, 1]. Flow is `H W 2` float32 in pixels (x, y), from each pixel of the first frame to
its place in the second. A flow function takes two frames and returns the flow; its `__name__` names it in results.
RAFT is in `models/vision/raft.py`, the flow between a clip's latent frames in `models/vision/latent_flow.py`.
"""

from collections.abc import Callable

import cv2
import numpy as np
from numpy import ndarray

FlowFunction = Callable[[ndarray, ndarray], ndarray]
MIN_SIDE = 24  # pixels of a side; DIS needs room for its pyramid
SHARP_MIN_SIDE = 128  # pixels of a side; below, patches of 8 pixels are too coarse
NEIGHBOUR_OFFSET = 6  # pixels to the neighbours whose vector is tried, about half a patch
NOISE_FACTOR = 10  # another vector must be better by this many times the frame's median mismatch


def dis(first: ndarray, second: ndarray) -> ndarray:
    """Return the flow by dense inverse search (Kroeger et al., arXiv:1603.03590), OpenCV's medium preset."""
    search = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    return _run_dis(search, first, second, upscale_factor(first, MIN_SIDE))


def fast_dis(first: ndarray, second: ndarray) -> ndarray:
    """Return the flow by DIS with OpenCV's fast preset, for what only has to be found again."""
    search = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
    return _run_dis(search, first, second, upscale_factor(first, MIN_SIDE))


def sharp_dis(first: ndarray, second: ndarray) -> ndarray:
    """Return the flow by DIS at its finest scale, without smoothing, with edges where the picture has them.

    DIS moves whole patches, so that static pixels near a moving object move too. Each pixel therefore compares its own
    vector with those around it and with the frame's median, and takes the one that leads to the most similar colour if
    the others are clearly worse. A median filter removes single pixels.
    """
    search = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    search.setFinestScale(0)
    search.setVariationalRefinementIterations(0)
    flow = _run_dis(search, first, second, upscale_factor(first, SHARP_MIN_SIDE))
    return _sharpen(flow, first, second)


def _sharpen(flow: ndarray, first: ndarray, second: ndarray) -> ndarray:
    mismatch = _mismatch(flow, first, second)
    best, lowest = flow, mismatch - NOISE_FACTOR * np.median(mismatch)
    median = np.median(flow, (0, 1)).astype(np.float32)
    for other in (np.broadcast_to(median, flow.shape), *_neighbour_flows(flow)):
        mismatch = _mismatch(other, first, second)
        is_better = mismatch < lowest
        best = np.where(is_better[..., None], other, best)
        lowest = np.where(is_better, mismatch, lowest)
    return np.stack(
        [cv2.medianBlur(np.ascontiguousarray(part), 5) for part in np.moveaxis(best, -1, 0)], -1
    )


def _mismatch(flow: ndarray, first: ndarray, second: ndarray) -> ndarray:
    """Return the squared difference of each pixel's colour to the one where its flow ends, H W."""
    return _squared_norm(first - warp(second, flow))


def _neighbour_flows(flow: ndarray) -> list[ndarray]:
    """Return the flow of each pixel's neighbours in eight directions."""
    height, width = flow.shape[:2]
    offset = NEIGHBOUR_OFFSET
    padded = np.pad(flow, ((offset, offset), (offset, offset), (0, 0)), mode="edge")
    flows = []
    for y, x in np.ndindex(3, 3):
        if (y, x) != (1, 1):
            top, left = y * offset, x * offset
            flows.append(padded[top : top + height, left : left + width])
    return flows


def upscale_factor(frame: ndarray, min_side: int) -> int:
    """Return the whole factor by which a frame has to be enlarged so that its shorter side has `min_side` pixels."""
    return max(1, -(-min_side // min(frame.shape[:2])))


def _run_dis(search: cv2.DISOpticalFlow, first: ndarray, second: ndarray, scale: int) -> ndarray:
    pair = _grey(first, scale), _grey(second, scale)
    # None lets OpenCV allocate the flow; its stub does not say so
    flow = search.calc(*pair, None)  # pyright: ignore[reportCallIssue, reportArgumentType]
    return downscale_flow(flow, first.shape[:2], scale)


def downscale_flow(flow: ndarray, size: tuple[int, ...], scale: int) -> ndarray:
    """Return the flow of frames enlarged by `scale` as the flow of frames of this size (height, width)."""
    if scale == 1:
        return flow
    return cv2.resize(flow, size[::-1], interpolation=cv2.INTER_AREA) / scale


def _grey(frame: ndarray, scale: int) -> ndarray:
    """Return a frame in grey, uint8, enlarged by a whole factor."""
    eight_bits = np.rint(frame * 255).astype(np.uint8)
    grey = cv2.cvtColor(eight_bits, cv2.COLOR_RGB2GRAY)
    if scale == 1:
        return grey
    return cv2.resize(grey, None, fx=scale, fy=scale, interpolation=cv2.INTER_LINEAR)


def warp(image: ndarray, flow: ndarray) -> ndarray:
    """Return W(I, F)(p) = I(p + F(p)), bilinear. image: H W or H W c.

    Beyond the frame the edge is repeated: see `ends_in_frame`.
    """
    x, y = _end_points(flow)
    return _sample(image, x, y)


def _sample(image: ndarray, x: ndarray, y: ndarray) -> ndarray:
    return cv2.remap(image, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def ends_in_frame(flow: ndarray) -> ndarray:
    """Return where the flow ends inside the frame, H W boolean."""
    height, width = flow.shape[:2]
    x, y = _end_points(flow)
    in_columns = (x >= 0) & (x <= width - 1)
    in_rows = (y >= 0) & (y <= height - 1)
    return in_columns & in_rows


def _end_points(flow: ndarray) -> tuple[ndarray, ndarray]:
    """Return where the flow of each pixel ends, x and y, each H W."""
    height, width = flow.shape[:2]
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    return x + flow[..., 0], y + flow[..., 1]


def compose(first: ndarray, second: ndarray) -> ndarray:
    """Return the flow from frame 0 to frame 2. first: from frame 0 to frame 1; second: from frame 1 to frame 2."""
    return first + warp(second, first)


def occlusion(forward: ndarray, backward: ndarray) -> ndarray:
    """Return the pixels of the first frame that the second does not show, H W boolean: covered or out of the frame.

    Sundaram et al. (ECCV 2010), all magnitudes squared, in pixels, with F = forward and B = backward: covered where
    |F + W(B,F)|^2 > 0.01 (|W(B,F)|^2 + |F|^2) + 0.5.
    """
    returned = warp(backward, forward)  # W(B, F)
    sizes = _squared_norm(returned) + _squared_norm(forward)
    covered = _squared_norm(forward + returned) > 0.01 * sizes + 0.5
    return covered | ~ends_in_frame(forward)


def visibility(forward: ndarray, backward: ndarray) -> ndarray:
    """Return the pixels of the first frame that can be followed into the second, H W boolean.

    Lai et al. (arXiv:1808.00449): neither occluded nor at a motion boundary, where
    |grad F|^2 > 0.01 |F|^2 + 0.002 (differences to the next row and column).
    """
    boundary = _squared_gradient(forward) > 0.01 * _squared_norm(forward) + 0.002
    return ~occlusion(forward, backward) & ~boundary


def _squared_norm(vectors: ndarray) -> ndarray:
    """Return |F|^2, H W."""
    return (vectors**2).sum(-1)


def _squared_gradient(flow: ndarray) -> ndarray:
    """Return |grad F|^2, H W, from differences to the next column and row."""
    squared = np.zeros(flow.shape[:2], np.float32)
    squared[:, :-1] += _squared_norm(np.diff(flow, axis=1))
    squared[:-1] += _squared_norm(np.diff(flow, axis=0))
    return squared


class PointTracks:
    """Points on a regular grid of the first frame, tracked along flow.

    `steps`: the displacement of each step, n 2, NaN from the step at which a point leaves the frame.
    """

    def __init__(self, height: int, width: int, side: int):
        centres = np.arange(side) + 0.5
        x = centres * width / side - 0.5
        y = centres * height / side - 0.5
        points = np.stack(np.meshgrid(x, y), -1)
        self.points = points.reshape(-1, 2).astype(np.float32)  # n 2, (x, y)
        self.steps: list[ndarray] = []

    def follow(self, flow: ndarray) -> None:
        """Move every point along the flow at its position."""
        height, width = flow.shape[:2]
        x = np.ascontiguousarray(self.points[:, 0])[None]
        y = np.ascontiguousarray(self.points[:, 1])[None]
        step = _sample(flow, x, y)[0]
        moved = self.points + step
        in_frame = (moved >= 0) & (moved <= (width - 1, height - 1))
        is_lost = ~in_frame.all(1)  # comparisons with NaN are false, so a lost point stays lost
        step[is_lost] = np.nan
        moved[is_lost] = np.nan
        self.steps.append(step)
        self.points = moved.astype(np.float32)
