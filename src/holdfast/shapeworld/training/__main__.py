"""`python -m holdfast.shapeworld.training FAMILY -o FOLDER`: train one of the embedded checkpoints."""

import argparse
from pathlib import Path

import torch

from . import unet_folders, wan
from .loop import Budget, use_plain_attention
from .saving import prepare_folder

MINUTES = {"wan": 120.0, "sd": 45.0, "t2v": 120.0, "svd": 120.0}  # on two processor cores


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m holdfast.shapeworld.training", description=__doc__
    )
    parser.add_argument("family", choices=list(MINUTES))
    parser.add_argument(
        "-o",
        "--folder",
        type=Path,
        required=True,
        help="work folder, kept; U-Nets share one, what goes on from a checkpoint has its own",
    )
    parser.add_argument(
        "--minutes",
        type=float,
        help="training time, all stages together (default: by family); 0: write what there is, to evaluate it",
    )
    parser.add_argument("--start", type=Path, help="a checkpoint to go on from; its words rest")
    parser.add_argument("--threads", type=int, help="processor threads (default: all)")
    parser.add_argument(
        "--compile",
        action="store_true",
        help="wan: compile the transformer; two minutes, then steps of less than half the time",
    )
    options = parser.parse_args()
    if options.compile and options.family != "wan":
        parser.error("--compile is for wan: steps of the U-Nets gain next to nothing by it")
    pipelines = {"wan": wan.PIPELINE, **unet_folders.PIPELINES}
    try:
        prepare_folder(options.folder, options.start, pipelines[options.family])
    except ValueError as error:
        parser.error(str(error))
    return options


def shares_of_time(family: str, on: bool) -> dict[str, float]:
    """What each stage takes of the time; on: where a written checkpoint is trained on."""
    if family == "wan":
        return wan.SHARES_ON if on else wan.SHARES_OF_TIME
    return {family: 1.0} if on else unet_folders.SHARES_OF_TIME[family]


def main() -> None:
    options = arguments()
    if options.threads:
        torch.set_num_threads(options.threads)
    seconds = 60 * (MINUTES[options.family] if options.minutes is None else options.minutes)
    shares = shares_of_time(options.family, options.start is not None)
    planned = {stage: Budget(seconds=seconds * share) for stage, share in shares.items()}
    with use_plain_attention():
        if options.family == "wan":
            wan.train_wan(options.folder, planned, options.start, options.compile)
        else:
            unet_folders.train_family(options.family, options.folder, planned, options.start)


if __name__ == "__main__":
    main()
