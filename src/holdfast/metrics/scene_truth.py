"""Metrics that need a scene known as a program: whether the edit succeeded, and warp error along the exact flow.

edit_success@any_edit: the result is closer to the truth than to the source and than to every other single edit of the
scene. edit_success@same_kind: only edits of the same kind are rivals. warp_error_x1000@exact: as warp_error, along the
exact flow of the true result, over pixels where the flow stays on one object. The clips' judge computes them.
"""

from numpy import ndarray

from .base import FramePair, Metric, MetricInfo, MetricModels, PairInfo


class SceneTruth(Metric):
    def __init__(self, info: PairInfo, models: MetricModels):
        assert info.judge is not None
        self.judge = info.judge
        self.frames: list[ndarray] = []

    def add(self, pair: FramePair) -> None:
        self.frames.append(pair.edited)

    def values(self) -> dict[str, float]:
        return self.judge(self.frames)


METRIC = MetricInfo(
    SceneTruth,
    directions={"edit_success": "higher", "warp_error_x1000": "lower"},
    requires=frozenset({"judge"}),
    rates=frozenset({"edit_success"}),
)
