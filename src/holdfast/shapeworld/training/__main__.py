"""Train one of the embedded checkpoints: `python -m holdfast.shapeworld.training FAMILY -o FOLDER`."""

import argparse
from pathlib import Path

import torch

from ...models.checkpoint import EMBEDDED
from . import control, unet_folders, wan
from .loop import Budget, use_plain_attention
from .saving import prepare_folder

MINUTES = {
    "wan": 120.0,
    "sd": 45.0,
    "t2v": 120.0,
    "svd": 120.0,
    "control": 40.0,
}  # on two CPU cores


def parse_arguments() -> argparse.Namespace:
    """Return the checked command line, and make the work folder."""
    parser = argparse.ArgumentParser(
        prog="python -m holdfast.shapeworld.training", description=__doc__
    )
    parser.add_argument("family", choices=list(MINUTES))
    parser.add_argument(
        "-o",
        "--folder",
        type=Path,
        required=True,
        help="work folder, which is kept; the U-Nets may share one, a training from a checkpoint has its own",
    )
    parser.add_argument(
        "--minutes",
        type=float,
        help="training time of all stages together (default: by family); 0 writes the current weights, for evaluation",
    )
    parser.add_argument(
        "--start", type=Path, help="a checkpoint to continue from, with its text encoder frozen"
    )
    parser.add_argument("--threads", type=int, help="CPU threads (default: all)")
    parser.add_argument(
        "--compile",
        action="store_true",
        help="wan: compile the transformer; this takes two minutes and more than halves the time per step",
    )
    options = parser.parse_args()
    if options.compile and options.family != "wan":
        parser.error("--compile is for wan: it hardly makes a step of the U-Nets faster")
    pipelines = {"wan": wan.PIPELINE, **unet_folders.PIPELINES}
    pipelines["control"] = pipelines["sd"]
    if options.family == "control":
        options.start = options.start or EMBEDDED / "shapeworld-sd"
    try:
        prepare_folder(options.folder, options.start, pipelines[options.family])
    except ValueError as error:
        parser.error(str(error))
    return options


def time_shares(family: str, from_checkpoint: bool) -> dict[str, float]:
    """Return the share of the time that each stage takes. from_checkpoint: whether --start names one."""
    if family == "wan":
        return wan.CONTINUED_SHARES if from_checkpoint else wan.SHARES_OF_TIME
    if family == "control":
        return {family: 1.0}
    return {family: 1.0} if from_checkpoint else unet_folders.SHARES_OF_TIME[family]


def main() -> None:
    """Train the family that the command line names."""
    options = parse_arguments()
    if options.threads:
        torch.set_num_threads(options.threads)
    seconds = 60 * (MINUTES[options.family] if options.minutes is None else options.minutes)
    shares = time_shares(options.family, options.start is not None)
    budgets = {stage: Budget(seconds=seconds * share) for stage, share in shares.items()}
    with use_plain_attention():
        if options.family == "wan":
            wan.train_wan(options.folder, budgets, options.start, options.compile)
        elif options.family == "control":
            control.train_control(options.folder, budgets["control"], options.start)
        else:
            unet_folders.train_family(options.family, options.folder, budgets, options.start)


if __name__ == "__main__":
    main()
