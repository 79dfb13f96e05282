"""The rows of a batch: an EditTask a line, as JSON. What is wrong with one is said before any work is begun."""

import json
import os
import traceback
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from .. import methods
from ..base.errors import MissingDependencyError, UserError
from ..base.exit_codes import BAD_INPUT, FAILED, OUT_OF_MEMORY, MISSING, PATH_ERRORS, NO_MEMORY, format_os_error
from ..base.memory import is_out_of_memory
from ..base.notices import collect_notices
from ..base.old_names import rename_fields
from ..models import registry
from ..pipeline import jobs as single
from ..pipeline.output_paths import all_paths, check_output_path, parse_output
from ..pipeline.task import EditTask
from ..pipeline.validation import check_files_exist, input_files
from .record import NAME, Job, Outcome

BOM = b"\xef\xbb\xbf"
EXAMPLE = '{"input": "jeep.mp4", "source_prompt": "a silver jeep", "target_prompt": "a red jeep"}'


def read(file: Path, folder: Path, anywhere: bool = False) -> list[Job]:
    """A job for every line that is neither empty nor begins with `#`. One that is no EditTask has failed already.

    file: its rows name their files from its own folder. folder: where their outputs go. anywhere: outputs may also lie
    outside it. Raises ValueError where no line is a row, OSError where the file cannot be read.
    """
    found = [_job(line, raw, file.parent.absolute(), folder) for line, raw in _lines(file)]
    if not found:
        raise UserError(f"{file} holds no row; a row is a line such as {EXAMPLE}")
    if not anywhere:
        _refuse_outside(found, folder)
    _refuse_shared(found, (folder / NAME, file))
    return found


def _lines(file: Path) -> Iterator[tuple[int, bytes]]:
    for line, raw in enumerate(file.read_bytes().removeprefix(BOM).splitlines(), 1):
        if raw.strip() and not raw.lstrip().startswith(b"#"):
            yield line, raw


def _job(line: int, raw: bytes, base: Path, folder: Path) -> Job:
    job = Job(line)
    try:
        job.task = EditTask.from_dict(_placed(_row(raw), base, folder))
    except ValueError as error:
        job.fail(error, BAD_INPUT)
    return job


def _row(raw: bytes) -> dict[str, Any]:
    try:
        row = json.loads(raw.decode())
    except json.JSONDecodeError as error:
        raise UserError(f"the row is no JSON: {error.msg} at column {error.colno}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"the row is no JSON: {error}") from error
    if not isinstance(row, dict):
        raise UserError(f"a row is one object, such as {EXAMPLE}")
    return row


def _placed(row: dict[str, Any], base: Path, folder: Path) -> dict[str, Any]:
    """The same with whole paths. What is no text is left for EditTask to refuse."""
    row, name = rename_fields(row), row.get("id")
    row.pop("id", None)
    for key in ("input", "first_frame", "mask", "weights"):
        if isinstance(row.get(key), str):
            row[key] = _whole(row[key], base, key)
    if isinstance(row.get("image_model"), str):
        row["image_model"] = _pair(row["image_model"], base, "weights")
    if isinstance(row.get("keyframes"), list):
        pairs = row["keyframes"]
        row["keyframes"] = [_pair(p, base, "input") if isinstance(p, str) else p for p in pairs]
    if isinstance(row.get("output", ""), str) and isinstance(row.get("input"), str):
        row["output"] = str(Path(folder.absolute(), parse_output(row.get("output") or _named(name, row))))
    return row


def _whole(text: str, base: Path, key: str) -> str:
    """A path from the rows' folder; a mask may be words or a box, and weights a hub id."""
    place = base / text
    spoken = key == "mask" and (text == "auto" or "," in text)
    if not text.strip() or ((spoken or key == "weights") and not place.exists()):
        return text
    return str(place)


def _pair(text: str, base: Path, key: str) -> str:
    """Likewise of the second half of NAME=PATH."""
    name, mark, path = text.partition("=")
    return name + mark + (_whole(path, base, key) if path else "")


def _named(name: Any, row: dict[str, Any]) -> str:
    """The file of a row without an output: by its id, else by its clip."""
    if name is None:
        return f"{Path(row['input']).stem}.mp4"
    plain = isinstance(name, (str, int)) and not isinstance(name, bool) and str(name).strip()
    if not plain or Path(str(name)).name != str(name) or str(name).startswith("."):
        raise UserError(f"id is a plain name for a file, not {name!r}")
    return f"{name}.mp4"


def _refuse_outside(found: list[Job], folder: Path) -> None:
    """Fail rows whose output lies outside the batch's folder: a file of rows may come from another person."""
    root = Path(os.path.realpath(folder))
    for job in found:
        if job.task and not Path(os.path.realpath(job.output)).is_relative_to(root):
            cause = f"output {job.output} lies outside {folder}"
            job.fail(
                UserError(cause, "name it from there, or allow it by --outputs-anywhere"), BAD_INPUT
            )


def _refuse_shared(found: list[Job], kept: Iterable[Path]) -> None:
    """Fail rows that would replace each other's files, or the batch's own: results would go by the order."""
    makers: dict[str, list[Job]] = defaultdict(list)
    ready = [job for job in found if job.task and job.status != "failed"]
    for job in ready:
        makers[os.path.realpath(job.output)].append(job)
    kept = {os.path.realpath(path) for path in kept}
    for job in ready:
        others = [other.line for other in makers[os.path.realpath(job.output)] if other is not job]
        read = (other for name in input_files(job.task) for other in makers[os.path.realpath(name)])
        first = [other.line for other in read if other is not job]
        if others:
            lines = ", ".join(map(str, others))
            job.fail(f"line {lines} writes {job.output} too: give each row an id", BAD_INPUT)
        elif first:
            job.fail(f"it is made from what line {first[0]} makes: run it afterwards", BAD_INPUT)
        elif kept & {os.path.realpath(path) for path in all_paths(Path(job.output))}:
            job.fail(f"{job.output} would replace the batch's own files", BAD_INPUT)


def check(job: Job, elsewhere: bool) -> None:
    """Skip a job that is done, and fail one that cannot be, as far as that costs next to nothing: no clip is read.

    elsewhere: other machines do the work; weights that are not on this one may be on them.
    """
    try:
        if single.finished_manifest(job.task):
            job.status = "skipped"
            return
        check_files_exist(job.task)
        check_output_path(job.task.output, input_files(job.task))
        methods.load(job.task.method)
        registry.describe_backbone(job.task.backbone, job.task.weights)
    except Exception as error:  # one row's bug is not the others'
        if not (elsewhere and isinstance(error, MissingDependencyError)):
            job.end(failure(error))


def probe(task: EditTask, elsewhere: bool) -> Outcome | None:
    """Read a task's files, and find all that is wrong with it before weights are loaded. None where nothing is."""
    from ..pipeline import run

    with collect_notices():  # the edit says it again, in its manifest
        try:
            run.open_session(task, None)
        except Exception as error:  # one row's bug is not the others'
            if not (elsewhere and isinstance(error, MissingDependencyError)):
                return failure(error)
    return None


def failure(error: BaseException) -> Outcome:
    """An error as what came of a job: a sentence and an exit code as the command line has them; a bug with its
    traceback.
    """
    sentence, code = why(error)
    is_bug = not (isinstance(error, (MissingDependencyError, UserError, OSError)) or is_out_of_memory(error))
    trace = "".join(traceback.format_exception(error)) if is_bug else ""
    return Outcome("failed", sentence=sentence, code=code, traceback=trace)


def why(error: BaseException) -> tuple[str, int]:
    """What to say of an error, and its exit code, as the command line has them."""
    if isinstance(error, MissingDependencyError):
        return str(error), MISSING
    if isinstance(error, UserError):
        return str(error), BAD_INPUT
    if is_out_of_memory(error):
        return OUT_OF_MEMORY, NO_MEMORY
    if isinstance(error, OSError):
        return format_os_error(error), BAD_INPUT if error.errno in PATH_ERRORS else FAILED
    return f"{type(error).__name__}: {error}", FAILED
