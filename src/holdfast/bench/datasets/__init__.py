"""Datasets, one file each, with a function `cases`. A dataset is named NAME or NAME:SELECTION."""

import importlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from ...base.errors import UserError
from ...base.names import choose, list_modules
from ...metrics.base import Judge
from .base import Case

names = partial(list_modules, __name__)


def load(dataset: str, folder: Path, limit: int | None = None) -> list[Case]:
    """Return the cases of "name:selection". folder: where a dataset that renders its clips may store them.

    Raise UserError for an unknown dataset, for missing files, and if there is no case.
    """
    name, _, selection = dataset.partition(":")
    if not selection and Path(dataset).suffix == ".jsonl":
        name, selection = "folder", dataset
    module = importlib.import_module(f"{__name__}.{choose(name, names(), 'dataset')}")
    if limit is not None and limit < 1:
        raise UserError(f"--limit is {limit}", "use 1 or more")
    cases = module.cases(selection, folder, limit)[:limit]
    if not cases:
        raise UserError(f"the dataset {dataset} has no cases")
    return cases


def make_case_judge(case: Case, times: Sequence[int] = ()) -> Judge | None:
    """Return the judge of a case whose scene is known as a program; None for any other case.

    times: the scene's frames that a result has; empty: all.
    """
    if case.scene is None:
        return None
    from ...shapeworld.scenes import sample_edit
    from ...shapeworld.truth import make_judge

    return make_judge(sample_edit(*case.scene), times)
