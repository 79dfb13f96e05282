"""Blend the results that two keyframes give for a frame between them."""

import numpy as np
from numpy import ndarray

POISSON_WEIGHT = 0.05  # how closely the blend of colours is followed, against the gradients


def blend(
    first: ndarray, second: ndarray, position: float, errors: tuple[ndarray, ndarray], kind: str
) -> ndarray:
    """Return the blend of two pictures H W 3.

    position: of the frame between the keyframes, 0 to 1. errors: of both pictures, H W. kind: average; contrast, the
    average with the contrast of both; poisson, that with the gradients of the picture with the lower error.
    """
    mixed = (1 - position) * first + position * second
    if kind == "average":
        return mixed
    mixed = restore_contrast(mixed, first, second, position)
    if kind == "contrast":
        return mixed
    is_second = errors[1] < errors[0]
    return follow_gradients(np.where(is_second[..., None], second, first), mixed, is_second)


def restore_contrast(mixed: ndarray, first: ndarray, second: ndarray, position: float) -> ndarray:
    """Return a mixture with the mean of the standard deviations of both pictures, channel by channel.

    An average of two pictures that differ has less contrast than each of them.
    """
    mean, deviation = mixed.mean((0, 1)), mixed.std((0, 1))
    wanted = (1 - position) * first.std((0, 1)) + position * second.std((0, 1))
    gain = wanted / np.maximum(deviation, 1e-6)
    return np.clip(mean + gain * (mixed - mean), 0, 1).astype(np.float32)


def follow_gradients(picture: ndarray, colours: ndarray, parts: ndarray) -> ndarray:
    """Return u that minimises |grad u - g|^2 + POISSON_WEIGHT |u - colours|^2, a screened Poisson equation.

    g is the gradient of the picture, and 0 where it would lead from one of its parts (boolean H W) to the other.
    """
    divergence = np.zeros_like(picture)
    for axis in (0, 1):
        gradient = np.diff(picture, axis=axis)
        gradient = np.where(np.diff(parts, axis=axis)[..., None], 0, gradient)
        before, after = [(0, 0)] * 3, [(0, 0)] * 3
        before[axis], after[axis] = (1, 0), (0, 1)
        divergence += np.pad(gradient, after) - np.pad(gradient, before)
    solved = solve_screened_poisson(POISSON_WEIGHT * colours - divergence, POISSON_WEIGHT)
    return np.clip(solved, 0, 1).astype(np.float32)


def solve_screened_poisson(right: ndarray, weight: float) -> ndarray:
    """Return u, H W c, with weight u - laplace u = right, and no gradient across the frame's edge."""
    mirrored = np.concatenate((right, right[::-1]), 0)
    mirrored = np.concatenate((mirrored, mirrored[:, ::-1]), 1)
    y, x = (2 - 2 * np.cos(2 * np.pi * np.fft.fftfreq(n)) for n in mirrored.shape[:2])
    transformed = np.fft.fft2(mirrored, axes=(0, 1)) / (weight + y[:, None] + x)[..., None]
    return np.fft.ifft2(transformed, axes=(0, 1)).real[: right.shape[0], : right.shape[1]]
