"""L.DINO (FlowAnchor, arXiv:2604.22586, C.2): cosine of DINO class tokens of the mask's box, source against edited."""

from numpy import ndarray

from ._batching import Deferred
from .base import FramePair, Metric, MetricInfo, MetricModels, PairInfo, nanmean, short_name


class LocalDino(Metric):
    def __init__(self, info: PairInfo, models: MetricModels):
        self.dino = models.dino
        self.network = short_name(models.options.dino)
        self.tokens: list[tuple[Deferred[ndarray], Deferred[ndarray]]] = []

    def add(self, pair: FramePair) -> None:
        if pair.mask_box:
            source = self.dino.class_token(pair.source[pair.mask_box])
            edited = self.dino.class_token(pair.edited[pair.mask_box])
            self.tokens.append((source, edited))

    def values(self) -> dict[str, float]:
        cosines = [float(source.value @ edited.value) for source, edited in self.tokens]
        return {f"local_dino@cls,box{self.dino.crop_suffix}/{self.network}": nanmean(cosines)}


METRIC = MetricInfo(
    LocalDino,
    directions={"local_dino": "higher"},
    requires=frozenset({"mask"}),
    every_frame=False,
)
