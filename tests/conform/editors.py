"""What editors do to a whole picture besides their edit."""

import cv2
import numpy as np

from . import scenes


def scale_to(size):
    return lambda frames: scenes.resize(frames, size)


def shift(frames):
    matrix, size = np.array([[1, 0, 2.3], [0, 1, -1.4]]), scenes.SIZE
    mode = cv2.BORDER_REPLICATE
    return np.stack(
        [cv2.warpAffine(f, matrix, size, flags=cv2.INTER_CUBIC, borderMode=mode) for f in frames]
    )


def drift(frames):
    """A slow drift of four pixels over the clip."""
    return np.stack(
        [
            cv2.warpAffine(
                f,
                np.array([[1, 0, 4 * i / (len(frames) - 1)], [0, 1, 0]]),
                scenes.SIZE,
                flags=cv2.INTER_CUBIC,
                borderMode=cv2.BORDER_REPLICATE,
            )
            for i, f in enumerate(frames)
        ]
    )


def recolour(frames):
    values = 255 * (frames / 255) ** 1.15 * (0.92, 0.97, 1.0) + 4
    return np.rint(np.clip(values, 0, 255)).astype(np.uint8)


def add_noise(frames):
    generator = np.random.default_rng(0)
    soft = np.stack([cv2.GaussianBlur(f, (0, 0), 0.7) for f in frames])
    return np.clip(soft + generator.normal(0, 3, frames.shape), 0, 255).astype(np.uint8)


def add_letterbox(frames):
    return np.pad(frames, ((0, 0), (20, 20), (0, 0), (0, 0)))


def degrade(frames):
    return add_noise(recolour(scenes.resize(frames, (200, 120))))


def relight(frames):
    """Every pixel becomes another colour, by no rule that a correction of colours follows; the structure stays."""
    generator = np.random.default_rng(0)
    blotches = cv2.GaussianBlur(generator.normal(size=frames.shape[1:]), (0, 0), 6)
    light = frames + 45 * blotches / blotches.std()
    return np.clip(light, 0, 255).astype(np.uint8)


def fade(frames):
    """Two thirds of every picture get other colours, by two rules; its structure stays."""
    result = frames.astype(float)
    result[:, :, 50:105] = result[:, :, 50:105] * 0.6 + (80, 0, 60)
    result[:, :, 105:] = result[:, :, 105:] * 0.6 + (0, 70, 0)
    return np.clip(result, 0, 255).astype(np.uint8)
