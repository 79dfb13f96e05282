"""A user's own edits: `folder:FILE.jsonl` (or FILE.jsonl), one edit a line, paths relative to the file's folder.

{"clip": "jeep.mp4", "source_prompt": "a silver jeep", "target_prompt": "a red jeep", "object_prompt": "a red jeep"}
clip, source_prompt and target_prompt are required; name, kind, group, mask (a file or a box x,y,w,h), object_prompt (of
the edited object alone), truth, first_frame (the edited one, an image) and keyframes (a list of N=IMAGE) are optional.
"""

import dataclasses
from pathlib import Path
from typing import Any

from ...base.errors import UserError
from ...base.files import parse_json
from ...base.names import suggest
from ...base.old_names import rename_case
from .base import FILES, Case, check_edited_frames, file_name, is_box, require_path

REQUIRED = ("clip", "source_prompt", "target_prompt")


def cases(selection: str, folder: Path, limit: int | None) -> list[Case]:
    path = Path(selection)
    if not path.is_file():
        raise UserError(f"there is no file {selection}", "give folder:FILE.jsonl")
    found: dict[int, Case] = {}
    for line, raw in enumerate(path.read_bytes().splitlines(), 1):
        if raw.strip():
            found[line] = _make_case(path, line, raw)
    lines: dict[str, int] = {}
    for line, case in found.items():
        if case.name in lines:
            raise UserError(
                f"{path}, line {line}: the name {case.name} is also that of line {lines[case.name]}"
            )
        lines[case.name] = line
    return list(found.values())


def _make_case(path: Path, line: int, raw: bytes) -> Case:
    where = f"{path}, line {line}"
    record = _parse_record(raw, where)
    for key in FILES:
        if record.get(key) and not (key == "mask" and is_box(record[key])):
            record[key] = require_path(path.parent / record[key], where)
    name = record.pop("name", "") or f"{line:04d}-{Path(record['clip']).stem}"
    keyframes = tuple(_resolve_keyframe(path, text) for text in record.pop("keyframes", ()))
    case = Case(file_name(name), keyframes=keyframes, **record)
    check_edited_frames(case, where)
    return case


def _resolve_keyframe(path: Path, text: str) -> str:
    """Return N=IMAGE with the image's path relative to the file's folder. `check_edited_frames` refuses other texts."""
    index, equals, image = text.partition("=")
    return f"{index}{equals}{path.parent / image}" if image else text


def _parse_record(raw: bytes, where: str) -> dict[str, Any]:
    """Return a line as texts by key, and keyframes as a list of texts. Raise UserError if it is not a case."""
    try:
        record = parse_json(raw.decode())  # bytes that are not UTF-8 raise ValueError too
    except ValueError as error:
        raise UserError(f"{where} is not JSON: {error}") from error
    known = [f.name for f in dataclasses.fields(Case) if f.name != "scene"]
    if not isinstance(record, dict):
        raise UserError(f"{where} is not a JSON object of texts")
    texts = [value for key, value in record.items() if key != "keyframes"]
    keyframes = record.get("keyframes", [])
    if not isinstance(keyframes, list):
        raise UserError(f"{where}: keyframes is not a list", 'write ["24=edited.png"]')
    if any(not isinstance(text, str) for text in [*texts, *keyframes]):
        raise UserError(f"{where} is not a JSON object of texts")
    record = rename_case(record)
    unknown = set(record) - set(known)
    if unknown:
        raise UserError(
            f"{where}: there is no key {', '.join(sorted(unknown))}",
            suggest(min(unknown), known),
        )
    absent = [k for k in REQUIRED if not record.get(k)]
    if absent:
        raise UserError(f"{where}: {', '.join(absent)} is missing")
    return record
