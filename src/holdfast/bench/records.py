"""What a benchmark's folder holds as JSON, checked when it is read: a file may be damaged, or another program's."""

import json
from pathlib import Path
from typing import Any

from ..base.errors import UserError

TEXT, MAYBE, NUMBER = (str,), (str, type(None)), (int, float, type(None))
ROW = {"method": TEXT, "backbone": TEXT, "sees_mask": (bool,), "settings": [[TEXT]]}
CASE = {"name": TEXT, "clip": TEXT, "source": TEXT, "target": TEXT, "kind": TEXT, "group": TEXT}
CASE |= {"mask": MAYBE, "local": TEXT, "truth": MAYBE, "scene": (list, type(None))}
BENCH = {"dataset": TEXT, "seed": (int,), "weights": MAYBE, "dtype": TEXT, "commands": [TEXT]}
BENCH |= {"rules": {"mask": TEXT, "not a number": TEXT}, "rows": [ROW], "cases": [CASE]}
FIGURES, REASONS = {...: NUMBER}, {...: TEXT}
# what a cell that was not edited has not is not asked of one
CELL = {"row": TEXT, "case": TEXT, "kind": TEXT, "group": TEXT, "error": MAYBE}
CELL |= {"figures": FIGURES, "left_out": REASONS}
OPEN = {
    "seconds": NUMBER,
    "peak_memory_mb": NUMBER,
    "commit": MAYBE,
    "machine": MAYBE,
    "device": MAYBE,
}
OPEN |= {"holdfast": MAYBE, "evaluations": NUMBER, "guide_evaluations": NUMBER}


def bench(folder: Path) -> dict | None:
    """bench.json of a folder; None where there is none. Raises ValueError."""
    return _read(folder / "bench.json", BENCH)


def cell(folder: Path) -> dict | None:
    """cell.json of a folder; None where there is none. Raises ValueError."""
    return _read(folder / "cell.json", CELL)


def _read(file: Path, shape: dict) -> dict | None:
    if not file.exists():
        return None
    try:
        found = json.loads(file.read_text())
        _check(found, shape, "it")
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file} is damaged: {error}; take it away, and run it again") from error
    return found


def _check(value: Any, shape: Any, where: str) -> None:
    """shape: kinds of a value, a list of one shape, or shapes by key; `...` stands for every key."""
    if isinstance(shape, tuple):
        if not isinstance(value, shape) or (isinstance(value, bool) and bool not in shape):
            raise UserError(f"{where} is not as a benchmark writes it")
        return
    if not isinstance(value, type(shape)):
        raise UserError(f"{where} is not as a benchmark writes it")
    if isinstance(shape, list):
        for item in value:
            _check(item, shape[0], where)
    elif ... in shape:
        for key, item in value.items():
            _check(item, shape[...], f"{where}, {key}")
    else:
        for key in shape:
            if key not in value:
                raise UserError(f"{where} lacks {key}")
            _check(value[key], shape[key], key)
        for key in value.keys() - shape.keys():
            if shape is not CELL:
                raise UserError(f"{where} has a {key}")
            _check(value[key], OPEN.get(key, (object,)), key)
