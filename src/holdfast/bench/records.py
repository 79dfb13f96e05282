"""The JSON files of a benchmark's folder, validated when they are read: a file may be damaged, or another program's."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..base.errors import UserError
from ..base.old_names import rename_case
from .datasets.base import FILES, FRAME_FIELDS, Case, file_name, is_box
from .plan import ORIGINS, Origin, Variant
from .rough_masks import parse_rough_mask

# A shape is a tuple of types, a list of one shape, or a dict of shapes by key; the key `...` stands for every key.
TEXT, OPTIONAL_TEXT, NUMBER = (str,), (str, type(None)), (int, float, type(None))
VARIANT = {"method": TEXT, "backbone": TEXT, "sees_mask": (bool,), "settings": [[TEXT]]}
# Only results made elsewhere have an origin, and few variants see a rough mask.
VARIANT_OPTIONAL: dict[str, Any] = {"origin": OPTIONAL_TEXT, "rough_mask": TEXT}
CASE: dict[Any, Any] = {
    "name": TEXT,
    "clip": TEXT,
    "source_prompt": TEXT,
    "target_prompt": TEXT,
    "kind": TEXT,
    "group": TEXT,
    "mask": OPTIONAL_TEXT,
    "object_prompt": TEXT,
    "truth": OPTIONAL_TEXT,
    "scene": (list, type(None)),
}
CASE_OPTIONAL: dict[str, Any] = {"first_frame": OPTIONAL_TEXT, "keyframes": [TEXT]}
BENCHMARK: dict[Any, Any] = {
    "dataset": TEXT,
    "seed": (int,),
    "weights": OPTIONAL_TEXT,
    "dtype": TEXT,
    "commands": [TEXT],
    "rules": {"mask": TEXT, "not a number": TEXT},
    "rows": [VARIANT],
    "cases": [CASE],
}
CELL: dict[Any, Any] = {
    "row": TEXT,
    "case": TEXT,
    "kind": TEXT,
    "group": TEXT,
    "error": OPTIONAL_TEXT,
    "figures": {...: NUMBER},
    "left_out": {...: TEXT},
}
# A cell whose edit failed lacks these.
CELL_OPTIONAL: dict[str, Any] = {
    "seconds": NUMBER,
    "peak_memory_mb": NUMBER,
    "commit": OPTIONAL_TEXT,
    "machine": OPTIONAL_TEXT,
    "device": OPTIONAL_TEXT,
    "holdfast": OPTIONAL_TEXT,
    "evaluations": NUMBER,
    "guide_evaluations": NUMBER,
}


def read_benchmark(folder: Path) -> dict[str, Any] | None:
    """Read bench.json of a folder. Return None if there is none; raise UserError if it is damaged."""
    return _read(folder / "bench.json", BENCHMARK)


def read_cell(folder: Path) -> dict[str, Any] | None:
    """Read cell.json of a folder. Return None if there is none; raise UserError if it is damaged."""
    return _read(folder / "cell.json", CELL)


def _read(file: Path, shape: dict) -> dict[str, Any] | None:
    if not file.exists():
        return None
    try:
        record = _rename_cases(json.loads(file.read_text()))
        _check(record, shape, "the record")
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file} is damaged ({error})", "delete it and run again") from error
    return record


def _rename_cases(record: Any) -> Any:
    """Return a record whose cases have their present keys, where release 0.1 wrote it."""
    cases = record.get("cases") if isinstance(record, dict) else None
    if not isinstance(cases, list):
        return record
    renamed = [rename_case(c, notify=False) if isinstance(c, dict) else c for c in cases]
    return record | {"cases": renamed}


def _check(value: Any, shape: Any, where: str) -> None:
    """Raise UserError if a value does not have a shape."""
    if isinstance(shape, tuple):
        if not isinstance(value, shape) or (isinstance(value, bool) and bool not in shape):
            raise UserError(f"{where} is not a valid part of a benchmark's record")
        return
    if not isinstance(value, type(shape)):
        raise UserError(f"{where} is not a valid part of a benchmark's record")
    if isinstance(shape, list):
        for item in value:
            _check(item, shape[0], where)
    elif ... in shape:
        for key, item in value.items():
            _check(item, shape[...], f"{where}, {key}")
    else:
        _check_keys(value, shape, where)


def _check_keys(value: dict, shape: dict, where: str) -> None:
    for key in shape:
        if key not in value:
            raise UserError(f"{where} lacks {key}")
        _check(value[key], shape[key], key)
    pairs = ((VARIANT, VARIANT_OPTIONAL), (CASE, CASE_OPTIONAL), (CELL, CELL_OPTIONAL))
    optional = next((extra for known, extra in pairs if shape is known), {})
    for key in value.keys() - shape.keys():
        if shape is not CELL and key not in optional:
            raise UserError(f"{where} has an unknown key {key}")
        _check(value[key], optional.get(key, (object,)), key)


def cell_folder(folder: Path, variant: Variant, case: Case) -> Path:
    """Return the folder of a cell below a benchmark's folder."""
    return folder / "cells" / file_name(variant.key) / case.name


def case_to_json(case: Case, folder: Path) -> dict[str, Any]:
    """Return a case as bench.json stores it: files below the folder by their relative path, others by the full path."""
    data = json.loads(json.dumps(dataclasses.asdict(case)))
    root = folder.resolve()

    def store(text: str) -> str:
        path = Path(text).resolve()
        return str(path.relative_to(root) if path.is_relative_to(root) else path)

    for key in _file_keys(data):
        if data[key]:
            data[key] = store(data[key])
    data["keyframes"] = [_map_keyframe(text, store) for text in data["keyframes"]]
    for (
        key
    ) in FRAME_FIELDS:  # so that cases without edited frames are stored as earlier versions did
        if not data[key]:
            del data[key]
    return data


def _map_keyframe(text: str, change: Callable[[str], str]) -> str:
    """Return N=IMAGE with another path."""
    index, _, path = text.partition("=")
    return f"{index}={change(path)}"


def _file_keys(data: dict[str, Any]) -> list[str]:
    """Return the keys of a case that hold files: a mask may be a box."""
    has_box = data["mask"] and is_box(data["mask"])
    return [key for key in FILES if key in data and not (key == "mask" and has_box)]


def case_from_json(data: dict[str, Any], folder: Path) -> Case:
    """Return a case that bench.json stores; see `case_to_json`."""
    fields: dict[str, Any] = dict(data)
    fields |= {key: str(folder / data[key]) for key in _file_keys(data) if data[key]}
    fields["scene"] = tuple(data["scene"]) if data["scene"] else None
    keyframes = data.get("keyframes", [])
    fields["keyframes"] = tuple(
        _map_keyframe(text, lambda path: str(folder / path)) for text in keyframes
    )
    return Case(**fields)


def variant_from_json(data: dict[str, Any]) -> Variant:
    settings = tuple((key, value) for key, value in data["settings"])
    origin = choose_origin(data["origin"]) if data.get("origin") else None
    rough = parse_rough_mask(data["rough_mask"]) if data.get("rough_mask") else ""
    return Variant(data["method"], data["backbone"], data["sees_mask"], settings, origin, rough)


def choose_origin(text: str) -> Origin:
    """Return the origin of a name. Raise UserError for another text."""
    for origin in ORIGINS:
        if text == origin:
            return origin
    raise UserError(f"{text!r} is not an origin of results", f"use {' or '.join(ORIGINS)}")


def variant_to_json(variant: Variant) -> dict[str, Any]:
    """Return a variant as bench.json stores it: an origin and a rough mask only where it has one."""
    data = json.loads(json.dumps(dataclasses.asdict(variant)))
    return {key: value for key, value in data.items() if value or key not in VARIANT_OPTIONAL}
