"""Print the memory plans of published models on a GPU: what is where, and the expected peak. No weights are needed.

    python benchmarks/memory_plans.py [--size 832x480] [--frames 81] [--models wan2.1-1.3b,wan2.1-14b]

The figures are arithmetic on shapes; `holdfast doctor --rehearse` measures them on the machine at hand.
"""

import argparse
import tempfile
from pathlib import Path

from holdfast.base.errors import UserError
from holdfast.base.memory import format_size, parse_limit
from holdfast.cli.doctor import parse_size
from holdfast.models import random_weights
from holdfast.models.checkpoint import Checkpoint
from holdfast.pipeline import memory, rehearsal

LIMITS = ("6GB", "8GB", "12GB", "16GB", "24GB", "80GB")
RAM = 64 * 10**9


def print_plans(name: str, size: tuple[int, int], frames: int) -> None:
    """Print a line for each limit."""
    model = random_weights.describe_model(name)
    machine = memory.Machine(is_gpu=True, item=2, ram=RAM)
    order = rehearsal.Rehearsal(name, size, frames)
    with tempfile.TemporaryDirectory() as folder:
        random_weights.write_configs(model, Path(folder))
        work = rehearsal.describe_work(model, Checkpoint(Path(folder)), machine, order)
        for limit in LIMITS:
            print(f"| {name} | {limit} | {_describe(work, machine, limit)} |")


def _describe(work: memory.Workload, machine: memory.Machine, limit: str) -> str:
    plan = memory.choose(work, machine, parse_limit(limit).bytes)
    try:
        memory.require_fit(plan, "it")
    except UserError as error:
        return f"refused: {error.remedy.split(',')[0]}"
    own = plan.placements
    parts = [f"{part}: {own.of(part)}" for part in plan.names if own.of(part) != "resident"]
    parts += [f"tiles of {own.tile}"] if own.tile else []
    parts += [f"{own.decoded_frames} frames decoded at once"] if own.decoded_frames else []
    parts += [f"windows of {plan.window} latent frames"] if plan.window else []
    return f"{format_size(plan.peak or 0)} | {', '.join(parts) or 'nothing moves'}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", default="832x480")
    parser.add_argument("--frames", type=int, default=81)
    parser.add_argument("--models", default="wan2.1-1.3b,wan2.1-14b")
    given = parser.parse_args()
    print("| model | limit | expected peak | what changes |\n|---|---|---|---|")
    for name in given.models.split(","):
        print_plans(name, parse_size(given.size), given.frames)


if __name__ == "__main__":
    main()
