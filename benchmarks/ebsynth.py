"""EbSynth on held-out scenes from the true edited first frame: gain in dB, successes and processor time.

    python benchmarks/ebsynth.py settings [--scenes 20] [--set start=random] [--set patch=3] ...
    python benchmarks/ebsynth.py size [--side 512]

settings: one row for the defaults and one for each --set, over the scenes of `bench run shapeworld:single`.
size: processor seconds a frame and peak memory of a recoloured scene that is rendered with so many pixels a side.
"""

import argparse
import contextlib
import resource
import statistics
import time

import torch

from holdfast.base.schema import configure
from holdfast.methods import ebsynth
from holdfast.models import registry
from holdfast.models.base import Prompt
from holdfast.sampling.field import EditInputs
from holdfast.shapeworld.rendering import render
from holdfast.shapeworld.scenes import EDIT_KINDS, SceneEdit, sample_edit
from holdfast.shapeworld.truth import judge, psnr


def list_edits(count: int) -> list[SceneEdit]:
    """Return the edits of as many cases of `shapeworld:single`; a scene without room is left out."""
    edits: list[SceneEdit] = []
    seed = 0
    while len(edits) < count:
        with contextlib.suppress(ValueError):
            edits.append(sample_edit(seed, EDIT_KINDS[len(edits) % len(EDIT_KINDS)], "single"))
        seed += 1
    return edits


def propagate(source: torch.Tensor, first: torch.Tensor, settings: dict) -> torch.Tensor:
    """Return an edited clip f 3 H W."""
    backbone = registry.load_backbone("pixels")
    config, _ = configure(ebsynth.Config, {}, None, settings)
    conditioning = backbone.condition(Prompt(image=first))
    inputs = EditInputs(backbone.encode(source), conditioning, conditioning, first_frame=first)
    *_, last = ebsynth.edit(backbone.field, inputs, config)
    return torch.cat(list(backbone.decode(last.z)))


def measure_settings(edits: list[SceneEdit], settings: dict) -> str:
    """Return a row: mean gain, successes, and processor seconds a frame."""
    gains, successes, frames = [], 0, 0
    begin = time.process_time()
    for edit in edits:
        source, target = render([edit.source, edit.target], edit.source.frames)
        edited = propagate(source, target[0], settings)
        gains.append(psnr(edited, target) - psnr(source, target))
        successes += bool(judge(edit, edited)["success"])
        frames += len(source) - 1
    seconds = (time.process_time() - begin) / frames
    name = " ".join(f"{key}={value}" for key, value in settings.items()) or "defaults"
    mean = f"{statistics.mean(gains):+.2f} dB, {successes} of {len(edits)}"
    return f"{name}: {mean}, {seconds:.2f} s a frame"


def measure_size(side: int, frames: int = 3) -> str:
    edit = sample_edit(0, "colour")
    source, target = render([edit.source, edit.target], frames, (side, side))
    begin = time.process_time()
    edited = propagate(source, target[0], {})
    seconds = (time.process_time() - begin) / (frames - 1)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    gain = psnr(edited, target) - psnr(source, target)
    return f"{side}x{side}: {seconds:.2f} s a frame, {memory:.0f} MB, {gain:+.1f} dB"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("settings", "size"))
    parser.add_argument("--scenes", type=int, default=20)
    parser.add_argument("--side", type=int, default=512)
    parser.add_argument("--set", action="append", default=[])
    options = parser.parse_args()
    if options.what == "size":
        print(measure_size(options.side))
        return
    edits = list_edits(options.scenes)
    for setting in ["", *options.set]:
        key, _, value = setting.partition("=")
        print(measure_settings(edits, {key: value} if key else {}), flush=True)


if __name__ == "__main__":
    main()
