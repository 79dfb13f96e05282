"""The rows of a batch: one EditTask or KeepTask a line, as JSON. Invalid rows are reported before any work starts."""

import json
import os
import traceback
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from .. import methods
from ..base.errors import MissingDependencyError, UserError
from ..base.exit_codes import (
    BAD_INPUT,
    FAILED,
    MISSING,
    NO_MEMORY,
    OUT_OF_MEMORY,
    PATH_ERRORS,
    format_os_error,
)
from ..base.memory import is_out_of_memory
from ..base.notices import collect_notices
from ..base.old_names import rename_fields
from ..conform.task import KeepTask
from ..models import registry
from ..pipeline import jobs as single
from ..pipeline.output_paths import all_paths, parse_output
from ..pipeline.task import EditTask
from ..pipeline.validation import check_files_exist, check_outputs, input_files
from . import keep_rows
from .record import RECORD_NAME, Job, Outcome, Task

BOM = b"\xef\xbb\xbf"
EXAMPLE = '{"input": "jeep.mp4", "source_prompt": "a silver jeep", "target_prompt": "a red jeep"}'


def read_jobs(file: Path, folder: Path, anywhere: bool = False) -> list[Job]:
    """Return a job for every line that is neither empty nor starts with `#`. Jobs of invalid rows have failed.

    file: relative paths in its rows start at its folder. folder: for outputs. anywhere: outputs may also lie outside
    it. Raise UserError if no line is a row, OSError if the file cannot be read.
    """
    jobs = [_make_job(line, raw, file.parent.absolute(), folder) for line, raw in _lines(file)]
    if not jobs:
        raise UserError(f"{file} contains no jobs", f"a job is a line such as {EXAMPLE}")
    if not anywhere:
        _refuse_outside(jobs, folder)
    _refuse_conflicts(jobs, (folder / RECORD_NAME, file))
    return jobs


def _lines(file: Path) -> Iterator[tuple[int, bytes]]:
    for line, raw in enumerate(file.read_bytes().removeprefix(BOM).splitlines(), 1):
        if raw.strip() and not raw.lstrip().startswith(b"#"):
            yield line, raw


def _make_job(line: int, raw: bytes, base: Path, folder: Path) -> Job:
    job = Job(line)
    try:
        job.task = _make_task(_parse_row(raw), base, folder)
    except ValueError as error:
        job.fail(error, BAD_INPUT)
    return job


def _make_task(row: dict[str, Any], base: Path, folder: Path) -> Task:
    if not keep_rows.is_keep_row(row):
        return EditTask.from_dict(_resolve_paths(row, base, folder))
    name, default = row.pop("id", None), ""
    if isinstance(row["edited"], str) and not row.get("output"):
        default = _default_output(name, f"{Path(row['edited']).stem}.kept.mp4")
    full = keep_rows.resolve_paths(row, folder, default, lambda t, key: _resolve(t, base, key))
    return KeepTask.from_dict(full)


def _parse_row(raw: bytes) -> dict[str, Any]:
    try:
        row = json.loads(raw.decode())
    except json.JSONDecodeError as error:
        raise UserError(f"invalid JSON: {error.msg} at column {error.colno}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"invalid JSON: {error}") from error
    if not isinstance(row, dict):
        raise UserError("the row is not a JSON object", f"write one such as {EXAMPLE}")
    return row


def _resolve_paths(row: dict[str, Any], base: Path, folder: Path) -> dict[str, Any]:
    """Return the row with full paths. Values that are not text are left for EditTask to refuse."""
    row, name = rename_fields(row), row.get("id")
    row.pop("id", None)
    for key in ("input", "first_frame", "mask", "weights"):
        if isinstance(row.get(key), str):
            row[key] = _resolve(row[key], base, key)
    for key in ("control", "controlnet"):
        if isinstance(row.get(key), str):
            row[key] = _resolve(row[key], base, key)
    if isinstance(row.get("mask"), list):
        row["mask"] = [
            item | {"mask": _resolve(item["mask"], base, "mask")}
            if isinstance(item, dict) and isinstance(item.get("mask"), str)
            else item
            for item in row["mask"]
        ]
    if isinstance(row.get("image_model"), str):
        row["image_model"] = _resolve_pair(row["image_model"], base, "weights")
    if isinstance(row.get("keyframes"), list):
        row["keyframes"] = [
            _resolve_pair(pair, base, "input") if isinstance(pair, str) else pair
            for pair in row["keyframes"]
        ]
    if isinstance(row.get("output", ""), str) and isinstance(row.get("input"), str):
        output = parse_output(
            row.get("output") or _default_output(name, f"{Path(row['input']).stem}.mp4")
        )
        row["output"] = str(Path(folder.absolute(), output))
    if isinstance(row.get("raw"), str):
        row["raw"] = str(Path(folder.absolute(), parse_output(row["raw"])))
    return row


def _resolve(text: str, base: Path, key: str) -> str:
    """Return a path relative to the rows' folder. A mask may be a word or a box, and weights a hub id."""
    path = base / text
    may_be_name = key in ("weights", "detector", "control", "controlnet") or (
        key == "mask" and (text == "auto" or "," in text)
    )
    if not text.strip() or (may_be_name and not path.exists()):
        return text
    return str(path)


def _resolve_pair(text: str, base: Path, key: str) -> str:
    """Resolve the path in NAME=PATH."""
    name, mark, path = text.partition("=")
    return name + mark + (_resolve(path, base, key) if path else "")


def _default_output(name: Any, by_clip: str) -> str:
    """Return the output of a row that names none: by its id, else by its clip."""
    if name is None:
        return by_clip
    is_text = isinstance(name, (str, int)) and not isinstance(name, bool) and str(name).strip()
    if not is_text or Path(str(name)).name != str(name) or str(name).startswith("."):
        raise UserError(f"id is {name!r}", "use a file name without a folder and an ending")
    return f"{name}.mp4"


def _refuse_outside(jobs: list[Job], folder: Path) -> None:
    """Fail rows whose output lies outside the batch's folder: the rows may come from another person."""
    root = Path(os.path.realpath(folder))
    for job in jobs:
        for output in job.outputs if job.task else []:
            if not Path(os.path.realpath(output)).is_relative_to(root):
                cause = f"output {output} lies outside {folder}"
                remedy = "use a path inside it, or allow others with --outputs-anywhere"
                job.fail(UserError(cause, remedy), BAD_INPUT)


def _refuse_conflicts(jobs: list[Job], reserved: Iterable[Path]) -> None:
    """Fail rows that would overwrite each other's files or the batch's own: results would depend on the order."""
    writers: dict[str, list[Job]] = defaultdict(list)
    valid = [job for job in jobs if job.task and job.status != "failed"]
    for job in valid:
        for output in job.outputs:
            writers[os.path.realpath(output)].append(job)
    reserved_paths = {os.path.realpath(path) for path in reserved}
    for job in valid:
        conflict = _find_conflict(job, writers, reserved_paths)
        if conflict:
            job.fail(conflict, BAD_INPUT)


def _find_conflict(job: Job, writers: dict[str, list[Job]], reserved: set[str]) -> UserError | None:
    task = job.valid_task
    for output in job.outputs:
        others = [other.line for other in writers[os.path.realpath(output)] if other is not job]
        if others:
            lines = ", ".join(map(str, others))
            return UserError(f"line {lines} also writes {output}", "give each row an id")
        if reserved & {os.path.realpath(path) for path in all_paths(Path(output))}:
            return UserError(f"{output} would overwrite the batch's own files", "rename it")
    if len({os.path.realpath(output) for output in job.outputs}) < len(job.outputs):
        second = "preview" if isinstance(task, KeepTask) else "raw"
        return UserError(f"output and {second} are both {task.output}", "rename one")
    inputs = (other for name in _inputs(task) for other in writers[os.path.realpath(name)])
    makers = [other.line for other in inputs if other is not job]
    if makers:
        return UserError(f"it reads the output of line {makers[0]}", "run it in a later batch")
    return None


def _inputs(task: Task) -> list[str]:
    return task.input_files if isinstance(task, KeepTask) else input_files(task)


def check(job: Job, is_cluster: bool) -> None:
    """Skip a job that is done, and fail one that cannot work, without reading its clip.

    is_cluster: other machines do the work; weights that are missing here may be there.
    """
    task = job.valid_task
    try:
        if isinstance(task, KeepTask):
            _check_keep(job, task)
            return
        if single.finished_manifest(task):
            job.status = "skipped"
            return
        check_files_exist(task)
        check_outputs(task)
        methods.load(task.method)
        registry.describe_backbone(task.backbone, task.weights)
    except Exception as error:  # a bug in one row must not end the batch
        if not (is_cluster and isinstance(error, MissingDependencyError)):
            job.finish(failed_outcome(error))


def _check_keep(job: Job, task: KeepTask) -> None:
    if keep_rows.finished_manifest(task):
        job.status = "skipped"
    else:
        keep_rows.check(task)


def probe(task: Task, is_cluster: bool) -> Outcome | None:
    """Read a task's files and validate it without loading weights. Return the failure, or None if it is valid."""
    from ..conform import run as conforming
    from ..pipeline import run

    with collect_notices():  # the job repeats the notices in its manifest
        try:
            if isinstance(task, KeepTask):
                conforming.validate(task)
            else:
                run.open_session(task, None)
        except Exception as error:  # a bug in one row must not end the batch
            if not (is_cluster and isinstance(error, MissingDependencyError)):
                return failed_outcome(error)
    return None


def failed_outcome(error: BaseException) -> Outcome:
    """Return the outcome of a failed job, with the command line's sentence and exit code, and a bug's traceback."""
    sentence, code = describe_error(error)
    is_bug = not (
        isinstance(error, (MissingDependencyError, UserError, OSError)) or is_out_of_memory(error)
    )
    trace = "".join(traceback.format_exception(error)) if is_bug else ""
    return Outcome("failed", sentence=sentence, code=code, traceback=trace)


def describe_error(error: BaseException) -> tuple[str, int]:
    """Return the sentence and the exit code that the command line has for an error."""
    if isinstance(error, MissingDependencyError):
        return str(error), MISSING
    if isinstance(error, UserError):
        return str(error), BAD_INPUT
    if is_out_of_memory(error):
        return OUT_OF_MEMORY, NO_MEMORY
    if isinstance(error, OSError):
        return format_os_error(error), BAD_INPUT if error.errno in PATH_ERRORS else FAILED
    return f"{type(error).__name__}: {error}", FAILED
