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
    parser.add_argument(
        "--start", type=Path, help="wan: a checkpoint whose VAE and transformer to go on from"
    )
    parser.add_argument("--threads", type=int, help="processor threads (default: all)")
    return parser.parse_args()


def budgets(family: str, minutes: float) -> dict[str, Budget]:
    shares = wan.SHARES_OF_TIME if family == "wan" else unet_folders.SHARES_OF_TIME[family]
    return {stage: Budget(seconds=60 * minutes * share) for stage, share in shares.items()}


def main() -> None:
    options = arguments()
    if options.start and options.family != "wan":
        raise SystemExit(
            f"--start is for wan; {options.family} goes on from what is in {options.folder}"
        )
    if options.threads:
        torch.set_num_threads(options.threads)
    planned = budgets(options.family, options.minutes or MINUTES[options.family])
    if options.family == "wan":
        wan.train_wan(options.folder, planned, options.start)
    else:
        with short_attention():
            unet_folders.train(options.family, options.folder, planned)


if __name__ == "__main__":
    main()
