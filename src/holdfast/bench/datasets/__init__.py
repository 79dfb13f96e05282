"""Datasets: one file each, holding `cases`. A dataset is named NAME or NAME:WHAT."""

import importlib
from pathlib import Path

from .base import Case


def names() -> list[str]:
    from ...registry import modules

    return modules("holdfast.bench.datasets")


def load(dataset: str, folder: Path, limit: int | None = None) -> list[Case]:
    """The cases that "name:what" means. folder: where a dataset that makes its clips may keep them.

    Raises ValueError for an unknown dataset, for files that are not there, and where there is no case.
    """
    from ...registry import choose

    name, _, what = dataset.partition(":")
    if not what and Path(dataset).suffix == ".jsonl":
        name, what = "folder", dataset
    module = importlib.import_module(f"holdfast.bench.datasets.{choose(name, names(), 'dataset')}")
    if limit is not None and limit < 1:
        raise ValueError(f"--limit is 1 or more, not {limit}")
    cases = module.cases(what, folder, limit)[:limit]
    if not cases:
        raise ValueError(f"the dataset {dataset} has no cases")
    return cases
