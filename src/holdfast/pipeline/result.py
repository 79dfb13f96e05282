"""The result of an edit: its frames, the clip and the manifest that are written, and how much
of the source it keeps.
"""

import functools
import math
import platform
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from importlib import metadata
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from av.video.reformatter import VideoReformatter
from torch import Tensor

from ..base.errors import UserError
from ..base.files import write_json
from ..base.memory import PeakMemory
from ..base.notices import note
from ..media import arrays, masks, video
from ..media.images import to_array
from ..metrics.base import psnr
from ..models import registry
from ..models.base import Backbone
from . import agreement, notebook, verification
from .locks import OutputLock, lock_output
from .loop import EditFinished
from .output_paths import check_output_path, manifest_path
from .planning import Plan
from .progress import SavedProgress
from .task import EditTask, file_stamp
from .validation import input_files

ProgressCallback = Callable[[str, int, int], None]  # stage, done, count
VERSIONS = ("holdfast", "torch", "diffusers", "transformers", "av")


class Clock:
    """Seconds by stage: each lap since the last one counts for one stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.began = time.perf_counter()

    def restart(self) -> None:
        """What was since the last lap counts for nothing."""
        self.began = time.perf_counter()

    def lap(self, stage: str) -> None:
        now = time.perf_counter()
        self.seconds[stage] = self.seconds.get(stage, 0.0) + now - self.began
        self.began = now


@dataclass(repr=False)
class Result:
    """An edited latent and all that brings it back to the clip it came from. Frames are made
    when they are asked for.
    """

    plan: Plan
    clip: video.Clip
    part: range
    mask: masks.Mask | None
    backbone: Backbone
    z: Tensor | None  # None: nothing was to change, the source itself is the result
    manifest: dict
    progress: SavedProgress | None = None
    clock: Clock = field(default_factory=Clock)
    memory: PeakMemory = field(default_factory=PeakMemory)
    file_notices: list[str] = field(default_factory=list)  # notes of one written file, not of the edit
    scratch: object = None  # what holds the clip's files, where it came from memory
    lock: OutputLock | None = None  # on the task's output, until a file is written

    @property
    def task(self) -> EditTask:
        return self.plan.task

    def frames(self) -> Iterator[np.ndarray]:
        """The result's frames before encoding: H W 3, uint8, or uint16 for a source above 8 bits. All of the clip's."""
        return (shown.rgb() for shown in self._measured())

    def array(self) -> np.ndarray:
        """All frames as one array f H W 3, uint8 or uint16."""
        return arrays.to_array(self.frames())

    def images(self) -> list:
        """All frames as PIL images, eight bits."""
        return arrays.to_pil(self.frames())

    def tensor(self) -> Tensor:
        """All frames as one tensor f 3 H W, float32 in [0, 1]."""
        return arrays.to_tensor(self.frames())

    @functools.cached_property
    def preview_html(self) -> str:
        """The clip and a strip as HTML."""
        return notebook.preview_html(self)

    def __repr__(self) -> str:
        return notebook.describe_result(self)

    def _repr_html_(self) -> str:
        return notebook.result_html(self)

    def alphas(self) -> Iterator[np.ndarray]:
        """The edit's weight at each pixel of every frame, float32 H W: 0 where nothing was to change."""
        inside = self.mask.alphas() if self.mask else None
        shape = self.clip.size[::-1]
        for i in range(self.clip.frames):
            if i not in self.part:
                yield np.zeros(shape, np.float32)
            else:
                yield next(inside) if inside else np.ones(shape, np.float32)

    def pictures(self, measure: "PreservationMetrics") -> Iterator[video.OutputFrame]:
        """The same with what each was made from. An untouched one is turned into RGB only where somebody asks."""
        edited = self.decode()
        converter = VideoReformatter()
        frames = zip(video.read_stored(self.clip), self.alphas(), strict=True)
        for i, (own, alpha) in enumerate(frames):
            kept = None if isinstance(own, np.ndarray) else own
            if i not in self.part or self.z is None:
                measure.add_same(alpha)
                yield video.OutputFrame(partial(video.to_rgb, own, self.clip, converter), kept)
                continue
            source, made = video.to_rgb(own, self.clip, converter), next(edited)
            result = masks.composite(source, made, alpha)
            measure.add(source, result, alpha)
            yield replace(video.as_output_frame(result), source=kept, edited=made, alpha=alpha)

    def _measured(self) -> Iterator[video.OutputFrame]:
        """All pictures; when they have passed, the preservation figures are known."""
        measure = PreservationMetrics()
        yield from self.pictures(measure)
        self.manifest["preservation"] = measure.to_dict()

    @torch.no_grad()
    def decode(self) -> Iterator[np.ndarray]:
        """What the model made of the part, at the source's size, before any mask."""
        if self.z is None:
            yield from islice(video.read(self.clip), self.part.start, self.part.stop)
            return
        for frame in self.plan.fit.to_clip(self.backbone.decode(self.z)):
            yield to_array(frame, self.clip.bits)

    def save(self, path: str | Path | None = None, report: ProgressCallback | None = None) -> Path:
        """Write the clip and, beside it, its manifest; then the saved latents are no longer needed and go.

        Raises ValueError for a place where it cannot be written, or where another run works.
        """
        if not (path or self.task.output):
            raise UserError("give a file name to save to")
        path = Path(path or self.task.output)
        check_output_path(path, input_files(self.task))
        with lock_output(path):
            with self.memory:
                self._write(path, report)
            self.manifest |= self._written(path)
            write_json(manifest_path(path), self.manifest)
            if self.progress:
                self.progress.remove()
        self.lock = None
        return path

    def _write(self, path: Path, report: ProgressCallback | None) -> None:
        measure = PreservationMetrics()
        self.clock.restart()
        frames = report_items(self.pictures(measure), "decode and write", self.clip.frames, report)
        edited = self.part if self.z is not None else range(0)
        how = video.write(path, self.clip, frames, self.task.codec, self.task.crf, edited)
        self.clock.lap("decode and write")
        self.manifest["preservation"] = measure.to_dict()
        self.manifest["delivered"] = verification.measure_file(
            self.clip, path, report_items(self.alphas(), "check", self.clip.frames, report)
        )
        self.clock.lap("check")
        self.manifest["copied"] = how

    def _written(self, path: Path) -> dict:
        """What the manifest says of the file."""
        suffix = path.suffix.lower()
        contained = suffix in video.CONTAINERS
        if not self.file_notices and self.task.output:  # said of the file that the task names
            self.file_notices += video.losses(Path(self.task.output), self.clip, self.task.codec)
        notes = [text for text in self.manifest["notes"] if text not in self.file_notices]
        usual = video.pick_codec(self.task.codec, suffix, self.clip) if contained else suffix
        said = {
            "output": str(path),
            "key": self.progress.key if self.progress else None,
            "stamp": file_stamp(path),
            "audio_tracks": video.count_audio_tracks(path, self.clip),
            "notes": notes,
            "codec": self.manifest["copied"].get("codec", usual),
            "seconds": {k: round(v, 3) for k, v in self.clock.seconds.items()},
            "peak_memory_mb": self.memory.megabytes(str(self.backbone.device)),
        }
        lost = video.losses(path, self.clip, self.task.codec)
        for text in lost:
            if text not in self.manifest["notes"]:  # else it was said before the edit
                note(text)
        self.file_notices += lost
        said["notes"] += [text for text in lost if text not in notes]
        return said

    @property
    def preservation(self) -> dict:
        """The preservation figures of this result, measured before encoding."""
        if "preservation" not in self.manifest:
            for _ in self._measured():
                pass
        return self.manifest["preservation"]


class PreservationMetrics:
    """How much of the source a result keeps, over all frames, in [0, 1] pixel values.

    Outside is where the mask's weight is 0 (and every frame that was not to be edited). `changed_share`: the share of
    all pixels of which any channel moved by more than 2/255.
    """

    def __init__(self) -> None:
        self.square = self.square_outside = 0.0
        self.count = self.count_outside = 0
        self.worst = 0.0
        self.changed = 0

    def add(self, source: np.ndarray, result: np.ndarray, alpha: np.ndarray) -> None:
        peak = np.iinfo(source.dtype).max
        difference = np.abs(source.astype(np.float32) - result) / peak
        square, outside = difference**2, alpha == 0
        self.square += float(square.sum(dtype=np.float64))
        self.count += square.size
        self.square_outside += float(square[outside].sum(dtype=np.float64))
        self.count_outside += 3 * int(outside.sum())
        self.worst = max(self.worst, float(difference[outside].max(initial=0.0)))
        self.changed += 3 * int((difference.max(axis=2) > 2.001 / 255).sum())

    def add_same(self, alpha: np.ndarray) -> None:
        """A frame of which nothing moved."""
        self.count += 3 * alpha.size
        self.count_outside += 3 * int((alpha == 0).sum())

    def to_dict(self) -> dict[str, float | None]:
        """psnr and psnr_outside in dB (infinite where not a bit moved); the outside ones are None where nothing is
        outside.
        """
        outside = self.count_outside > 0
        return {
            "psnr": _decibels(self.square, self.count),
            "psnr_outside": _decibels(self.square_outside, self.count_outside) if outside else None,
            "max_abs_outside": self.worst if outside else None,
            "changed_share": round(self.changed / self.count, 6),
        }


def _decibels(square: float, count: int) -> float:
    value = psnr(square / count)
    return value if math.isinf(value) else round(value, 3)


def make_manifest(plan: Plan, clip: video.Clip, backbone: Backbone, done: EditFinished) -> dict:
    """The manifest, as far as it is known before writing."""
    task = plan.task
    versions = {name: metadata.version(name) for name in VERSIONS}
    return {
        "output": task.output,
        "task": task.to_dict(),
        "method": plan.method.__name__.rpartition(".")[2],
        "backbone": backbone.name,
        "seed": task.seed,
        "settings": plan.settings(),
        "frames": clip.frames,
        "rate": str(clip.rate),
        "size": list(clip.size),
        "audio_tracks": clip.audio_tracks,
        "source": {
            "notes": list(clip.notes),
            "variable_rate": clip.has_variable_rate,
            "bits": clip.bits,
        },
        "device": {
            "type": backbone.device.type,
            "dtype": str(backbone.dtype).removeprefix("torch."),
        },
        "weights": weights_identities(plan, backbone),
        "plan": plan.describe(),
        "evaluations": done.evaluations,
        "guide_evaluations": done.image_model_evaluations,
        **agreement_entries(backbone, done),
        "versions": versions | {"python": platform.python_version()},
    }


def agreement_entries(backbone: Backbone, done: EditFinished) -> dict:
    """What the manifest says of the model's own judgement: nothing where it was not asked."""
    found = None
    if done.agreement is not None:
        measured = backbone.calibration.agreement
        found = agreement.judge(done.agreement, measured, done.is_in_domain).describe()
    return {"agreement": found, "agreement_evaluations": done.judge_evaluations}


def weights_identities(plan: Plan, backbone: Backbone) -> dict:
    """Which files an edit's models were loaded from, by what each does; None for one that the caller built."""
    found = {"backbone": backbone.weights}
    for use, helper in (("guide", plan.image_model), ("first_frame", plan.first_frame_model)):
        if helper.name:
            found[use] = registry.identify(helper.name, helper.weights)
    return found


def report_items(items: Iterable, stage: str, count: int, report: ProgressCallback | None) -> Iterator:
    """The same items; how many of a stage's have passed is told."""
    for done, item in enumerate(items, 1):
        yield item
        if report:
            report(stage, done, count)
