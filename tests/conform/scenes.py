"""Small scenes with an exact change: discs that move over a textured ground, at any moment and any size."""

from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
from numpy import ndarray

from holdfast.media import video

from ..conftest import write_tone

SIZE = (160, 96)
RED, BLUE, GREEN, GOLD = (200, 40, 40), (40, 60, 210), (60, 160, 70), (220, 180, 60)
CHANGED_RADIUS = 17


def ground(size: tuple[int, int] = SIZE, seed: int = 0, calm: float = 0.04) -> ndarray:
    """Return a calm sky over a textured meadow, uint8 H W 3. calm: structure of the sky, 1 for that of the meadow."""
    generator = np.random.default_rng(seed)
    amount = np.interp(np.linspace(0, 1, size[1]), (0.3, 0.5), (calm, 1))[:, None, None]
    total = np.full((size[1], size[0], 3), 120.0)
    for sigma, amplitude in ((12, 26), (4, 18), (1.5, 10)):
        noise = cv2.GaussianBlur(generator.normal(size=total.shape), (0, 0), sigma)
        total += noise / noise.std() * amplitude * amount
    return total.clip(8, 247).astype(np.uint8)


GROUND = ground()


def disc_weight(centre: tuple[float, float], radius: float, size: tuple[int, int]) -> ndarray:
    """Return how much of each pixel a disc covers, H W in [0, 1]."""
    x, y = np.meshgrid(np.arange(size[0]), np.arange(size[1]))
    return np.clip(radius + 0.5 - np.hypot(x - centre[0], y - centre[1]), 0, 1)


def centre_at(moment: float) -> tuple[float, float]:
    """Return the centre of the disc that is edited."""
    return 42 + 2.0 * moment, 46 + 12 * np.sin(moment / 3.7)


def draw(
    moment: float, colour: tuple[int, int, int] = RED, background: ndarray = GROUND
) -> ndarray:
    """Return the scene at a moment (in frames of the source), uint8 H W 3. colour: of the disc that is edited."""
    picture = background.astype(float)
    size = picture.shape[1::-1]
    others = (
        ((120 - 1.3 * moment, 22 + 5 * np.cos(moment / 2.3)), 11, GREEN),
        ((24 + 9 * np.sin(moment / 1.9), 78 - 0.5 * moment), 9, GOLD),
        (centre_at(moment), CHANGED_RADIUS, colour),
    )
    for centre, radius, paint in others:
        weight = disc_weight(centre, radius, size)[..., None]
        picture = picture * (1 - weight) + weight * np.array(paint)
    return np.rint(picture).astype(np.uint8)


def clip(
    moments: Iterable[float], colour: tuple[int, int, int] = RED, background: ndarray = GROUND
) -> ndarray:
    """Return the scene at moments, uint8 f H W 3."""
    return np.stack([draw(m, colour, background) for m in moments])


def changes(moments: Iterable[float], size: tuple[int, int] = SIZE) -> ndarray:
    """Return where the edited disc covers at least half of a pixel, boolean f H W."""
    return np.stack([disc_weight(centre_at(m), CHANGED_RADIUS, size) >= 0.5 for m in moments])


def overlap(one: ndarray, other: ndarray) -> float:
    """Return the intersection over the union of two masks."""
    return float((one & other).sum() / max((one | other).sum(), 1))


def resize(frames: ndarray, size: tuple[int, int]) -> ndarray:
    """Return frames at another size, as editors do: averaged where they shrink."""
    shrinks = size[0] < frames.shape[2]
    how = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
    return np.stack([cv2.resize(frame, size, interpolation=how) for frame in frames])


def encode(
    path: Path,
    frames: Sequence[ndarray] | ndarray,
    pixels: str = "yuv420p",
    codec: str = "ffv1",
    rate: Fraction = Fraction(10),
    times: Sequence[int] | None = None,
    rotation: int = 0,
    colour: dict | None = None,
    sound: bool = False,
) -> Path:
    """Write RGB frames through PyAV, and not through our writer. times: in milliseconds."""
    step, about = Fraction(1, 1000) if times else 1 / rate, colour or {}
    with av.open(str(path), "w") as out:
        stream = out.add_stream(codec, rate=rate)
        stream.height, stream.width, stream.pix_fmt = *frames[0].shape[:2], pixels
        if codec == "libx264":
            stream.codec_context.options = {"crf": "8"}
        for key, value in about.items():
            setattr(stream.codec_context, key, value)
        stream.codec_context.time_base = stream.time_base = step
        if rotation:
            stream.set_display_rotation(rotation)
        tone = out.add_stream("aac", rate=44100) if sound else None
        for i, picture in enumerate(frames):
            kind = "rgb48le" if picture.dtype == np.uint16 else "rgb24"
            frame = av.VideoFrame.from_ndarray(picture, kind).reformat(
                format=pixels,
                dst_colorspace=about.get("colorspace"),
                dst_color_range=about.get("color_range"),
            )
            frame.pts, frame.time_base = times[i] if times else i, step
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
        if tone:
            write_tone(out, tone, 440, len(frames) / float(rate))
    return path


def read(path: Path) -> ndarray:
    """Return a file's frames as a viewer sees them, f H W 3."""
    return np.stack(list(video.read(video.probe(path))))
