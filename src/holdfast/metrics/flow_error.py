"""Optical flow error: mean over pixels and steps of |F_source - F_edited|, in pixels and relative to the diagonal."""

import math

import numpy as np

from .base import FramePair, Metric, MetricInfo, MetricModels, PairInfo, nanmean


class FlowError(Metric):
    def __init__(self, info: PairInfo, models: MetricModels):
        self.diagonal = math.hypot(*info.size)
        self.flow_name = models.flow_name
        self.errors: list[float] = []

    def add(self, pair: FramePair) -> None:
        if pair.previous is not None:
            difference = pair.source_flow - pair.edited_flow
            distance = np.linalg.norm(difference, axis=-1)
            self.errors.append(float(distance.mean()))

    def values(self) -> dict[str, float]:
        pixels = nanmean(self.errors)
        return {
            f"flow_epe@pixels/{self.flow_name}": pixels,
            f"flow_epe@diagonal/{self.flow_name}": pixels / self.diagonal,
        }


METRIC = MetricInfo(FlowError, directions={"flow_epe": "lower"})
