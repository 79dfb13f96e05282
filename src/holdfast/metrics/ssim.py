"""SSIM of edited against source frames (torchmetrics: Gaussian window, sigma 1.5), whole and outside the mask.

outside: the mean of the same map over pixels outside; the window sees a little of the inside near the edge of the mask.
"""

from ..base.errors import UserError
from ._libraries import batch, torchmetrics
from .base import Metric, Moment, Subject, Tools, mean

NEEDS: set[str] = set()
BETTER = {"ssim": "higher"}
EVERY_FRAME = False
LEAST = 12  # pixels of a side: the window is 11 wide


class Measure(Metric):
    def __init__(self, subject: Subject, tools: Tools):
        height, width = subject.size
        if min(height, width) < LEAST:
            raise UserError(
                f"ssim needs frames of at least {LEAST} pixels a side, not {width}x{height}"
            )
        self.ssim = torchmetrics().functional.image.structural_similarity_index_measure
        self.masked, self.device = subject.masked, tools.device
        self.full: list[float] = []
        self.outside: list[float] = []

    def add(self, moment: Moment) -> None:
        edited, source = (batch(frame).to(self.device) for frame in (moment.edited, moment.source))
        _, similarity = self.ssim(edited, source, data_range=1.0, return_full_image=True)
        similarity = similarity[0].mean(0).cpu().numpy()  # H W
        self.full.append(float(similarity.mean()))
        if self.masked and not moment.mask.all():
            outside = similarity[~moment.mask]
            self.outside.append(float(outside.mean()))

    def figures(self) -> dict[str, float]:
        found = {"ssim@full": mean(self.full)}
        if self.masked:
            found["ssim@outside"] = mean(self.outside)
        return found
