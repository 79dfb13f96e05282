"""Edit a clip that is an array: a scene of the synthetic world on the embedded model. No download, no GPU, seconds.

    python examples/edit.py [-o FOLDER] [--steps N]

Prints what was kept, and writes edited.mp4, its manifest and strip.png (source over edited) into the folder.
"""

import argparse
from pathlib import Path

import numpy as np

import holdfast
from holdfast.media import previews
from holdfast.pipeline import summary
from holdfast.shapeworld.rendering import render
from holdfast.shapeworld.scenes import sample_edit
from holdfast.shapeworld.truth import actor_mask


def scene() -> tuple[np.ndarray, np.ndarray, str, str]:
    """A clip f H W 3 uint8, the mask of what is to change f H W, and the two prompts."""
    change = sample_edit(3, "colour", "several")
    count = change.source.frames
    (frames,) = render([change.source], count)
    clip = (frames.permute(0, 2, 3, 1).numpy() * 255).round().astype(np.uint8)
    mask = actor_mask(change, count).numpy() > 0
    return clip, mask, change.source.caption(), change.target.caption()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, default=Path("example"), help="folder")
    parser.add_argument("--steps", type=int, default=25, help="of the method")
    options = parser.parse_args()

    clip, mask, source, target = scene()
    print(f"{source}\n-> {target}")
    result = holdfast.edit(
        clip,
        source_prompt=source,
        target_prompt=target,
        backbone="shapeworld-wan",
        mask=mask,
        rate=8,
        settings={"steps": options.steps},
        progress=lambda stage, done, count: print(f"\r{stage} {done}/{count}    ", end=""),
    )
    result.save(options.output / "edited.mp4")
    edited = result.array()
    print(f"\n{result}", *summary.summary_lines(result.manifest), sep="\n  ")
    print(
        f"  outside the mask: {(edited == clip)[~mask].mean():.0%} of the pixels are the source's"
    )

    some = previews.sample_indices(len(clip))
    rows = {"source": clip[some], "edited": edited[some]}
    previews.draw_strip(rows, zoom=3).save(options.output / "strip.png")
    print(f"  look at {options.output}/strip.png and {options.output}/edited.mp4")


if __name__ == "__main__":
    main()
