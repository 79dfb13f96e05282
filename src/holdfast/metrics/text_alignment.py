"""CLIP-T: how well edited frames fit the target prompt, and the edited region the edit's words alone (100 x cosine).

local_clip_t: the mask's bounding box, cropped, against the local phrase (FlowAnchor, arXiv:2604.22586, C.2).
clip_frame_accuracy: share of frames that fit the target prompt better than the source prompt (FateZero,
arXiv:2303.09535).
"""

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
        self.whole: list[float] = []
        self.local: list[float] = []
        self.won: list[float] = []

    def add(self, moment: Moment) -> None:
        towards = float(moment.embedding @ self.texts["target"])
        self.whole.append(100 * towards)
        if "source" in self.texts:
            back = moment.embedding @ self.texts["source"]
            self.won.append(float(towards > back))
        if "local" in self.texts and moment.box:
            crop = self.clip.image(moment.edited[moment.box])
            self.local.append(100 * float(crop @ self.texts["local"]))

    def figures(self) -> dict[str, float]:
        found = {f"clip_t/{self.name}": mean(self.whole)}
        if "source" in self.texts:
            found[f"clip_frame_accuracy/{self.name}"] = mean(self.won)
        if "local" in self.texts:
            found[f"local_clip_t@box/{self.name}"] = mean(self.local)
        return found
