"""CLIP-T: how well edited frames match the target prompt, and the edited region the object's prompt (100 x cosine).

local_clip_t: the mask's bounding box, cropped, against the object prompt (FlowAnchor, arXiv:2604.22586, C.2).
clip_frame_accuracy: share of frames that match the target prompt better than the source prompt (FateZero,
arXiv:2303.09535).
"""

from numpy import ndarray

from ._batching import Deferred
from .base import FramePair, Metric, MetricInfo, MetricModels, PairInfo, nanmean, short_name


class TextAlignment(Metric):
    def __init__(self, info: PairInfo, models: MetricModels):
        self.clip = models.clip
        self.network = short_name(models.options.clip)
        prompts = {"target": info.target_prompt, "source": info.source_prompt}
        if info.has_mask:
            prompts["object"] = info.object_prompt
        self.texts = {key: self.clip.embed_text(text) for key, text in prompts.items() if text}
        self.frames: list[Deferred[ndarray]] = []
        self.crops: list[Deferred[ndarray]] = []

    def add(self, pair: FramePair) -> None:
        self.frames.append(pair.embedding)
        if "object" in self.texts and pair.mask_box:
            self.crops.append(self.clip.embed(pair.edited[pair.mask_box]))

    def values(self) -> dict[str, float]:
        to_target = self._cosines(self.frames, "target")
        values = {f"clip_t/{self.network}": nanmean([100 * cosine for cosine in to_target])}
        if "source" in self.texts:
            to_source = self._cosines(self.frames, "source")
            wins = [float(a > b) for a, b in zip(to_target, to_source, strict=True)]
            values[f"clip_frame_accuracy/{self.network}"] = nanmean(wins)
        if "object" in self.texts:
            crops = [100 * cosine for cosine in self._cosines(self.crops, "object")]
            values[f"local_clip_t@box{self.clip.crop_suffix}/{self.network}"] = nanmean(crops)
        return values

    def _cosines(self, images: list[Deferred[ndarray]], text: str) -> list[float]:
        return [float(image.value @ self.texts[text]) for image in images]


METRIC = MetricInfo(
    TextAlignment,
    directions={"clip_t": "higher", "local_clip_t": "higher", "clip_frame_accuracy": "higher"},
    requires=frozenset({"target_prompt"}),
    every_frame=False,
)
