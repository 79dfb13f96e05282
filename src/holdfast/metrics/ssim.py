"""SSIM of edited against source frames (torchmetrics: Gaussian window, sigma 1.5), over the whole frame and outside the mask.

outside: the mean of the same map over pixels outside; the window sees a little of the inside near the edge of the mask.
"""

from .base import Metric, Moment, Subject, Tools, mean

NEEDS: set[str] = set()
BETTER = {"ssim": "higher"}
EVERY_FRAME = False
LEAST = 12  # pixels of a side: the window is 11 wide


class Measure(Metric):
    def __init__(self, subject: Subject, tools: Tools):
        from ._libraries import torchmetrics

        if min(subject.size) < LEAST:
            raise ValueError(f"ssim needs frames of at least {LEAST} pixels a side, not {subject.size[1]}x{subject.size[0]}")
        self.ssim = torchmetrics().functional.image.structural_similarity_index_measure
        self.masked = subject.masked
        self.full, self.outside = [], []

    def add(self, moment: Moment) -> None:
        import torch

        pair = (torch.from_numpy(f).permute(2, 0, 1)[None] for f in (moment.edited, moment.source))
        _, image = self.ssim(*pair, data_range=1.0, return_full_image=True)
        image = image[0].mean(0).numpy()  # H W
        self.full.append(float(image.mean()))
        if self.masked and not moment.mask.all():
            self.outside.append(float(image[~moment.mask].mean()))

    def figures(self) -> dict[str, float]:
        return {"ssim@full": mean(self.full)} | ({"ssim@outside": mean(self.outside)} if self.masked else {})
