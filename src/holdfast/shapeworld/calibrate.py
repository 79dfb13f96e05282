"""Measure which words and pictures an embedded model knows: `python -m holdfast.shapeworld.calibrate --backbone NAME`.

Write `calibration.json` to the model's folder: the words of its captions, and the PSNR of the VAE that 99 % of its
training scenes reach. What benchmarks/agreement.py wrote there is kept if the weights are still the same.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch

from ..base.files import from_json, write_json
from ..models import calibration, registry
from ..models.base import Backbone
from .rendering import render
from .scenes import FIRST_TRAINING_SEED, sample_scene
from .training.text import vocabulary


@torch.no_grad()
def vae_psnr_bound(backbone: Backbone, scenes: int) -> float:
    """Return the PSNR in dB that 99 % of this number of training scenes reach."""
    psnrs = []
    for seed in range(FIRST_TRAINING_SEED, FIRST_TRAINING_SEED + scenes):
        frames = render([sample_scene(seed, "train")], calibration.LOOK)[0]
        psnrs.append(calibration.reconstruction(backbone, frames, backbone.encode(frames)))
    share = 1 - calibration.VAE_SHARE
    return torch.tensor(psnrs, dtype=torch.float64).quantile(share).item()


def update_calibration(folder: Path, measured: dict[str, Any]) -> dict[str, Any]:
    """Add measurements of the weights in a folder to its calibration file, and return its new content."""
    path, weights = folder / calibration.FILE, calibration.digest(folder)
    previous = from_json(path.read_text()) if path.exists() else {}
    if previous.get("weights") != weights:
        previous = {}
    content = {"weights": weights} | previous | measured
    write_json(path, content)
    return content


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backbone", required=True)
    parser.add_argument("--scenes", type=int, default=1000)
    options = parser.parse_args()
    torch.set_num_threads(1)
    backbone = registry.load_backbone(options.backbone)
    checkpoint = registry.find_weights(options.backbone)
    bound = vae_psnr_bound(backbone, options.scenes)
    measured: dict[str, Any] = {"vae": {"psnr": round(bound, 2), "scenes": options.scenes}}
    if "text" in backbone.carries:
        measured["vocabulary"] = vocabulary()
    print(json.dumps(update_calibration(checkpoint, measured)))


if __name__ == "__main__":
    main()
