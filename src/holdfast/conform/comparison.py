"""Compare an edited clip with its source: align them, learn the editor's colours and noise, and find the change."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy import ndarray

from ..base.errors import UserError
from ..media import video
from . import alignment as aligning
from .alignment import Alignment, scaled_size
from .analysis import Analysis, Findings, Options
from .calibration import Calibration, calibrate
from .frames import ConformedFrames, edited_positions
from .pictures import Size

Report = Callable[[str, int, int], None]  # stage, done, count
WORK_SIDE = 640  # pixels of the longer side at which clips are compared
MIN_AREA = 3e-4  # share of the picture
MIN_MATCH = 0.25  # correlation of clips that belong together
MAX_CHANGED = 0.6  # share of the picture
MAX_LEVEL = 10.0  # grey levels by which areas of the quietest half differ in the mean


@dataclass(frozen=True)
class Comparison:
    """A source, an edited clip, and what was found. positions: edited frame of each source frame, NaN for none."""

    source: video.Clip
    edited: video.Clip
    alignment: Alignment
    positions: ndarray
    calibration: Calibration
    findings: Findings

    @property
    def work_size(self) -> Size:
        """The size at which the clips were compared."""
        return self.findings.masks.size

    def masks(self) -> Iterator[ndarray]:
        """Yield the change of every frame of the source at its size, boolean H W."""
        return self.findings.masks.read_at(self.source.size)

    @property
    def changed_share(self) -> float:
        """The share of the picture that changed, in the mean of the frames that the edited clip has."""
        shown = ~np.isnan(self.positions)
        return float(self.findings.shares[shown].mean()) if shown.any() else 0.0

    @property
    def changed_frames(self) -> range:
        """The frames from the first to the last that changed; empty where nothing changed."""
        changed = np.flatnonzero(self.findings.shares > 0)
        return range(int(changed[0]), int(changed[-1]) + 1) if len(changed) else range(0)


def compare_clips(
    source: video.Clip,
    edited: video.Clip,
    folder: Path,
    report: Report,
    options: Options | None = None,
    hold: bool = False,
    needs_match: bool = True,
    limits: Callable[[Size], Iterable[ndarray]] | None = None,
) -> Comparison:
    """Compare two clips. folder: for temporary files. hold: let the edited clip's end frames stand for missing ones.

    needs_match: whether the pictures have to be alike. limits: returns where the change may be, at a size, boolean H W
    a frame. Raise UserError for clips that do not belong together.
    """
    report("align", 0, 1)
    alignment = aligning.align(source, edited, folder)
    if needs_match:
        check_match(alignment)
    report("align", 1, 1)
    positions = edited_positions(alignment.timing, source.frames, hold)
    size = scaled_size(source.size, min(1.0, WORK_SIDE / max(source.size)))
    frames = ConformedFrames((source, edited), alignment, positions, size)
    calibration = calibrate(frames)
    analysis = Analysis(frames, calibration, options or Options(MIN_AREA))
    findings = analysis.run(
        folder,
        lambda done: report("compare", done, source.frames),
        limits(size) if limits else None,
    )
    return Comparison(source, edited, alignment, positions, calibration, findings)


def check_match(alignment: Alignment) -> None:
    """Raise UserError for clips that do not belong together."""
    score = alignment.placement.score
    if score >= MIN_MATCH:
        return
    line = alignment.timing.main.line
    raise UserError(
        f"the edited clip does not look like an edit of the source: at the best fit "
        f"(offset {line.offset:+.2f} s, speed {line.rate:.3g}) their pictures correlate by {score:.2f}, "
        f"and {MIN_MATCH} is the least",
        "check that it was made from this source; if its whole picture was changed, use --whole",
    )


def check_share(comparison: Comparison) -> None:
    """Raise UserError where most of the picture changed."""
    share, level = comparison.changed_share, comparison.calibration.exact.soft
    if share <= MAX_CHANGED and level <= MAX_LEVEL:
        return
    how_much = (
        f"{share:.0%} of the picture changed"
        if share > MAX_CHANGED
        else f"the whole picture changed: even its quietest areas differ by {level:.0f} grey levels"
    )
    raise UserError(
        f"{how_much}, so that there is no unchanged area to keep",
        "to put the whole picture into the source's times and size, use --whole; "
        "to change a part only, give a --mask and --mask-use replace",
    )
