"""Measure a result of `holdfast keep` against exact truth."""

import math
from typing import Any

import cv2
import numpy as np
from keep_degradations import Degraded
from keep_pairs import Pair
from numpy import ndarray

# Rounding to 8 bits alone leaves 59 dB: a better figure means that nothing visible differs.
BEST_PSNR = 60.0


def measure_result(pair: Pair, degraded: Degraded, kept: Any) -> dict[str, Any]:
    """Return all figures of a result. kept: what `holdfast.keep` returned.

    Those of the mask and the picture are of the frames that the edited clip covers. Where it has no frame, as after
    "drop", the source stays, and there is no truth about what should be there.
    """
    delivered = kept.array()
    found = np.stack(list(kept.masks()))
    reference = composite_reference(pair, degraded)
    outside_exact = is_outside_exact(pair.source, delivered, kept.alphas())
    covered = slice(int(degraded.source_frames.min()), int(degraded.source_frames.max()) + 1)
    delivered, found, reference = delivered[covered], found[covered], reference[covered]
    exact, mask = pair.exact[covered], pair.mask[covered]
    changed = pair.differs[covered] | found
    row: dict[str, Any] = {
        "overlap": measure_overlap(found, mask),
        "object_overlap": measure_overlap(found, pair.area[covered]),
        "missed": float((mask & ~found).sum() / mask.sum()),
        "extra": float((found & ~mask).sum() / mask.sum()),
        "outside_exact": outside_exact,
        "confidence": kept.report["time"].get("confidence", math.nan),
        "sentence": kept.report.get("sentence", ""),
    }
    for name, where in (("all", None), ("changed", changed)):
        row[f"psnr_{name}"] = measure_psnr(delivered, exact, where)
        row[f"reference_{name}"] = measure_psnr(reference, exact, where)
        row[f"loss_{name}"] = row[f"reference_{name}"] - row[f"psnr_{name}"]
    row |= measure_time(pair, degraded, kept.report["time"])
    row |= measure_space(pair, degraded, kept.report["space"])
    return row


def measure_overlap(found: ndarray, exact: ndarray) -> float:
    """Return intersection over union of masks f H W, over all frames together; 1 if both are empty."""
    union = (found | exact).sum()
    return float((found & exact).sum() / union) if union else 1.0


def measure_psnr(frames: ndarray, exact: ndarray, where: ndarray | None) -> float:
    """Return the PSNR of frames f H W 3 in dB, over all pixels or those of a mask f H W; at most BEST_PSNR."""
    total, count = 0.0, 0
    for number in range(len(frames)):
        error = frames[number].astype(np.float32) - exact[number]
        if where is not None:
            error = error[where[number]]
        total += float(np.square(error).sum())
        count += error.size
    if total == 0:
        return BEST_PSNR
    return min(BEST_PSNR, 10 * math.log10(255**2 * count / total))


def is_outside_exact(source: ndarray, delivered: ndarray, alphas: Any) -> bool:
    """Whether every pixel with alpha 0 equals the source's."""
    frames = zip(source, delivered, alphas, strict=True)
    return all(bool((old == new)[alpha == 0].all()) for old, new, alpha in frames)


def composite_reference(pair: Pair, degraded: Degraded) -> ndarray:
    """Composite with exact alignment, colours and mask, f H W 3: the best of the degraded clip without synthesis.

    Only what cannot be undone is left: blur, compression, and times that were dropped, where the nearest frame is held.
    """
    height, width = pair.source.shape[1:3]
    flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    matrix = degraded.matrix.astype(np.float64)
    aligned = [
        cv2.warpAffine(frame, matrix, (width, height), flags=flags, borderMode=cv2.BORDER_REPLICATE)
        for frame in degraded.colour.invert(degraded.frames)
    ]
    distances = np.abs(np.arange(len(pair.source))[:, None] - degraded.source_frames)
    held = np.stack(aligned)[distances.argmin(1)]
    return np.where(pair.differs[..., None], held, pair.source)


def measure_time(pair: Pair, degraded: Degraded, report: dict[str, Any]) -> dict[str, float]:
    """Return the errors of the edited frames' source times, in source frames.

    A converter of rates shows a frame early or late by up to half of one, so that no offset and rate fit exactly: the
    mean distance of the best ones is about 0.25 after 30 to 16 frames per second. `offset_error` is the error's mean.
    """
    edited_times = np.arange(len(degraded.frames)) / degraded.rate
    times = report["offset"] + report["rate"] * edited_times
    errors = times * pair.rate - degraded.source_frames
    return {
        "time_error": _round_error(np.abs(errors).mean()),
        "offset_error": _round_error(errors.mean()),
        "rate_error": _round_error(100 * (report["rate"] - 1)),
    }


def measure_space(pair: Pair, degraded: Degraded, report: dict[str, Any]) -> dict[str, float]:
    """Return the errors of the mapping from source to edited pixels.

    scale_error: of the worse axis, in per cent. shift_error: mean distance in source pixels, over a grid that spans the
    picture, between a point and where the true inverse takes its estimated place. It contains errors of scale.
    """
    estimated = np.asarray(report["matrix"], np.float64)
    true = degraded.matrix
    ratios = np.linalg.norm(estimated[:, :2], axis=0) / np.linalg.norm(true[:, :2], axis=0)
    height, width = pair.source.shape[1:3]
    grid = np.meshgrid(np.linspace(0, width - 1, 5), np.linspace(0, height - 1, 5))
    points = np.stack([axis.ravel() for axis in grid])  # 2 25
    places = estimated[:, :2] @ points + estimated[:, 2:]
    back = np.linalg.solve(true[:, :2], places - true[:, 2:])
    return {
        "scale_error": _round_error(100 * np.abs(ratios - 1).max()),
        "shift_error": _round_error(np.linalg.norm(back - points, axis=0).mean()),
    }


def _round_error(error: float) -> float:
    """Return an error's size without what rounding of floats adds."""
    return round(abs(float(error)), 6)
