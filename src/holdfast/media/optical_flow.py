"""Optical flow between two frames, warping along it, where it cannot be followed, and tracks chained from it.

Frames are `H W 3` float32 in [0, 1]; flow is `H W 2` float32 in pixels (x, y), from each pixel of the first frame to
where it went in the second. A flow function is anything that takes two frames and returns that; its `__name__` names it
in results. Another one is in `raft.py`; the flow of a whole clip on a model's latent grid in `flows.py`.
"""

from collections.abc import Callable

import cv2
import numpy as np
from numpy import ndarray

FlowFunction = Callable[[ndarray, ndarray], ndarray]
LEAST = 24  # pixels of a side; DIS needs room for its pyramid
SHARP_LEAST = 128  # below, patches of 8 pixels are too coarse for what moves
AROUND = 6  # pixels from which a vector is borrowed, about half a patch
CLEARLY = 10  # it must be better by this many times the frame's median mismatch, which is noise


def dis(first: ndarray, second: ndarray) -> ndarray:
    """Dense inverse search (Kroeger et al., arXiv:1603.03590) by OpenCV, at its medium preset."""
    searching = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    return _searched(searching, first, second, upscale_factor(first, LEAST))


def sharp_dis(first: ndarray, second: ndarray) -> ndarray:
    """DIS down to its finest scale, unsmoothed, with edges where the picture has them.

    DIS moves whole patches, so that what is at rest beside a moving thing moves too. Each pixel therefore takes, of its
    own vector, those around it and the frame's median, the one that leads to the most similar colour, if the others are
    clearly worse; a median filter takes out single pixels.
    """
    searching = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    searching.setFinestScale(0)
    searching.setVariationalRefinementIterations(0)
    flow = _searched(searching, first, second, upscale_factor(first, SHARP_LEAST))
    return _sharpened(flow, first, second)


def _sharpened(flow: ndarray, first: ndarray, second: ndarray) -> ndarray:
    mismatch = _mismatch(flow, first, second)
    best, least = flow, mismatch - CLEARLY * np.median(mismatch)
    median = np.median(flow, (0, 1)).astype(np.float32)
    for other in (np.broadcast_to(median, flow.shape), *_shifted(flow)):
        mismatch = _mismatch(other, first, second)
        better = mismatch < least
        best = np.where(better[..., None], other, best)
        least = np.where(better, mismatch, least)
    return np.stack(
        [cv2.medianBlur(np.ascontiguousarray(part), 5) for part in np.moveaxis(best, -1, 0)], -1
    )


def _mismatch(flow: ndarray, first: ndarray, second: ndarray) -> ndarray:
    """Squared difference of each pixel's colour to the one that it is led to, H W."""
    return _squared(first - warp(second, flow))


def _shifted(flow: ndarray) -> list[ndarray]:
    """Flow as the pixels around have it, in eight directions."""
    height, width = flow.shape[:2]
    wide = np.pad(flow, ((AROUND, AROUND), (AROUND, AROUND), (0, 0)), mode="edge")
    found = []
    for y, x in np.ndindex(3, 3):
        if (y, x) != (1, 1):
            top, left = y * AROUND, x * AROUND
            found.append(wide[top : top + height, left : left + width])
    return found


def upscale_factor(frame: ndarray, least: int) -> int:
    """How many times larger a frame must be for its sides to have so many pixels."""
    return max(1, -(-least // min(frame.shape[:2])))


def _searched(searching, first: ndarray, second: ndarray, scale: int) -> ndarray:
    flow = searching.calc(_grey(first, scale), _grey(second, scale), None)
    return downscale_flow(flow, first.shape[:2], scale)


def downscale_flow(flow: ndarray, size: tuple[int, int], scale: int) -> ndarray:
    """Flow of frames so many times as large, as that of frames of this size."""
    if scale == 1:
        return flow
    return cv2.resize(flow, size[::-1], interpolation=cv2.INTER_AREA) / scale


def _grey(frame: ndarray, scale: int) -> ndarray:
    """H W uint8, so many times as large."""
    eight_bits = np.rint(frame * 255).astype(np.uint8)
    grey = cv2.cvtColor(eight_bits, cv2.COLOR_RGB2GRAY)
    if scale == 1:
        return grey
    return cv2.resize(grey, None, fx=scale, fy=scale, interpolation=cv2.INTER_LINEAR)


def warp(image: ndarray, flow: ndarray) -> ndarray:
    """W(I, F)(p) = I(p + F(p)), bilinear. image: H W or H W c.

    What comes from beyond the edge repeats it: see `inside`.
    """
    x, y = _ends(flow)
    return _sampled(image, x, y)


def _sampled(image: ndarray, x: ndarray, y: ndarray) -> ndarray:
    return cv2.remap(image, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def ends_in_frame(flow: ndarray) -> ndarray:
    """Where the flow ends within the frame, H W boolean."""
    height, width = flow.shape[:2]
    x, y = _ends(flow)
    in_columns = (x >= 0) & (x <= width - 1)
    in_rows = (y >= 0) & (y <= height - 1)
    return in_columns & in_rows


def _ends(flow: ndarray) -> tuple[ndarray, ndarray]:
    """Where each pixel goes, x and y."""
    height, width = flow.shape[:2]
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    return x + flow[..., 0], y + flow[..., 1]


def compose(flow: ndarray, onward: ndarray) -> ndarray:
    """Flow from a first frame to a third, of the flow to the second and that onward from there."""
    return flow + warp(onward, flow)


def occlusion(forward: ndarray, backward: ndarray) -> ndarray:
    """Pixels of the first frame that the second does not show, H W boolean: covered there, or beyond the frame.

    The rule of Sundaram et al. (ECCV 2010), all magnitudes squared, in pixels: F = forward, B = backward; covered where
    |F + W(B,F)|^2 > 0.01 (|W(B,F)|^2 + |F|^2) + 0.5.
    """
    returned = warp(backward, forward)  # W(B, F)
    sizes = _squared(returned) + _squared(forward)
    covered = _squared(forward + returned) > 0.01 * sizes + 0.5
    return covered | ~ends_in_frame(forward)


def visibility(forward: ndarray, backward: ndarray) -> ndarray:
    """Pixels of the first frame that can be followed into the second, H W boolean.

    The rule of Lai et al. (arXiv:1808.00449): neither occluded nor at a motion boundary, where
    |grad F|^2 > 0.01 |F|^2 + 0.002 (differences to the next row and column).
    """
    boundary = _slope(forward) > 0.01 * _squared(forward) + 0.002
    return ~occlusion(forward, backward) & ~boundary


def _squared(flow: ndarray) -> ndarray:
    """|F|^2, H W."""
    return (flow**2).sum(-1)


def _slope(flow: ndarray) -> ndarray:
    """|grad F|^2, H W: differences to the next column and row."""
    slope = np.zeros(flow.shape[:2], np.float32)
    slope[:, :-1] += _squared(np.diff(flow, axis=1))
    slope[:-1] += _squared(np.diff(flow, axis=0))
    return slope


class PointTracks:
    """Points on a grid of the first frame, followed along flow.

    `steps`: each step's displacement n 2, NaN once a point is lost.
    """

    def __init__(self, height: int, width: int, side: int):
        centres = np.arange(side) + 0.5
        x = centres * width / side - 0.5
        y = centres * height / side - 0.5
        points = np.stack(np.meshgrid(x, y), -1)
        self.points = points.reshape(-1, 2).astype(np.float32)  # n 2, (x, y)
        self.steps: list[ndarray] = []

    def follow(self, flow: ndarray) -> None:
        """Move every point along the flow at its place."""
        height, width = flow.shape[:2]
        x = np.ascontiguousarray(self.points[:, 0])[None]
        y = np.ascontiguousarray(self.points[:, 1])[None]
        step = _sampled(flow, x, y)[0]
        moved = self.points + step
        in_frame = (moved >= 0) & (moved <= (width - 1, height - 1))
        lost = ~in_frame.all(1)  # a point that is NaN is lost too
        step[lost] = np.nan
        moved[lost] = np.nan
        self.steps.append(step)
        self.points = moved.astype(np.float32)
