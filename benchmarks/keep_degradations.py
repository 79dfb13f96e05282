"""Degrade an edited clip as editors do, and record the exact mapping back to its source.

Coordinates are of pixel centres: a matrix maps source pixels to edited pixels, as `cv2.warpAffine` takes it. Settings
that may vary a little between clips are drawn from a seed, so that no two clips have the same shift or colours.
"""

import io
from collections.abc import Callable
from dataclasses import dataclass, replace

import av
import cv2
import numpy as np
from numpy import ndarray

VaeRoundTrip = Callable[[ndarray], ndarray]  # f H W 3 uint8 to the same; sides are multiples of 16
# Black bars make one of these aspects: the first that differs from the clip's own is at a seeded place.
ASPECTS = (16 / 9, 4 / 3, 1.0)
EDITED_RATE = 16  # frames per second after the degradation "rate"
DROPPED_FRAMES = 3
CRF = 30
VAE_MULTIPLE = 16


@dataclass(frozen=True)
class ColourChange:
    """What "colour" does to values in [0, 1]: (gain * value + offset) ** gamma, per channel."""

    gain: tuple[float, ...] = (1.0, 1.0, 1.0)
    offset: tuple[float, ...] = (0.0, 0.0, 0.0)
    gamma: float = 1.0

    def apply(self, frames: ndarray) -> ndarray:
        """Return the changed frames, uint8."""
        levels = np.arange(256)[:, None] / 255
        changed = (levels * self.gain + self.offset).clip(0, 1) ** self.gamma
        return _look_up(frames, changed)

    def invert(self, frames: ndarray) -> ndarray:
        """Return frames before the change, uint8; values that were clipped are lost."""
        levels = np.arange(256)[:, None] / 255
        original = (levels ** (1 / self.gamma) - self.offset) / self.gain
        return _look_up(frames, original.clip(0, 1))


@dataclass(frozen=True)
class Degraded:
    """A degraded clip and its exact mapping."""

    frames: ndarray  # f H W 3, uint8
    rate: float  # frames per second
    source_frames: ndarray  # f: the number of the source frame that each frame shows
    matrix: ndarray  # 2 3: source pixels to pixels of this clip
    colour: ColourChange = ColourChange()


def _look_up(frames: ndarray, table: ndarray) -> ndarray:
    """Apply a table of values in [0, 1], 256 3, to each channel."""
    levels = (255 * table).round().astype(np.uint8)
    return np.stack([levels[frames[..., c], c] for c in range(3)], -1)


def _map_frames(clip: Degraded, function: Callable[[ndarray], ndarray]) -> Degraded:
    return replace(clip, frames=np.stack([function(frame) for frame in clip.frames]))


def _move(clip: Degraded, scale: tuple[float, float], shift: tuple[float, float]) -> Degraded:
    """Record that pixels moved: x + 0.5 becomes scale * (x + 0.5) + shift."""
    step = np.diag([*scale, 1.0])
    step[:2, 2] = np.array(scale) / 2 - 0.5 + shift
    return replace(clip, matrix=(step @ np.vstack((clip.matrix, (0, 0, 1))))[:2])


def resize(clip: Degraded, rng: np.random.Generator) -> Degraded:
    """Scale by about 0.7, to even sides."""
    factor = rng.uniform(0.66, 0.74)
    height, width = clip.frames.shape[1:3]
    size = int(2 * round(width * factor / 2)), int(2 * round(height * factor / 2))
    smaller = _map_frames(clip, lambda frame: cv2.resize(frame, size, interpolation=cv2.INTER_AREA))
    return _move(smaller, (size[0] / width, size[1] / height), (0, 0))


def letterbox(clip: Degraded, rng: np.random.Generator) -> Degraded:
    """Add black bars to another aspect, to even sides."""
    height, width = clip.frames.shape[1:3]
    others = [aspect for aspect in ASPECTS if abs(width / height / aspect - 1) > 0.05]
    aspect = others[rng.integers(len(others))]
    x = max(0, round((height * aspect - width) / 2)) * 2
    y = max(0, round((width / aspect - height) / 2)) * 2
    bars = (y // 2, y - y // 2, x // 2, x - x // 2)
    boxed = _map_frames(clip, lambda f: cv2.copyMakeBorder(f, *bars, cv2.BORDER_CONSTANT))
    return _move(boxed, (1, 1), (bars[2], bars[0]))


def shift(clip: Degraded, rng: np.random.Generator) -> Degraded:
    """Move the picture by about 2.3 and 1.1 pixels."""
    x, y = (rng.choice((-1, 1), 2) * (2.3, 1.1) + rng.uniform(-0.3, 0.3, 2)).tolist()
    matrix = np.array(((1, 0, x), (0, 1, y)))
    height, width = clip.frames.shape[1:3]

    def warp(frame: ndarray) -> ndarray:
        return cv2.warpAffine(
            frame, matrix, (width, height), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE
        )

    return _move(_map_frames(clip, warp), (1, 1), (x, y))


def colour(clip: Degraded, rng: np.random.Generator) -> Degraded:
    """Change each channel's gain and offset, and the gamma."""
    change = ColourChange(
        tuple(rng.uniform(0.92, 1.06, 3).tolist()),
        tuple(rng.uniform(-0.02, 0.03, 3).tolist()),
        float(rng.uniform(1.05, 1.15)),
    )
    return replace(clip, frames=change.apply(clip.frames), colour=change)


def _select_frames(clip: Degraded, indices: ndarray, rate: float) -> Degraded:
    return replace(
        clip, frames=clip.frames[indices], source_frames=clip.source_frames[indices], rate=rate
    )


def rate(clip: Degraded, _rng: np.random.Generator) -> Degraded:
    """Convert to 16 frames per second as FFmpeg's filter `fps` does.

    It rounds each frame's time to the nearest output time, and shows the last frame whose rounded time has come.
    """
    times = np.floor(np.arange(len(clip.frames)) * EDITED_RATE / clip.rate + 0.5)
    count = int(np.floor(len(clip.frames) * EDITED_RATE / clip.rate + 0.5))
    indices = np.searchsorted(times, np.arange(count), side="right") - 1
    return _select_frames(clip, indices, EDITED_RATE)


def drop(clip: Degraded, _rng: np.random.Generator) -> Degraded:
    """Drop the first three frames."""
    return _select_frames(clip, np.arange(DROPPED_FRAMES, len(clip.frames)), clip.rate)


def encode(clip: Degraded, _rng: np.random.Generator) -> Degraded:
    """Encode as H.264 at CRF 30 and decode again."""
    buffer = io.BytesIO()
    height, width = clip.frames.shape[1:3]
    with av.open(buffer, "w", format="matroska") as container:
        stream = container.add_stream("libx264", rate=round(clip.rate))
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.options = {"crf": str(CRF), "threads": "1"}
        for frame in clip.frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    buffer.seek(0)
    with av.open(buffer, "r") as encoded:
        decoded = [frame.to_ndarray(format="rgb24") for frame in encoded.decode(video=0)]
    return replace(clip, frames=np.stack(decoded))


def _apply_vae(clip: Degraded, round_trip: VaeRoundTrip) -> Degraded:
    """Encode and decode by a VAE, with padding to sides that it takes."""
    height, width = clip.frames.shape[1:3]
    pads = ((0, 0), (0, -height % VAE_MULTIPLE), (0, -width % VAE_MULTIPLE), (0, 0))
    result = round_trip(np.pad(clip.frames, pads, "edge"))
    return replace(clip, frames=result[:, :height, :width])


Step = Callable[[Degraded, np.random.Generator], Degraded]
STEPS: dict[str, Step] = {
    "rate": rate,
    "drop": drop,
    "resize": resize,
    "letterbox": letterbox,
    "shift": shift,
    "colour": colour,
    "codec": encode,
}
# An editor reads the clip at its own rate, fits it to its size, works in a latent space, and writes a file.
ORDER = ("rate", "drop", "resize", "letterbox", "shift", "vae", "colour", "codec")
DEGRADATIONS = ("none", *ORDER, "all")


def degrade(
    frames: ndarray, rate: float, kind: str, seed: int, round_trip: VaeRoundTrip
) -> Degraded:
    """Degrade frames f H W 3 by one of DEGRADATIONS, or by several of ORDER with a plus sign between them.

    Each step draws from a generator of its own, so that "all" has the same shift and colours as "shift" and "colour".
    """
    clip = Degraded(frames, rate, np.arange(len(frames)), np.eye(2, 3))
    steps = ORDER if kind == "all" else kind.split("+")
    for index, step in enumerate(ORDER):
        if step in steps:
            rng = np.random.default_rng((seed, index))
            is_vae = step == "vae"
            clip = _apply_vae(clip, round_trip) if is_vae else STEPS[step](clip, rng)
    return clip
