"""`python -m holdfast.shapeworld.training FAMILY -o FOLDER`: train one of the embedded checkpoints."""

import argparse
from pathlib import Path

import torch

from . import unet_folders, wan
from .loop import Budget, short_attention

MINUTES = {"wan": 120.0, "sd": 45.0, "t2v": 120.0, "svd": 120.0}  # on two processor cores


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m holdfast.shapeworld.training", description=__doc__
    )
    parser.add_argument("family", choices=list(MINUTES))
    parser.add_argument(
        "-o", "--folder", type=Path, required=True, help="work folder, kept; U-Nets share one"
    )
    parser.add_argument(
        "--minutes", type=float, help="training time, all stages together (default: by family)"
    )
    parser.add_argument("--start", type=Path, help="a checkpoint to go on from; its words rest")
    parser.add_argument("--threads", type=int, help="processor threads (default: all)")
    parser.add_argument(
        "--compile",
        action="store_true",
        help="wan: compile the transformer; two minutes, then steps of less than half the time",
    )
    return parser.parse_args()


def shares_of_time(family: str, further: bool) -> dict[str, float]:
    """What each stage takes of the time."""
    if family == "wan":
        return wan.FURTHER_SHARES if further else wan.SHARES_OF_TIME
    return {family: 1.0} if further else unet_folders.SHARES_OF_TIME[family]


def main() -> None:
    options = arguments()
    if options.compile and options.family != "wan":
        raise SystemExit("--compile is for wan: steps of the U-Nets gain next to nothing by it")
    if options.threads:
        torch.set_num_threads(options.threads)
    seconds = 60 * (options.minutes or MINUTES[options.family])
    shares = shares_of_time(options.family, options.start is not None)
    planned = {stage: Budget(seconds=seconds * share) for stage, share in shares.items()}
    with short_attention():
        if options.family == "wan":
            wan.train_wan(options.folder, planned, options.start, options.compile)
        else:
            unet_folders.train(options.family, options.folder, planned, options.start)


if __name__ == "__main__":
    main()
