"""Measure what an embedded model can be told and shown: `python -m holdfast.shapeworld.calibrate --backbone NAME`.

Writes `calibration.json` into the model's folder: the words of its captions, and the PSNR of the VAE that 99 % of its
training scenes reach. What benchmarks/agreement.py wrote there stays, if the weights are still the same.
"""

import argparse
import json
from pathlib import Path

import torch

from ..base.files import from_json, write_json
from ..models import calibration, registry
from ..models.base import Backbone
from .render import render
from .scenes import HELD_OUT, sample
from .training.text import words


@torch.no_grad()
def vae_bound(backbone: Backbone, scenes: int) -> float:
    """Return the PSNR in dB that 99 % of so many training scenes reach."""
    figures = []
    for seed in range(HELD_OUT, HELD_OUT + scenes):
        frames = render([sample(seed, "train")], calibration.LOOK)[0]
        figures.append(calibration.reconstruction(backbone, frames, backbone.encode(frames)))
    share = 1 - calibration.VAE_SHARE
    return torch.tensor(figures, dtype=torch.float64).quantile(share).item()


def update(folder: Path, measured: dict) -> dict:
    """Add what was measured of the weights in a folder to its calibration file."""
    path, weights = folder / calibration.FILE, calibration.digest(folder)
    known = from_json(path.read_text()) if path.exists() else {}
    kept = known if known.get("weights") == weights else {}
    made = {"weights": weights} | kept | measured
    write_json(path, made)
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backbone", required=True)
    parser.add_argument("--scenes", type=int, default=1000)
    options = parser.parse_args()
    torch.set_num_threads(1)
    backbone = registry.load_backbone(options.backbone)
    folder = registry.folder_of(options.backbone)
    bound = vae_bound(backbone, options.scenes)
    measured: dict = {"vae": {"psnr": round(bound, 2), "scenes": options.scenes}}
    if "text" in backbone.carries:
        measured["vocabulary"] = words()
    print(json.dumps(update(folder, measured)))


if __name__ == "__main__":
    main()
