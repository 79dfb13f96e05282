"""What only a scene known as a program can say: whether the edit succeeded, and warp error along the exact flow.

edit_success: the result is closer to the truth than to the source and than to every other single edit of the same
scene. same_kind: only edits of the same kind are rivals. warp_error_x1000@exact: as warp_error, along the true flow of
the true result, where the same thing is seen. The figures are those of the judge that comes with the clips.
"""

from numpy import ndarray

from .base import Metric, Moment, Subject, Tools

NEEDS = {"judge"}
BETTER = {"edit_success": "higher", "warp_error_x1000": "lower"}
RATES = {"edit_success"}
EVERY_FRAME = True


class Measure(Metric):
    def __init__(self, subject: Subject, tools: Tools):
        self.judge = subject.judge
        self.frames: list[ndarray] = []

    def add(self, moment: Moment) -> None:
        self.frames.append(moment.edited)

    def figures(self) -> dict[str, float]:
        return self.judge(self.frames)
