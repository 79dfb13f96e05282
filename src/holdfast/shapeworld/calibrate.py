"""Measure what an embedded model can be told and shown: `python -m holdfast.shapeworld.calibrate --backbone NAME`.

Writes `calibration.json` into the model's folder: the words of its captions, and the PSNR of the VAE that 99 % of its
training scenes reach. What benchmarks/agreement.py wrote there stays, if the weights are still the same.
"""

import argparse
import json

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
    """Return the PSNR in dB that 99 % of so many training scenes reach."""
    figures = []
    for seed in range(FIRST_TRAINING_SEED, FIRST_TRAINING_SEED + scenes):
        frames = render([sample_scene(seed, "train")], calibration.DECODED_FRAMES)[0]
        figures.append(calibration.reconstruction_psnr(backbone, frames, backbone.encode(frames)))
    share = 1 - calibration.VAE_SHARE
    return torch.tensor(figures, dtype=torch.float64).quantile(share).item()


def update_calibration(folder: Path, measured: dict) -> dict:
    """Add what was measured of the weights in a folder to its calibration file."""
    path, weights = folder / calibration.FILE, calibration.digest_weights(folder)
    known = from_json(path.read_text()) if path.exists() else {}
    kept = known if known.get("weights") == weights else {}
    made = {"weights": weights} | kept | measured
    write_json(calibration.calibration_path(checkpoint), made)
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backbone", required=True)
    parser.add_argument("--scenes", type=int, default=1000)
    options = parser.parse_args()
    torch.set_num_threads(1)
    backbone = registry.load_backbone(options.backbone)
    folder = registry.find_weights(options.backbone)
    bound = vae_psnr_bound(backbone, options.scenes)
    measured: dict = {"vae": {"psnr": round(bound, 2), "scenes": options.scenes}}
    if "text" in backbone.capabilities:
        measured["vocabulary"] = vocabulary()
    print(json.dumps(update_calibration(folder, measured)))


if __name__ == "__main__":
    main()
