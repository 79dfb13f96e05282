"""Measure which words and pictures an embedded model knows: `python -m holdfast.shapeworld.calibrate --backbone NAME`.

Write `calibration.json` to the model's folder: the words of its captions, and the PSNR of the VAE that 99 % of its
training scenes reach. What benchmarks/agreement.py wrote there is kept if the weights are still the same.
"""

import argparse
import json
from typing import Any

import torch

from ..base.files import write_json
from ..models import calibration, registry
from ..models.base import Backbone
from ..models.checkpoint import Checkpoint
from .rendering import render
from .scenes import FIRST_TRAINING_SEED, sample_scene
from .training.text import vocabulary


@torch.no_grad()
def vae_psnr_bound(backbone: Backbone, scenes: int) -> float:
    """Return the PSNR in dB that 99 % of this number of training scenes reach."""
    psnrs = []
    for seed in range(FIRST_TRAINING_SEED, FIRST_TRAINING_SEED + scenes):
        frames = render([sample_scene(seed, "train")], calibration.DECODED_FRAMES)[0]
        psnrs.append(calibration.reconstruction_psnr(backbone, frames, backbone.encode(frames)))
    share = 1 - calibration.VAE_SHARE
    return torch.tensor(psnrs, dtype=torch.float64).quantile(share).item()


def update_calibration(checkpoint: Checkpoint, measured: dict[str, Any]) -> dict[str, Any]:
    """Add measurements of a checkpoint to its calibration file, and return the file's new content."""
    weights = calibration.digest_weights(checkpoint)
    previous = calibration.read_values(checkpoint)
    if previous.get("weights") != weights:
        previous = {}
    content = {"weights": weights} | previous | measured
    write_json(calibration.calibration_path(checkpoint), content)
    return content


def main() -> None:
    """Measure the model that the command line names, and print its calibration."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backbone", required=True)
    parser.add_argument("--scenes", type=int, default=1000)
    options = parser.parse_args()
    torch.set_num_threads(1)
    backbone = registry.load_backbone(options.backbone)
    bound = vae_psnr_bound(backbone, options.scenes)
    measured: dict[str, Any] = {"vae": {"psnr": round(bound, 2), "scenes": options.scenes}}
    if "text" in backbone.capabilities:
        measured["vocabulary"] = vocabulary()
    checkpoint = registry.find_weights(options.backbone)
    print(json.dumps(update_calibration(checkpoint, measured)))


if __name__ == "__main__":
    main()
