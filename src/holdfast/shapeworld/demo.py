"""Run the demonstration: render a scene as a clip, edit the clip as any other, and compare it with the true edit."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..base.files import atomic_write
from ..media import images, previews, video
from ..models import registry
from ..pipeline import run
from ..pipeline.events import ProgressCallback
from ..pipeline.task import EditTask
from .rendering import render
from .scenes import RATE, SceneEdit
from .truth import actor_mask, judge

NEARLY_LOSSLESS_CRF = 1  # crf 0 needs a profile that few players support
ZOOM = 4  # enlargement of the side-by-side clip and the strip


def to_arrays(frames: Tensor) -> list[np.ndarray]:
    """Convert f 3 H W in [0, 1] to frames H W 3, uint8."""
    return [images.to_array(f, 8) for f in frames]


def to_tensor(frames: list[np.ndarray]) -> Tensor:
    """Convert frames H W 3 to f 3 H W in [0, 1]."""
    return torch.stack([images.to_tensor(f) for f in frames])


def write_clip(
    path: Path, frames: list[np.ndarray], codec: str = "auto", crf: int | None = None
) -> None:
    """Write frames H W 3 as a video at RATE frames per second."""
    video.write_frames(path, frames, RATE, codec, crf)


def run_demo(
    edit: SceneEdit,
    method: str,
    folder: Path,
    use_mask: bool = True,
    on_progress: ProgressCallback | None = None,
    backbone: str = "shapeworld-wan",
) -> dict[str, Any]:
    """Run one edit in `folder` and return its manifest, with the metrics against the truth under "truth".

    use_mask: give the edited actor's mask, if the edit changes an actor. An image-to-video model gets the true edited
    first frame.
    """
    name, _ = registry.choose_backbone(backbone)
    source, target = render([edit.source, edit.target], edit.source.frames)
    task = EditTask(
        input=str(folder / "source.mp4"),
        output=str(folder / "edited.mp4"),
        source_prompt=edit.source.caption(),
        target_prompt=edit.target.caption(),
        method=method,
        backbone=name,
        first_frame=_first_frame_path(folder, name),
        mask=str(folder / "mask.mkv") if use_mask and edit.actor is not None else None,
    )
    _write_inputs(task, edit, source, target)
    result = run.edit(task, on_progress=on_progress)
    edited = list(result.frames())
    result.manifest["truth"] = judge(edit, to_tensor(edited))
    result.save(on_progress=on_progress)
    _write_comparison(
        folder, {"source": to_arrays(source), "edited": edited, "truth": to_arrays(target)}
    )
    return result.manifest


def _first_frame_path(folder: Path, backbone: str) -> str | None:
    """Return where the edited first frame is written; None for a model that takes none."""
    needs_image = "image" in registry.specs()[backbone].capabilities
    return str(folder / "first.png") if needs_image else None


def _write_inputs(task: EditTask, edit: SceneEdit, source: Tensor, target: Tensor) -> None:
    """Write the files that a task names: the clip, the mask and the edited first frame."""
    Path(task.input).parent.mkdir(parents=True, exist_ok=True)
    # Players support 4:2:0 in H.264 High best; the result follows its source.
    write_clip(Path(task.input), to_arrays(source), "h264", NEARLY_LOSSLESS_CRF)
    if isinstance(task.mask, str):
        mask = actor_mask(edit, edit.source.frames)[:, None].expand(-1, 3, -1, -1)
        write_clip(Path(task.mask), to_arrays(mask), "lossless")
    if task.first_frame:
        with atomic_write(Path(task.first_frame)) as part:
            images.write(part, target[0])


def _write_comparison(folder: Path, rows: dict[str, list[np.ndarray]]) -> None:
    """Write clips side by side, as a clip and as a strip of a few frames."""
    columns = [np.hstack(frames) for frames in zip(*rows.values(), strict=True)]
    write_clip(folder / "side-by-side.mp4", [enlarge(frame) for frame in columns])
    indices = previews.sample_indices(len(rows["edited"]))
    samples = {name: [frames[i] for i in indices] for name, frames in rows.items()}
    with atomic_write(folder / "strip.png") as part:
        previews.draw_strip(samples, ZOOM).save(part)


def enlarge(frame: np.ndarray) -> np.ndarray:
    """Return a frame enlarged by ZOOM."""
    import cv2

    return cv2.resize(frame, None, fx=ZOOM, fy=ZOOM, interpolation=cv2.INTER_CUBIC)
