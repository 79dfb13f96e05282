"""Datasets: one file each, holding `cases`. A dataset is named NAME or NAME:WHAT."""

import importlib
from functools import partial
from pathlib import Path

from ...base.errors import UserError
from ...base.names import choose, list_modules
from ...metrics.base import Judge
from .base import Case

names = partial(list_modules, __name__)


def load(dataset: str, folder: Path, limit: int | None = None) -> list[Case]:
    """The cases that "name:what" means. folder: where a dataset that makes its clips may keep them.

    Raises ValueError for an unknown dataset, for files that are not there, and where there is no case.
    """
    name, _, what = dataset.partition(":")
    if not what and Path(dataset).suffix == ".jsonl":
        name, what = "folder", dataset
    module = importlib.import_module(f"{__name__}.{choose(name, names(), 'dataset')}")
    if limit is not None and limit < 1:
        raise UserError(f"--limit is 1 or more, not {limit}")
    cases = module.cases(what, folder, limit)[:limit]
    if not cases:
        raise UserError(f"the dataset {dataset} has no cases")
    return cases


def judge(case: Case) -> Judge | None:
    """Who knows the truth of a case as a program; None where nobody does."""
    if case.scene is None:
        return None
    from ...shapeworld.scenes import sample_edit
    from ...shapeworld.truth import make_judge

    return make_judge(sample_edit(*case.scene))
