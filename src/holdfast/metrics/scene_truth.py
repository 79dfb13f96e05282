"""What only a scene that is known as a program can say: whether the edit succeeded, and warp error along the exact flow.

edit_success: the result is closer to the truth than to the source and than to every other single edit of the same scene.
same_kind: only edits of the same kind are rivals. warp_error_x1000@exact: as warp_error, along the true flow of the true result,
where the same thing is seen.
"""

import numpy as np
import torch

from ..shapeworld.render import compose, flow, render
from ..shapeworld.scenes import KINDS, Edit, edits
from .base import Metric, Moment, Subject, Tools, mean
from .warp_error import error

NEEDS = {"edit"}
BETTER = {"edit_success": "higher", "warp_error_x1000": "lower"}
EVERY_FRAME = True


class Measure(Metric):
    def __init__(self, subject: Subject, tools: Tools):
        self.edit, self.size = subject.edit, subject.size
        self.frames: list[np.ndarray] = []

    def add(self, moment: Moment) -> None:
        self.frames.append(moment.edited)

    def figures(self) -> dict[str, float]:
        result = torch.from_numpy(np.stack(self.frames)).permute(0, 3, 1, 2)  # f 3 H W
        return {
            "edit_success@any_edit": float(succeeded(self.edit, result, KINDS)),
            "edit_success@same_kind": float(succeeded(self.edit, result, (self.edit.kind,))),
            "warp_error_x1000@exact,squared": self._warp_error(),
        }

    def _warp_error(self) -> float:
        forward = flow(self.edit.target, len(self.frames), self.size).permute(0, 2, 3, 1).numpy()  # f-1 H W 2
        things = compose([self.edit.target], len(self.frames), self.size)[1][0].numpy()  # k f H W
        pairs = zip(range(len(forward)), forward, strict=True)
        return mean([1000 * error(self.frames[t], self.frames[t + 1], f, _followed(things[:, t], things[:, t + 1], f)) for t, f in pairs])


def _followed(here: np.ndarray, there: np.ndarray, forward: np.ndarray) -> np.ndarray:
    """Pixels whose thing (an actor wholly, or the backdrop alone) is also the one wholly seen where the flow leads, H W."""
    from ..motion import inside, warp

    arrived = np.stack([warp(k, forward) for k in there])
    whole = (np.minimum(here, 1 - here) < 0.01).all(0) & (np.minimum(arrived, 1 - arrived) < 0.01).all(0)
    return whole & (np.abs(here - arrived) < 0.01).all(0) & inside(forward)


def succeeded(edit: Edit, result: torch.Tensor, kinds: tuple[str, ...]) -> bool:
    """Whether the truth is the nearest of all the programs that one edit of these kinds makes of the scene, itself included."""
    frames, size = len(result), tuple(result.shape[-2:])
    rivals = [edit.source] + [e.target for kind in kinds for e in edits(edit.source, kind, edit.seed) if e.target != edit.target]
    own = (result - render([edit.target], frames, size)[0]).square().mean().item()
    return all(own < (result - render([r], frames, size)[0]).square().mean().item() for r in rivals)
