"""What can be listed: rows of names with what each is and needs, made from the modules and cards themselves."""

from collections.abc import Callable

from .. import methods
from ..base.schema import described

COMMAND = "download"  # a row's command that gets something, which no table may break


def lists() -> dict[str, Callable[[], dict[str, dict]]]:
    """What can be listed, and how its rows are made."""

    found: dict[str, Callable[[], dict[str, dict]]] = {
        "methods": _of_methods,
        "backbones": _of_backbones,
        "metrics": _of_metrics,
        "datasets": _of_datasets,
        "pairs": _of_pairs,
    }
    for name in methods.names():
        found[name] = lambda name=name: described(methods.load(name).Config)
    return found


def _first_line(module) -> str:
    return module.__doc__.split("\n")[0]


def _of_methods() -> dict:

    rows = {}
    for name in methods.names():
        module = methods.load(name)
        rows[name] = {"needs": sorted(module.NEEDS), "about": _first_line(module)}
    return rows


def _of_backbones() -> dict:
    from ..models import registry
    from ..models.downloads import plan_download

    rows = {}
    for name, card in registry.specs().items():
        get = plan_download(card) if card.download_gb else None
        rows[name] = {
            "weights": card.weights,
            "gigabytes": round(get.bytes / 1e9, 1) if get else 0,
            "frames": card.frames if card.frames < 10**6 else "any",
            "licence": card.licence,
            COMMAND: get.command if get else "",
        }
    return rows


def _of_pairs() -> dict:
    """Which method runs on which backbone, by what one needs and the other carries."""
    from ..models import registry

    rows = {}
    for name in methods.names():
        needs = methods.load(name).NEEDS
        rows[name] = {}
        for backbone, spec in registry.specs().items():
            missing = needs - spec.capabilities
            rows[name][backbone] = f"no {', '.join(sorted(missing))}" if missing else "yes"
    return rows


def _of_metrics() -> dict:
    from .. import metrics

    rows = {}
    for name in metrics.names():
        module = metrics.module(name)
        needs, figures = sorted(module.NEEDS), list(module.BETTER)
        rows[name] = {"figures": figures, "needs": needs, "about": _first_line(module)}
    return rows


def _of_datasets() -> dict:
    import importlib

    from ..bench import datasets

    rows = {}
    for name in datasets.names():
        module = importlib.import_module(f"holdfast.bench.datasets.{name}")
        rows[name] = {"about": _first_line(module)}
    return rows
