"""SSIM of edited against source frames (torchmetrics: Gaussian window, sigma 1.5), full and outside the mask.

outside: the mean of the same map over the pixels outside. Near the edge of the mask the window covers a little of the
inside.
"""

from ..base.errors import UserError
from ._packages import import_torchmetrics, to_batch
from .base import FramePair, Metric, MetricInfo, MetricModels, PairInfo, nanmean

MIN_SIDE_PX = 12  # the window is 11 pixels wide


class Ssim(Metric):
    def __init__(self, info: PairInfo, models: MetricModels):
        height, width = info.size
        if min(height, width) < MIN_SIDE_PX:
            raise UserError(
                f"the frames are {width}x{height}, but ssim needs {MIN_SIDE_PX} pixels a side",
                "leave ssim out",
            )
        self.ssim = import_torchmetrics().functional.image.structural_similarity_index_measure
        self.has_mask, self.device = info.has_mask, models.device
        self.full: list[float] = []
        self.outside: list[float] = []

    def add(self, pair: FramePair) -> None:
        edited, source = (to_batch(frame).to(self.device) for frame in (pair.edited, pair.source))
        _, similarity = self.ssim(edited, source, data_range=1.0, return_full_image=True)
        similarity = similarity[0].mean(0).cpu().numpy()  # H W
        self.full.append(float(similarity.mean()))
        if self.has_mask and not pair.mask.all():
            self.outside.append(float(similarity[~pair.mask].mean()))

    def values(self) -> dict[str, float]:
        values = {"ssim@full": nanmean(self.full)}
        if self.has_mask:
            values["ssim@outside"] = nanmean(self.outside)
        return values


METRIC = MetricInfo(Ssim, directions={"ssim": "higher"}, every_frame=False)
