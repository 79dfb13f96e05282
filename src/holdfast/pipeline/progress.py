"""Saved progress: the latents of a run that stopped, from which `--resume` goes on."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from .. import __version__
from ..base.errors import UserError
from ..base.files import load_tensors, save_tensors

if TYPE_CHECKING:
    from ..sampling.field import Step


@dataclass(frozen=True)
class SavedProgress:
    """Latents on disk beside a result, bound to one task by its key."""

    path: Path
    key: str
    # name: tensor. What a run found out before its first step, saved with every one
    extra: dict = field(default_factory=dict)

    def save(self, step: "Step") -> None:
        tensors = {"z": step.z}
        tensors |= {f"state.{name}": value for name, value in step.state.items()}
        tensors |= {f"found.{name}": value for name, value in self.extra.items()}
        about = {
            "key": self.key,
            "stage": step.stage,
            "index": str(step.index),
            "count": str(step.count),
            "version": __version__,
        }
        save_tensors(self.path, tensors, about)

    def load(self) -> "tuple[Step, dict] | None":
        """The saved step and what was found before it; None where nothing was saved.

        Raises ValueError where the file cannot be read, or belongs to another task.
        """
        from ..sampling.field import Step

        if not self.path.exists():
            return None
        tensors, about = load_tensors(self.path)
        if about.get("key") != self.key:
            raise UserError(
                f"{self.path} was saved by another task or other settings; delete it, or run without --resume"
            )
        try:
            place = about["stage"], int(about["index"]), int(about["count"])
            step = Step(*place, tensors["z"], _under("state.", tensors))
            if "digest" not in about:
                raise KeyError("digest")
        except (KeyError, ValueError) as error:
            raise UserError(
                f"{self.path} does not say where its run stopped; delete it to start over"
            ) from error
        if about.get("version") != __version__:  # what a method keeps in its state may have changed
            raise UserError(
                f"{self.path} was saved by another version of Holdfast; delete it, or run without --resume"
            )
        return step, _under("found.", tensors)

    def can_resume(self) -> bool:
        """Whether there is something of this task to go on from."""
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(self.path, "np") as file:
                about = file.metadata() or {}
                return (about.get("key"), about.get("version")) == (self.key, __version__)
        except (SafetensorError, OSError):
            return False

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)


def _under(prefix: str, tensors: dict) -> dict:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
