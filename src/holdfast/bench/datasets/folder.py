"""What a user has: `folder:FILE.jsonl` (or just FILE.jsonl), one edit a line, paths from the file's own folder.

{"clip": "jeep.mp4", "source": "a silver jeep", "target": "a red jeep", "mask": "jeep.png", "local": "a red jeep"}
clip, source and target must be there; name, kind, group, mask (a file or a box x,y,w,h), local and truth may.
"""

import dataclasses
from pathlib import Path

from ...base.errors import UserError
from ...base.files import parse_json
from .base import FILES, Case, existing, file_name, is_box

MUST = ("clip", "source", "target")


def cases(what: str, folder: Path, limit: int | None) -> list[Case]:
    path = Path(what)
    if not path.is_file():
        raise UserError(f"there is no file {what}; give folder:FILE.jsonl")
    found: dict[int, Case] = {}
    for line, text in enumerate(path.read_text().splitlines(), 1):
        if text.strip():
            found[line] = _case(path, line, text)
    seen: dict[str, int] = {}
    for line, case in found.items():
        if case.name in seen:
            raise UserError(
                f"{path}, line {line}: the name {case.name} is also that of line {seen[case.name]}"
            )
        seen[case.name] = line
    return list(found.values())


def _case(path: Path, line: int, text: str) -> Case:
    where = f"{path}, line {line}"
    record = _record(text, where)
    for key in FILES:
        if record.get(key) and not (key == "mask" and is_box(record[key])):
            record[key] = existing(path.parent / record[key], where)
    name = record.pop("name", "") or f"{line:04d}-{Path(record['clip']).stem}"
    return Case(file_name(name), **record)


def _record(text: str, where: str) -> dict[str, str]:
    """A line as keys and texts. Raises ValueError for what is no case."""
    try:
        record = parse_json(text)
    except ValueError as error:
        raise UserError(f"{where} is not JSON: {error}") from error
    known = [f.name for f in dataclasses.fields(Case) if f.name != "scene"]
    if not isinstance(record, dict) or any(not isinstance(v, str) for v in record.values()):
        raise UserError(f"{where} must be an object of texts")
    unknown = set(record) - set(known)
    if unknown:
        raise UserError(
            f"{where}: there is no key {', '.join(sorted(unknown))}; there are: {', '.join(known)}"
        )
    absent = [k for k in MUST if not record.get(k)]
    if absent:
        raise UserError(f"{where}: {', '.join(absent)} is missing")
    return record
