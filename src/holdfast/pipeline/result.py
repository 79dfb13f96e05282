"""The result of an edit: its frames, its metrics, and the file that it is saved to."""

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from ..base.errors import UserError
from ..media import arrays, masks, video
from . import notebook
from .edited_clip import EditedClip
from .events import ProgressCallback
from .memory_limits import propose_smaller_plan
from .planning import Plan
from .preservation import PreservationMetrics
from .task import EditTask
from .writer import Writer

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(repr=False)
class Result:
    """An edited clip with its manifest. Frames are decoded when they are read, each time again.

    scratch: what holds the input's files, where the input came from memory.
    """

    edited: EditedClip
    manifest: dict[str, Any]
    writer: Writer
    scratch: object = None

    @property
    def plan(self) -> Plan:
        """How the edit was done."""
        return self.edited.plan

    @property
    def task(self) -> EditTask:
        """What was asked for."""
        return self.edited.plan.task

    @property
    def clip(self) -> video.Clip:
        """The source."""
        return self.edited.clip

    @property
    def mask(self) -> masks.Mask | None:
        """Where the edit may show; None: everywhere."""
        return self.edited.mask

    @property
    def z(self) -> Tensor | None:
        """The edited latent, 1 c f h w; None where the result equals the source."""
        return self.edited.z

    def frames(self) -> Iterator[np.ndarray]:
        """Return all frames before they are encoded: H W 3, uint8, or uint16 for a source above 8 bits."""
        return (picture.rgb() for picture in self._measured_pictures())

    def array(self) -> np.ndarray:
        """Return all frames as one array f H W 3, uint8 or uint16."""
        return arrays.to_array(self.frames())

    def images(self) -> "list[Image]":
        """Return all frames as PIL images of eight bits."""
        return arrays.to_pil(self.frames())

    def tensor(self) -> Tensor:
        """Return all frames as one tensor f 3 H W, float32 in [0, 1]."""
        return arrays.to_tensor(self.frames())

    @property
    def preservation(self) -> dict[str, float | None]:
        """How much of the source the frames keep before they are encoded: see PreservationMetrics.to_dict."""
        if "preservation" not in self.manifest:
            for _ in self._measured_pictures():
                pass
        return self.manifest["preservation"]

    def _measured_pictures(self) -> Iterator[video.OutputFrame]:
        """Return all pictures. After the last one the manifest has the preservation metrics."""
        metrics = PreservationMetrics()
        yield from self.edited.pictures(metrics)
        self.manifest["preservation"] = metrics.to_dict()

    def save(
        self, path: str | Path | None = None, on_progress: ProgressCallback | None = None
    ) -> Path:
        """Write the clip and its manifest, by default to the task's output, and remove the saved progress.

        Raises UserError where the path cannot be written, or another run writes it.
        """
        if not (path or self.task.output):
            raise UserError("the edit has no output", "give save() a file name")
        path = Path(path or self.task.output)
        with propose_smaller_plan(self.task, self.plan.memory):
            self.writer.write(self.edited, self.manifest, path, on_progress)
        return path

    @functools.cached_property
    def preview_html(self) -> str:
        """The clip next to its source, and a strip of both, as HTML."""
        return notebook.preview_html(self.edited, self.frames())

    def __repr__(self) -> str:
        return notebook.describe_result(self.edited, self.manifest, self.writer.timer.seconds)

    def _repr_html_(self) -> str:
        preview = self.preview_html  # first: its frames bring the metrics
        measured = {"seconds": self.writer.timer.seconds, "preservation": self.preservation}
        return notebook.result_html(self.task, self.manifest | measured, preview)
