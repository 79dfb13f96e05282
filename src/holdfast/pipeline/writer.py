"""Write the file of a result, verify it, and write its manifest."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..base.files import write_json
from ..base.memory import PeakMemory
from ..base.notices import warn_user
from ..media import video
from . import verification
from .edited_clip import EditedClip
from .events import ProgressCallback
from .locks import OutputLock, lock_output
from .output_paths import check_output_path, check_raw_path, manifest_path, parse_output
from .preservation import PreservationMetrics
from .progress import SavedProgress
from .stages import StageTimer, report_items
from .task import file_stamp
from .validation import input_files

RAW_STAGE = "write the raw clip"


@dataclass
class Writer:
    """Write a result to its file, or to several.

    progress: of the edit, removed once a file is written. timer, memory: of the whole edit. lock: on the task's output,
    held until a file is written. file_notices: the notices that are about one written file, and not about the edit.
    """

    progress: SavedProgress | None = None
    timer: StageTimer = field(default_factory=StageTimer)
    memory: PeakMemory = field(default_factory=PeakMemory)
    lock: OutputLock | None = None
    file_notices: list[str] = field(default_factory=list)

    def write(
        self,
        edited: EditedClip,
        manifest: dict[str, Any],
        path: Path,
        on_progress: ProgressCallback | None = None,
    ) -> None:
        """Write a clip and its manifest, to which what was measured is added, and remove the saved progress.

        Raises UserError where the path cannot be written, or another run writes it.
        """
        task = edited.plan.task
        check_output_path(path, input_files(task))
        if task.raw:
            check_raw_path(task.raw, path, input_files(task))
        with lock_output(path):
            with self.memory:
                if task.raw:
                    manifest["raw"] = self._write_raw(edited, parse_output(task.raw), on_progress)
                metrics, copied = self._write_clip(edited, path, on_progress)
                manifest["preservation"] = metrics.to_dict()
                manifest["delivered"] = self._verify(edited, path, on_progress)
                manifest["copied"] = copied
            manifest |= self._describe_file(edited, manifest, path)
            write_json(manifest_path(path), manifest)
            if self.progress:
                self.progress.remove()
        self.lock = None

    def _write_raw(
        self, edited: EditedClip, raw: Path, on_progress: ProgressCallback | None
    ) -> dict[str, str]:
        """Write the clip as the method left it. Return the manifest's entry.

        The latent is decoded twice rather than kept as frames: memory must not grow with the clip.
        """
        with lock_output(raw):
            self._write_clip(replace(edited, mask=None), raw, on_progress, RAW_STAGE)
        return {"output": str(raw), "stamp": file_stamp(raw)}

    def _write_clip(
        self,
        edited: EditedClip,
        path: Path,
        on_progress: ProgressCallback | None,
        stage: str = "decode and write",
    ) -> tuple[PreservationMetrics, dict[str, Any]]:
        clip, task, metrics = edited.clip, edited.plan.task, PreservationMetrics()
        self.timer.restart()
        pictures = report_items(edited.pictures(metrics), stage, clip.frames, on_progress)
        changed = edited.part if edited.z is not None else range(0)
        copied = video.write(path, clip, pictures, task.codec, task.crf, changed)
        self.timer.lap(stage)
        return metrics, copied

    def _verify(
        self, edited: EditedClip, path: Path, on_progress: ProgressCallback | None
    ) -> verification.FileMetrics:
        alphas = report_items(edited.alphas(), "check", edited.clip.frames, on_progress)
        metrics = verification.measure_file(edited.clip, path, alphas)
        self.timer.lap("check")
        return metrics

    def _describe_file(
        self, edited: EditedClip, manifest: dict[str, Any], path: Path
    ) -> dict[str, Any]:
        """Return the entries of the manifest that are about the written file."""
        return {
            "output": str(path),
            "key": self.progress.key if self.progress else None,
            "stamp": file_stamp(path),
            "audio_tracks": video.count_audio_tracks(path, edited.clip),
            "notes": self._update_notices(edited, manifest["notes"], path),
            "codec": manifest["copied"].get("codec", _codec_name(edited, path)),
            "seconds": {k: round(v, 3) for k, v in self.timer.seconds.items()},
            "peak_memory_mb": self.memory.megabytes(str(edited.backbone.device)),
        }

    def _update_notices(self, edited: EditedClip, notices: list[str], path: Path) -> list[str]:
        """Return the edit's notices with those about this file, in place of those about an earlier file."""
        task = edited.plan.task
        if not self.file_notices and task.output:  # the edit has issued those of its own output
            self.file_notices += video.losses(Path(task.output), edited.clip, task.codec)
        remaining = [text for text in notices if text not in self.file_notices]
        losses = video.losses(path, edited.clip, task.codec)
        for text in losses:
            if text not in notices:
                warn_user(text)
        self.file_notices += losses
        return remaining + [text for text in losses if text not in remaining]


def _codec_name(edited: EditedClip, path: Path) -> str:
    suffix = path.suffix.lower()
    if suffix not in video.CONTAINERS:
        return suffix
    return video.pick_codec(edited.plan.task.codec, suffix, edited.clip)
