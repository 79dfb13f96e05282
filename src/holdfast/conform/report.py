"""Report what an editor did to a clip: what it changed, and what else."""

import math
from typing import Any

import numpy as np

from .comparison import Comparison
from .timing import Segment

# Smaller ones are not worth a word.
OFFSET, SPEED, SHIFT, FLICKER = 0.5, 0.002, 0.3, 1.0


def make_report(comparison: Comparison) -> dict[str, Any]:
    """Return the report of a comparison.

    time: source time = offset + rate * edited time, in seconds. space: placement of source pixels in the edited clip.
    colour: what was undone. outside: differences where nothing should have changed. mask: where the change is.
    """
    report = {
        "source": _describe_clip(comparison.source),
        "edited": _describe_clip(comparison.edited),
        "time": _describe_time(comparison),
        "space": _describe_space(comparison),
        "colour": _describe_colour(comparison),
        "outside": comparison.findings.statistics.to_dict(),
        "mask": _describe_mask(comparison),
    }
    return report | {"sentence": make_sentence(report)}


def _describe_clip(clip: Any) -> dict[str, Any]:
    return {
        "path": str(clip.path),
        "size": list(clip.size),
        "frames": clip.frames,
        "rate": f"{clip.rate.numerator}/{clip.rate.denominator}",
        "audio_tracks": clip.audio_tracks,
    }


def _describe_time(comparison: Comparison) -> dict[str, Any]:
    timing, main = comparison.alignment.timing, comparison.alignment.timing.main
    positions = comparison.positions
    shown = ~np.isnan(positions)
    whole = np.abs(positions[shown] - positions[shown].round()) < 0.02
    return {
        "offset": round(_offset(comparison, main), 4),
        "rate": round(main.line.rate, 5),
        "confidence": timing.confidence,
        "is_determined": timing.is_determined,
        "segments": [_describe_segment(segment) for segment in timing.segments],
        "source_frames_shown": int(shown.sum()),
        "interpolated_frames": int((~whole).sum()),
    }


def _offset(comparison: Comparison, segment: Segment) -> float:
    """Return the offset of a segment in seconds: what its frames show, against when they are shown."""
    source, edited = comparison.source, comparison.edited
    times = np.array([float(t * source.time_base) for t in source.times])
    shown = np.interp(segment.content, np.arange(len(times)), times)
    moments = np.array([float(edited.times[j] * edited.time_base) for j in segment.frames])
    return float(np.median(shown - segment.line.rate * moments))


def _describe_segment(segment: Segment) -> dict[str, Any]:
    return {
        "edited_frames": [segment.frames.start, segment.frames.stop],
        "source_frames": [
            round(float(segment.content[0]), 2),
            round(float(segment.content[-1]), 2),
        ],
        "rate": round(segment.line.rate, 5),
    }


def _describe_space(comparison: Comparison) -> dict[str, Any]:
    alignment = comparison.alignment
    matrix, (source, edited) = alignment.placement.matrix, alignment.sizes
    scale = [float(np.hypot(*matrix[:, axis])) for axis in (0, 1)]
    centre = matrix @ ((source[0] - 1) / 2, (source[1] - 1) / 2, 1)
    shift = [
        (float(c) - (side - 1) / 2) / s for c, side, s in zip(centre, edited, scale, strict=True)
    ]
    return {
        "matrix": [[round(float(v), 6) for v in row] for row in matrix],
        "scale": [round(s, 5) for s in scale],
        "shift": [round(v, 3) for v in shift],
        "rotation_degrees": round(math.degrees(math.atan2(matrix[1, 0], matrix[0, 0])), 3),
        "picture": [round(edge, 4) for edge in alignment.boxes[1]],
        "drifts": alignment.has_drift,
        "match": round(alignment.placement.score, 3),
    }


def _describe_colour(comparison: Comparison) -> dict[str, Any]:
    colours = comparison.calibration.colours
    levels = np.array([[v] * 3 for v in (16, 64, 128, 192, 235)], float)
    return {
        "is_changed": not colours.is_identity,
        "corrected_greys": {
            str(int(level[0])): [round(float(v), 1) for v in corrected]
            for level, corrected in zip(levels, colours.apply_to(levels), strict=True)
        },
        "matrix": [[round(float(v), 4) for v in row] for row in colours.matrix],
        "blur": comparison.calibration.blur,
        "quiet_level": round(comparison.calibration.exact.quiet, 2),
    }


def _describe_mask(comparison: Comparison) -> dict[str, Any]:
    masks, shares = comparison.findings.masks, comparison.findings.shares
    union = np.zeros(masks.size[::-1], bool)
    for i in np.flatnonzero(shares):
        union |= masks.read(int(i))
    changed = comparison.changed_frames
    return {
        "share": round(comparison.changed_share, 5),
        "largest_share": round(float(shares.max(initial=0)), 5),
        "frames": [changed.start, changed.stop] if changed else None,
        "changed_frames": int((shares > 0).sum()),
        "box": _box(union, comparison),
    }


def _box(mask: np.ndarray, comparison: Comparison) -> list[int] | None:
    """Return x, y, width, height of a mask of the work size, in pixels of the source."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return None
    factors = [s / w for s, w in zip(comparison.source.size, comparison.work_size, strict=True)]
    left, top = int(columns[0] * factors[0]), int(rows[0] * factors[1])
    right, bottom = (
        math.ceil((columns[-1] + 1) * factors[0]),
        math.ceil((rows[-1] + 1) * factors[1]),
    )
    return [left, top, right - left, bottom - top]


def make_sentence(report: dict[str, Any]) -> str:
    """Return the report in one or two sentences."""
    mask, outside = report["mask"], report["outside"]
    if mask["box"] is None:
        change = "The edited clip changes nothing that stands out from its noise."
    else:
        x, y, width, height = mask["box"]
        first, stop = mask["frames"]
        frames = f"frame {first}" if stop == first + 1 else f"frames {first} to {stop - 1}"
        change = (
            f"The edit changes {mask['share']:.1%} of the picture, within {width}x{height} pixels at "
            f"{x},{y}, in {frames}."
        )
    if not outside:
        return change
    raw, aligned = outside["psnr"]["raw"], outside["psnr"]["corrected"]
    besides = ", ".join(describe_conversions(report)) or "it kept time, size and colours"
    if math.isinf(raw):
        return f"{change} Outside the change the edited clip equals the source."
    return (
        f"{change} Outside the change the edited clip is {_decibels(raw)} from the source ({besides}); "
        f"after alignment {_decibels(aligned)}."
    )


def _decibels(value: float) -> str:
    return "0 grey levels" if math.isinf(value) else f"{value:.1f} dB"


def describe_conversions(report: dict[str, Any]) -> list[str]:
    """Return what the editor did to the whole clip, in a few words each."""
    source, edited = report["source"], report["edited"]
    found = []
    if source["rate"] != edited["rate"]:
        found.append(f"{_rate(edited)} instead of {_rate(source)} frames a second")
    if abs(report["time"]["rate"] - 1) > SPEED:
        found.append(f"speed {1 / report['time']['rate']:.3g}")
    frame = 1 / _rate(source)
    if abs(report["time"]["offset"]) > OFFSET * frame:
        found.append(f"starts {report['time']['offset']:+.2f} s")
    if source["size"] != edited["size"]:
        found.append("{}x{} instead of {}x{}".format(*edited["size"], *source["size"]))
    if max(map(abs, report["space"]["shift"])) > SHIFT:
        found.append("moved by {:.1f},{:.1f} pixels".format(*report["space"]["shift"]))
    if report["space"]["picture"] != [0, 0, 1, 1]:
        found.append("bars")
    if report["colour"]["is_changed"]:
        found.append("other colours")
    if report["outside"].get("flicker", 0) > FLICKER:
        found.append("flicker")
    return found


def _rate(clip: dict[str, Any]) -> float:
    count, _, per = clip["rate"].partition("/")
    return round(int(count) / int(per), 3)


def report_lines(report: dict[str, Any]) -> list[str]:
    """Return the figures of a report as lines of text."""
    time, space, colour, outside = (report[k] for k in ("time", "space", "colour", "outside"))
    lines = [
        f"time: source = {time['offset']:+.3f} s + {time['rate']:.4g} x edited, "
        f"confidence {time['confidence']:.2f}, {time['source_frames_shown']} of "
        f"{report['source']['frames']} frames shown, {time['interpolated_frames']} interpolated",
        "space: scale {:.4f} x {:.4f}".format(*space["scale"])
        + ", shift {:+.2f}, {:+.2f} pixels".format(*space["shift"])
        + f", rotation {space['rotation_degrees']:+.2f} degrees, match {space['match']:.2f}"
        + (", drifting" if space["drifts"] else ""),
        f"colour: {'corrected' if colour['is_changed'] else 'unchanged'}, "
        f"noise {colour['quiet_level']:.1f} grey levels, softer by {colour['blur']:g} pixels",
    ]
    if outside:
        shifts = ", ".join(f"{v:+.1f}" for v in outside["colour_shift"])
        lines.append(
            f"outside the change: {_decibels(outside['psnr']['raw'])} as delivered, "
            f"{_decibels(outside['psnr']['aligned'])} in place, "
            f"{_decibels(outside['psnr']['corrected'])} with its colours corrected; "
            f"{outside['changed_share']['raw']:.1%} of the pixels differ by more than 2 grey levels; "
            f"colour shift {shifts}; flicker {outside['flicker']:.2f}"
        )
    if len(time["segments"]) > 1:
        parts = (
            "{}-{} as {:g}-{:g}".format(*s["edited_frames"], *s["source_frames"])
            for s in time["segments"]
        )
        lines.append(f"segments (edited as source frames): {'; '.join(parts)}")
    return lines
