"""End-point error of flow: mean over pixels and steps of |F_source - F_edited|, in pixels and by the diagonal."""

import math

import numpy as np

from .base import Metric, Moment, Subject, Tools, mean

NEEDS: set[str] = set()
BETTER = {"flow_epe": "lower"}
EVERY_FRAME = True


class Measure(Metric):
    def __init__(self, subject: Subject, tools: Tools):
        self.diagonal = math.hypot(*subject.size)
        self.name = tools.flow.__name__
        self.values: list[float] = []

    def add(self, moment: Moment) -> None:
        if moment.previous is not None:
            difference = moment.source_flow - moment.edited_flow
            distance = np.linalg.norm(difference, axis=-1)
            self.values.append(float(distance.mean()))

    def figures(self) -> dict[str, float]:
        pixels = mean(self.values)
        return {
            f"flow_epe@pixels/{self.name}": pixels,
            f"flow_epe@diagonal/{self.name}": pixels / self.diagonal,
        }
