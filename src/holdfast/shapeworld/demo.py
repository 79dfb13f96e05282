"""The demonstration: make a clip of a shapeworld scene, edit it as any clip is edited, and lay the truth beside it."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..base.files import whole
from ..media import images, previews, video
from ..models import registry
from ..pipeline import run
from ..pipeline.task import EditTask
from .rendering import render
from .scenes import SceneEdit
from .truth import actor_mask, judge

RATE = 8
NEARLY_LOSSLESS = 1  # crf; at 0 the profile is one that few players know
ZOOM = 4  # the side-by-side clip and the strip are shown this much larger


def to_arrays(frames: Tensor) -> list[np.ndarray]:
    """f 3 H W in [0, 1] to uint8 frames."""
    return [images.to_array(f, 8) for f in frames]


def to_tensor(frames: list[np.ndarray]) -> Tensor:
    return torch.stack([images.to_tensor(f) for f in frames])


def write_clip(
    path: Path, frames: list[np.ndarray], codec: str = "auto", crf: int | None = None
) -> None:
    video.write_frames(path, frames, RATE, codec, crf)


def run_demo(
    edit: SceneEdit,
    method: str,
    folder: Path,
    use_mask: bool = True,
    report=None,
    backbone: str = "shapeworld-wan",
) -> dict:
    """Run one edit in `folder`; the manifest, with the figures against the truth in `truth`. masked: with the actor's
    mask, where the edit is of an actor. A backbone that is steered by a first frame is given the true edited one.
    """
    name, _ = registry.choose_backbone(backbone)
    shown = "image" in registry.specs()[name].capabilities
    folder.mkdir(parents=True, exist_ok=True)
    source, target = render([edit.source, edit.target], edit.source.frames)
    # As players like it, 4:2:0 in H.264 High; the result follows its source.
    write_clip(folder / "source.mp4", to_arrays(source), "h264", NEARLY_LOSSLESS)
    use_mask = use_mask and edit.actor is not None
    if use_mask:
        mask = actor_mask(edit, edit.source.frames)[:, None].expand(-1, 3, -1, -1)
        write_clip(folder / "mask.mkv", to_arrays(mask), "lossless")
    if shown:
        with whole(folder / "first.png") as part:
            images.write(part, target[0])
    task = EditTask(
        input=str(folder / "source.mp4"),
        output=str(folder / "edited.mp4"),
        source_prompt=edit.source.caption(),
        target_prompt=edit.target.caption(),
        method=method,
        backbone=name,
        first_frame=str(folder / "first.png") if shown else None,
        mask=str(folder / "mask.mkv") if use_mask else None,
    )
    result = run.edit(task, on_progress=report)
    edited = list(result.frames())
    result.manifest["truth"] = judge(edit, to_tensor(edited))
    result.save(report=report)
    rows = {"source": to_arrays(source), "edited": edited, "truth": to_arrays(target)}
    together = [np.hstack(moment) for moment in zip(*rows.values(), strict=True)]
    write_clip(folder / "side-by-side.mp4", [enlarge(frame) for frame in together])
    some = previews.sample_indices(len(edited))
    columns = {name: [frames[i] for i in some] for name, frames in rows.items()}
    with whole(folder / "strip.png") as part:
        previews.draw_strip(columns, ZOOM).save(part)
    return result.manifest


def enlarge(frame: np.ndarray) -> np.ndarray:
    import cv2

    return cv2.resize(frame, None, fx=ZOOM, fy=ZOOM, interpolation=cv2.INTER_CUBIC)
