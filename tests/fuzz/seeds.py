"""What the fuzzer breaks: one small whole file of every kind that the project reads."""

import io
import json
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from pathlib import Path

import av
import numpy as np

from tests.conftest import picture
from tests.patience import HANG

from .server import Server

SIZE, FRAMES = (32, 32), 3
CLIPS = {  # name: encoder and pixel format
    "clip.mp4": ("libx264", "yuv420p"),
    "clip.mov": ("libx264", "yuv444p"),
    "clip.mkv": ("ffv1", "yuv420p10le"),
    "clip.webm": ("libvpx-vp9", "yuv420p"),
    "clip.avi": ("mpeg4", "yuv420p"),
    "clip.gif": ("gif", "rgb8"),
}
SOURCE = "a plain red ball moves right over a lake"
TARGET = "a plain blue ball moves right over a lake"
SAME = ["--source-prompt", "a ball", "--target-prompt", "a ball", "--backbone", "shapeworld-wan"]
QUICK = ["--source-prompt", SOURCE, "--target-prompt", TARGET, "--set", "steps=1"]


@cache
def clip(name: str) -> bytes:
    encoder, pixels = CLIPS[name]
    held = io.BytesIO()
    held.name = name
    form = {"mkv": "matroska"}.get(name[5:], name[5:])
    with av.open(held, "w", format=form) as out:
        stream = out.add_stream(encoder, rate=Fraction(8))
        stream.width, stream.height, stream.pix_fmt = *SIZE, pixels
        sound = out.add_stream("aac", rate=44100) if name in ("clip.mp4", "clip.mkv") else None
        if name == "clip.mov":
            stream.set_display_rotation(90)
        for i in range(FRAMES):
            frame = av.VideoFrame.from_ndarray(picture(i, *SIZE), "rgb24").reformat(format=pixels)
            frame.pts, frame.time_base = i, Fraction(1, 8)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
        if sound:
            _silence(out, sound)
    return held.getvalue()


def _silence(out, sound) -> None:
    for i in range(0, 16384, 1024):
        frame = av.AudioFrame.from_ndarray(np.zeros((2, 1024), np.float32), "fltp", "stereo")
        frame.sample_rate, frame.pts = 44100, i
        out.mux(sound.encode(frame))
    out.mux(sound.encode(None))


@cache
def image(form: str = "png", at: int = 0) -> bytes:
    from PIL import Image

    held = io.BytesIO()
    Image.fromarray(picture(at, *SIZE)).save(held, form)
    return held.getvalue()


@cache
def mask() -> bytes:
    from PIL import Image

    inside = np.zeros(SIZE, np.uint8)
    inside[:, :16] = 255
    held = io.BytesIO()
    Image.fromarray(inside).save(held, "png")
    return held.getvalue()


def frames_folder(name: str) -> dict[str, bytes]:
    return {f"{name}/{i}.png": image("png", i) for i in range(FRAMES)}


LINES = [
    {
        "clip": "clip.mp4",
        "source_prompt": SOURCE,
        "target_prompt": TARGET,
        "mask": "mask.png",
        "kind": "colour",
    },
    {
        "clip": "clip.gif",
        "source_prompt": SOURCE,
        "target_prompt": TARGET,
        "name": "two",
        "object_prompt": "a ball",
    },
]


def jobs() -> bytes:
    return "\n".join(map(json.dumps, LINES)).encode()


BENCH = ["bench", "run", "jobs.jsonl", "-o", "bench", "--methods", "flowedit", "--backbones"]
BENCH += ["shapeworld-wan", "--set", "steps=1", "--metrics", "masked_psnr"]
FIT = ["--method", "i2vedit", "--backbone", "shapeworld-svd", "--set", "tune=1"]
FIT += ["--set", "steps=1", "--first-frame", "first.png"]


RESUME = [
    "edit",
    "clip.mp4",
    "-o",
    "out.mp4",
    "--source-prompt",
    SOURCE,
    "--target-prompt",
    TARGET,
    "--resume",
]
RESUME += ["--set", "steps=2", "--backbone", "shapeworld-wan"]
RESUMED = {
    "input": "clip.mp4",
    "output": "out.mp4",
    "source_prompt": SOURCE,
    "target_prompt": TARGET,
}
RESUMED |= {"backbone": "shapeworld-wan", "settings": {"steps": "2"}}
HALF = f"""
from holdfast.pipeline import run, task
from holdfast.sampling import field
running = run.edit_events(task.EditTask(**{RESUMED!r}))
next(event for event in running if isinstance(event, field.Step))
running.close()
"""


@dataclass(frozen=True)
class Grown:
    """What only a run can make: path to content."""

    latents: dict[str, bytes]
    adapters: dict[str, bytes]
    bench: dict[str, bytes]


def base_files() -> dict[str, bytes]:
    """What a plain edit finds."""
    return {"clip.mp4": clip("clip.mp4"), "mask.png": mask(), "first.png": image("png", 1)}


def grow(server: Server, folder: Path) -> Grown:
    """Run the command line for the files that it makes itself."""
    from .case import Case

    files = base_files() | {"clip.gif": clip("clip.gif"), "jobs.jsonl": jobs()}
    Case("seed", [], files).lay_out(folder)
    edit = ["edit", "clip.mp4", "-o"]
    for argv in (BENCH, [*edit, "out.mp4", *QUICK, *FIT]):
        ran = server.run(argv, folder, HANG)
        if ran.code:
            raise RuntimeError(f"{argv} ended with {ran.code}: {ran.err}")
    ran = server.run([], folder, HANG, HALF)
    if ran.code:
        raise RuntimeError(ran.err)
    bench = {f"bench/{p.relative_to(folder / 'bench')}": p for p in folder.glob("bench/**/*.*")}
    return Grown(
        _contents(folder, "out.mp4.latents.safetensors"),
        _contents(folder, "out.mp4.adapters.safetensors"),
        {name: path.read_bytes() for name, path in bench.items() if path.is_file()},
    )


def _contents(folder: Path, name: str) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes()}
