"""Python's entry points: `keep` and `compare`. Clips and masks are paths, or in memory."""

import contextlib
import inspect
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ..base.errors import UnknownArgumentError, UserError, name_controls
from ..base.names import suggest
from ..base.notices import collect_notices, warn_user
from ..base.schema import REQUIRED, list_settings, plain_type
from ..media import arrays
from ..pipeline.api import ScratchFolder, parse_rate
from ..pipeline.events import ProgressCallback
from . import run, writer
from .kept_clip import KeptClip
from .task import KeepTask


def keep(
    source: Any,
    edited: Any,
    output: str | Path = "",
    *,
    rate: Any = None,
    edited_rate: Any = None,
    progress: Callable[[str, int, int], None] | None = None,
    **options: Any,
) -> KeptClip:
    """Put another editor's change back into its source: only the change, and nothing else that the editor did.

    source, edited: paths, or clips in memory: arrays f H W 3, tensors f 3 H W, lists of images; rate and edited_rate
    are then their frames per second. options: the fields of KeepTask, such as mask, grow, feather, blend, whole.

    Return a KeptClip: `report`, `save("out.mp4")`, `array()`, `masks()`, `frames()`. With an output it is written.
    Raise UserError for clips that do not belong together, and where most of the picture changed.
    """
    known = list_settings(KeepTask)
    for name in options:
        if name not in known:
            raise UnknownArgumentError(f"keep() has no argument {name!r}", suggest(name, known))
    with _name_arguments():
        return _keep(source, edited, output, (rate, edited_rate), progress, options)


def _keep(
    source: Any,
    edited: Any,
    output: str | Path,
    rates: tuple[Any, Any],
    progress: ProgressCallback | None,
    options: dict[str, Any],
) -> KeptClip:
    scratch = ScratchFolder()
    mask = options.get("mask")
    if mask is not None and not isinstance(mask, str | os.PathLike):
        options["mask"] = str(arrays.write_mask(scratch.path, "mask", arrays.to_mask(mask)))
    paths = [
        _as_path(clip, fps, scratch, name)
        for clip, fps, name in zip((source, edited), rates, ("source", "edited"), strict=True)
    ]
    values = {k: os.fspath(v) if isinstance(v, os.PathLike) else v for k, v in options.items()}
    task = KeepTask(*paths, output=os.fspath(output), **values)
    report = progress or run.ignore_progress
    result = run.keep(task, report)
    result.inputs = scratch
    if task.output:
        result.save(on_progress=report)
    if task.preview:
        writer.write_preview(result, Path(task.preview))
    return result


def _argument_name(flag: str) -> str:
    """Return what Python calls a flag of the command line (without its dashes): "mask="; other flags unchanged."""
    name = {"brush": "brushes"}.get(flag, flag.replace("-", "_"))
    return f"{name}=" if name in list_settings(KeepTask) else f"--{flag}"


@contextlib.contextmanager
def _name_arguments() -> Iterator[None]:
    """Let errors and notices name Python's arguments instead of flags."""
    try:
        with collect_notices() as notices:
            yield
    except UserError as error:
        error.name_controls(_argument_name)
        raise
    finally:
        for text in notices:
            warn_user(name_controls(text, _argument_name))


def compare(
    source: Any, edited: Any, *, rate: Any = None, edited_rate: Any = None
) -> dict[str, Any]:
    """Return the report of what an editor changed in a clip, and what else. The arguments are those of `keep`."""
    scratch = ScratchFolder()
    try:
        paths = [
            _as_path(clip, fps, scratch, name)
            for clip, fps, name in ((source, rate, "source"), (edited, edited_rate, "edited"))
        ]
        return run.compare(paths[0], paths[1])
    finally:
        scratch.remove()


def _as_path(clip: Any, rate: Any, scratch: ScratchFolder, name: str) -> str:
    """Return the path of a clip; one in memory is written to a lossless file."""
    if isinstance(clip, str | os.PathLike):
        return os.fspath(clip)
    fps = parse_rate(rate, clip)
    assert fps is not None
    return str(arrays.write_clip(scratch.path, name, arrays.to_frames(clip, f"the {name}"), fps))


def _set_signature() -> None:
    """Give `keep` a keyword argument for each field of KeepTask, for help and completion."""
    own = inspect.signature(keep)
    fields = [
        inspect.Parameter(
            setting.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=setting.default,
            annotation=plain_type(setting),
        )
        for setting in list_settings(KeepTask).values()
        if setting.default is not REQUIRED and setting.name not in own.parameters
    ]
    named = [p for p in own.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
    signature = own.replace(parameters=[*named, *fields])
    keep.__signature__ = signature  # pyright: ignore[reportFunctionMemberAccess]  inspect reads it


_set_signature()
