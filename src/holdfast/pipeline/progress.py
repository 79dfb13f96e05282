"""Saved progress: what a stopped run leaves next to its output, so that `--resume` can continue it."""

import contextlib
import functools
import json
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ..base.errors import UserError
from ..base.files import load_tensors, save_tensors
from ..base.notices import warn_user
from .finite import is_usable
from .output_paths import latents_path, parse_output, parts_path
from .progress_parts import MIN_NUMBERS, PartFolder
from .task import EditTask

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from ..sampling.field import Step

# The version of the file's layout, and of the state that methods keep in it: raise it when either changes.
PROGRESS_VERSION = "3"
DELETE = "delete it to start over"


@dataclass(frozen=True)
class SavedProgress:
    """The latents of a run, in a file that is bound to one task by its key.

    Large tensors of the method's state lie in a folder next to it. extra: tensors by name that the run made before its
    first step (a mask, a first frame). They are saved with every step, so that a resumed run continues with the same
    ones.
    """

    path: Path
    key: str
    extra: "Mapping[str, Tensor]" = field(default_factory=dict)

    @functools.cached_property
    def parts(self) -> PartFolder:
        """The folder of the large tensors."""
        return PartFolder(parts_path(self.path))

    def save(self, step: "Step") -> None:
        """Write a step, unless its latent cannot be used. Raises OSError where it cannot be written."""
        if not is_usable(step.z):
            return  # the edit is about to fail
        tensors = {f"state.{name}": value for name, value in step.state.items()}
        tensors |= {f"extra.{name}": value for name, value in self.extra.items()}
        large = {n: value for n, value in tensors.items() if value.numel() >= MIN_NUMBERS}
        parts = {name: self.parts.add(value) for name, value in large.items()}
        small = {n: value for n, value in tensors.items() if n not in parts}
        metadata = {
            "parts": json.dumps(parts, sort_keys=True),
            "key": self.key,
            "stage": step.stage,
            "index": str(step.index),
            "count": str(step.count),
            "progress_version": PROGRESS_VERSION,
        }
        save_tensors(self.path, {"z": step.z} | small, metadata)
        self.parts.remove_except(parts.values())

    def load(self) -> "tuple[Step, dict[str, Tensor]] | None":
        """Return the saved step and the extra tensors; None where nothing was saved.

        Raises UserError where the file is damaged, or was saved by another version or for another task.
        """
        if not self.path.exists():
            return None
        tensors, metadata = load_tensors(self.path)
        self._check_version(metadata)
        if metadata.get("key") != self.key:
            raise UserError(
                f"{self.path} was saved by another task, or with other settings",
                "delete it, or run without --resume",
            )
        for name, part in json.loads(metadata.get("parts", "{}")).items():
            tensors[name] = self.parts.load(part)
        return _read_step(self.path, tensors, metadata), _select("extra.", tensors)

    def _check_version(self, metadata: "Mapping[str, str]") -> None:
        version = metadata.get("progress_version")
        if version == PROGRESS_VERSION:
            return
        if version is None and "version" not in metadata:
            raise UserError(f"{self.path} does not say which version saved it", DELETE)
        saved_by = f"Holdfast {metadata['version']}" if version is None else f"version {version}"
        raise UserError(
            f"{self.path} is progress of {saved_by}, which this version of Holdfast cannot resume",
            "delete it, or run without --resume",
        )

    def can_resume(self) -> bool:
        """Return whether there is progress of this task that this version can read."""
        metadata = self._read_metadata()
        expected = {"key": self.key, "progress_version": PROGRESS_VERSION}
        return all(metadata.get(name) == value for name, value in expected.items())

    def choose_resume(self) -> bool:
        """Return `can_resume`, for a run that resumes what it can. Warn about progress of another version."""
        metadata = self._read_metadata()
        if metadata and metadata.get("progress_version") != PROGRESS_VERSION:
            warn_user(
                f"{self.path} is progress of another version of Holdfast: the edit starts over"
            )
        return self.can_resume()

    def _read_metadata(self) -> "Mapping[str, str]":
        """Return what the file says about itself; nothing if it is missing or damaged."""
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(self.path, "np") as file:
                return file.metadata() or {}
        except (SafetensorError, OSError):
            return {}

    def remove(self) -> None:
        """Remove what was saved, if there is anything."""
        self.path.unlink(missing_ok=True)
        self.parts.remove_except(())


class BackgroundSaver:
    """Saves steps in a thread, one at a time, while the edit continues.

    The tensors of a step never change after the method has yielded it, so the thread reads them without a copy.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, "save")
        self._running: Future[None] | None = None

    def start(self, progress: SavedProgress, step: "Step") -> None:
        """Begin to save a step, unless the save before still runs. Raises OSError where that one failed."""
        if self._running is None or self._running.done():
            self.wait()
            self._running = self._pool.submit(progress.save, step)

    def wait(self) -> None:
        """Wait for the running save. Raises OSError where it failed."""
        running, self._running = self._running, None
        if running is not None:
            running.result()

    def close(self) -> None:
        """Wait for the running save, and end the thread. Raises OSError where the save failed."""
        try:
            self.wait()
        finally:
            self._pool.shutdown()


@contextlib.contextmanager
def tolerate_full_disk(path: Path) -> Iterator[None]:
    """Turn an OSError of the block into a notice: the edit continues, and its result may still fit on the disk."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        warn_user(f"{path} cannot be saved ({reason}): if the run stops, its progress is lost")


def saved_progress(task: EditTask) -> SavedProgress:
    """Return the saved progress of a task with an output. Nothing is read yet."""
    return SavedProgress(latents_path(parse_output(task.output)), task.latent_key())


def _read_step(
    path: Path, tensors: "Mapping[str, Tensor]", metadata: "Mapping[str, str]"
) -> "Step":
    from ..sampling.field import Step

    try:
        position = metadata["stage"], int(metadata["index"]), int(metadata["count"])
        step = Step(*position, tensors["z"], _select("state.", tensors))
        if "digest" not in metadata:
            raise KeyError("digest")
    except (KeyError, ValueError) as error:
        raise UserError(f"{path} does not say where its run stopped", DELETE) from error
    return step


def _select(prefix: str, tensors: "Mapping[str, Tensor]") -> "dict[str, Tensor]":
    """Return the tensors whose name begins with a prefix, without it."""
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


@dataclass(frozen=True)
class AdapterFile:
    """Adapters that a method trained on the clip, next to the output. key: of what their training depends on."""

    path: Path
    key: str

    def load(self) -> "dict[str, Tensor] | None":
        """Return the adapters, where they were trained on this clip with these settings.

        Adapters only save time, so a damaged file is ignored, with a notice.
        """
        if not self.path.exists():
            return None
        try:
            tensors, metadata = load_tensors(self.path)
        except ValueError:
            tensors, metadata = {}, {}
        if not tensors or not all(value.isfinite().all() for value in tensors.values()):
            warn_user(f"{self.path} is damaged: the clip's motion is learnt again")
            return None
        if metadata.get("key") != self.key:
            return None
        warn_user(f"the clip's motion was learnt in an earlier run, which saved it as {self.path}")
        return tensors

    def save(self, tensors: "Mapping[str, Tensor]") -> None:
        """Write the adapters. Raises OSError where they cannot be written."""
        save_tensors(self.path, tensors, {"key": self.key})
