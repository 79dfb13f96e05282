"""Edit clips in memory, without files.

job = in_memory.plan_job(EditTask("", "", source="...", target="...", method="flowedit"), backbone, frames)
frames = in_memory.edit_frames(job, backbone)
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from ..models.base import Backbone
from .events import EditFinished, FirstFramePainted
from .helper_models import borrow_controlnet, borrow_image_model, load_helper
from .loop import Helpers, LoopJob, mask_from_cells, run_loop
from .planning import make_plan
from .task import EditTask


def plan_job(
    task: EditTask,
    backbone: Backbone,
    frames: Tensor,
    mask: Sequence[np.ndarray] | None = None,
    first_frame: Tensor | None = None,
    keyframes: Mapping[int, Tensor] | None = None,
) -> LoopJob:
    """Plan an edit of frames that are in memory. The files that the task names are not read.

    frames: f 3 H W in [0, 1]. mask: boolean H W, one a frame. first_frame: the edited first frame, 3 H W. keyframes:
    more edited frames, by index. Raises UserError where the task, the backbone and the method do not fit together.
    """
    keyframes = keyframes or {}
    height, width = frames.shape[-2:]
    plan = make_plan(task, backbone, len(frames), (height, width), keyframes)
    return LoopJob(
        plan,
        frames=lambda: plan.fit.to_model(frames),
        mask=None if mask is None else lambda: mask,
        make_auto_mask=lambda cells: mask_from_cells(plan, backbone.clip_format, cells).frames,
        first_frame=None if first_frame is None else next(plan.fit.to_model([first_frame])),
        keyframes={at: next(plan.fit.to_model([frame])) for at, frame in keyframes.items()},
        helpers=HELPERS,
    )


def paint_first_frame(job: LoopJob, backbone: Backbone) -> FirstFramePainted:
    """Edit the clip's first frame from one prompt to the other with the plan's image model, by the default method.

    The image model is released at the end, because the clip's own model needs its memory.
    """
    task, model = job.plan.task, load_helper(job.plan.first_frame_model, backbone)
    still = replace(
        task,
        method=EditTask.method,
        settings={},
        strength=None,
        keyframes=(),
        image_model=None,
        control=None,
        controlnet=None,
        frames=None,
        window=None,
    )
    frame = torch.stack(list(islice(job.frames(), 1)))
    mask = list(islice(job.mask(), 1)) if job.mask else None
    still_job = plan_job(still, model, frame, mask)
    finished = finish_loop(still_job, model)
    (painted,) = still_job.plan.fit.to_clip(model.decode(finished.z))
    return FirstFramePainted(painted, finished.evaluations)


HELPERS = Helpers(borrow_image_model, paint_first_frame, borrow_controlnet)


def finish_loop(job: LoopJob, backbone: Backbone) -> EditFinished:
    """Run a job and return its last event."""
    event = None
    for event in run_loop(job, backbone):  # noqa: B007
        pass
    assert isinstance(event, EditFinished)
    return event


def edit_latent(job: LoopJob, backbone: Backbone) -> Tensor:
    """Run a job and return the edited latent, 1 c f h w."""
    return finish_loop(job, backbone).z


@torch.no_grad()
def edit_frames(job: LoopJob, backbone: Backbone) -> Tensor:
    """Run a job and return the edited frames at the clip's size, f 3 H W in [0, 1], before the mask is applied."""
    z = edit_latent(job, backbone)
    return torch.stack(list(job.plan.fit.to_clip(backbone.decode(z))))
