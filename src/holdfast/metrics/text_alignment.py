"""CLIP-T: how well edited frames fit the target prompt, and the edited region the edit's words alone (100 x cosine).

local_clip_t: the mask's bounding box, cropped, against the local phrase (FlowAnchor, arXiv:2604.22586, C.2).
clip_frame_accuracy: share of frames that fit the target prompt better than the source prompt (FateZero,
arXiv:2303.09535).
"""

from ._batches import Later
from .base import Metric, Moment, Subject, Tools, mean, short

NEEDS = {"target_text"}
BETTER = {"clip_t": "higher", "local_clip_t": "higher", "clip_frame_accuracy": "higher"}
EVERY_FRAME = False


class Measure(Metric):
    def __init__(self, subject: Subject, tools: Tools):
        self.clip = tools.clip
        self.name = short(tools.options.clip)
        texts = {"target": subject.target_text, "source": subject.source_text}
        if subject.masked:
            texts["local"] = subject.local_text
        self.texts = {key: self.clip.text(text) for key, text in texts.items() if text}
        self.whole: list[Later] = []
        self.local: list[Later] = []

    def add(self, moment: Moment) -> None:
        self.whole.append(moment.embedding)
        if "local" in self.texts and moment.box:
            self.local.append(self.clip.embed(moment.edited[moment.box]))

    def figures(self) -> dict[str, float]:
        frames = [later.value for later in self.whole]
        towards = [float(frame @ self.texts["target"]) for frame in frames]
        found = {f"clip_t/{self.name}": mean([100 * value for value in towards])}
        if "source" in self.texts:
            back = [float(frame @ self.texts["source"]) for frame in frames]
            won = [float(a > b) for a, b in zip(towards, back, strict=True)]
            found[f"clip_frame_accuracy/{self.name}"] = mean(won)
        if "local" in self.texts:
            crops = [100 * float(later.value @ self.texts["local"]) for later in self.local]
            found[f"local_clip_t@box{self.clip.view}/{self.name}"] = mean(crops)
        return found
