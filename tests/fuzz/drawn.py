"""Draw a case: a kind, a seed file that is broken, and a command that meets it."""

import json
from collections.abc import Callable
from random import Random

from holdfast.base.schema import list_settings
from holdfast.cli.options import flag
from holdfast.pipeline.task import EditTask

from . import seeds
from .case import CHECKPOINTS, Case
from .mutate import NUMBERS, TEXTS, broken, broken_json, broken_tensors, broken_text
from .seeds import QUICK, SAME, Grown

WAN = ["--backbone", "shapeworld-wan"]
OUTPUTS = ["out.mp4"] * 3 + ["out.mkv", "out.mov", "out.webm", "out.gif", "out", "new/deep/out.mp4"]


def media(draw: Random, grown: Grown) -> Case:
    """A clip that is broken. The prompts are equal, so that it is read and written, and mostly nothing else."""
    form = draw.choice([*seeds.CLIPS, "clip.png", "clip.jpg", "clip"])
    if form == "clip":
        files = seeds.frames_folder("clip")
        name = draw.choice(list(files))
        files[name] = broken(files[name], draw)
    elif form in seeds.CLIPS:
        files = {form: broken(seeds.clip(form), draw)}
    else:
        files = {form: broken(seeds.image("jpeg" if form.endswith("jpg") else "png"), draw)}
    rest = SAME if draw.random() < 0.9 else [*QUICK, *WAN]
    return Case("media", ["edit", form, "-o", draw.choice(OUTPUTS), *rest], files)


def masks(draw: Random, grown: Grown) -> Case:
    form = draw.choice(["mask.png", "clip.mkv", "clip.gif", "mask"])
    files = seeds.base_files()
    if form == "mask":
        files |= {f"mask/{i}.png": broken(seeds.mask(), draw) for i in range(2)}
    else:
        whole = seeds.mask() if form == "mask.png" else seeds.clip(form)
        files[form] = broken(whole, draw)
    shape = draw.choice([[], ["--feather", "3"], ["--grow", "-9", "--outline", "hull"]])
    rest = SAME if draw.random() < 0.7 else [*QUICK, *WAN]
    argv = ["edit", "clip.mp4", "-o", "out.mp4", *rest, "--mask", form, *shape]
    return Case("mask", argv, files)


def first_frames(draw: Random, grown: Grown) -> Case:
    files = seeds.base_files()
    files["first.png"] = broken(seeds.image("png", 1), draw)
    argv = ["edit", "clip.mp4", "-o", "out.mp4", *QUICK, "--backbone", "shapeworld-svd"]
    return Case("first", [*argv, "--first-frame", "first.png"], files)


def latents(draw: Random, grown: Grown) -> Case:
    ((name, whole),) = grown.latents.items()
    files = seeds.base_files() | {name: broken_tensors(whole, draw)}
    return Case("latents", seeds.RESUME, files)


def adapters(draw: Random, grown: Grown) -> Case:
    ((name, whole),) = grown.adapters.items()
    files = seeds.base_files() | {name: broken_tensors(whole, draw)}
    return Case("adapters", ["edit", "clip.mp4", "-o", "out.mp4", *QUICK, *seeds.FIT], files)


def weights(draw: Random, grown: Grown) -> Case:
    """A checkpoint of which one file is broken."""
    name = draw.choice(["shapeworld-wan", "shapeworld-t2v", "shapeworld-sd", "shapeworld-svd"])
    parts = [p for p in sorted((CHECKPOINTS / name).rglob("*")) if p.is_file()]
    small = [p for p in parts if p.suffix in (".json", ".txt")]
    part = draw.choice(small if draw.random() < 0.75 else parts)
    ways = {".json": broken_json, ".safetensors": broken_tensors}
    content = ways.get(part.suffix, broken)(part.read_bytes(), draw)
    files = seeds.base_files()
    files[f"weights/{part.relative_to(CHECKPOINTS / name)}"] = content
    argv = ["edit", "clip.mp4", "-o", "out.mp4", *QUICK, "--backbone", name, "--weights", "weights"]
    return Case("weights", argv, files, weights=name)


def jobs(draw: Random, grown: Grown) -> Case:
    """A data set of lines, of which one is broken."""
    lines = seeds.jobs().split(b"\n")
    at = draw.randrange(len(lines))
    lines[at] = broken_json(lines[at], draw)
    files = seeds.base_files() | {
        "clip.gif": seeds.clip("clip.gif"),
        "jobs.jsonl": b"\n".join(lines),
    }
    return Case("jobs", [*seeds.BENCH, "--limit", "1"], files)


def bench(draw: Random, grown: Grown) -> Case:
    """What a benchmark wrote, broken, and read again."""
    files = seeds.base_files() | {"clip.gif": seeds.clip("clip.gif"), "jobs.jsonl": seeds.jobs()}
    files |= grown.bench
    name = draw.choice(sorted(grown.bench))
    way = broken_json if name.endswith(".json") else broken
    files[name] = way(files[name], draw)
    report = ["bench", "report", "bench"]
    argv = draw.choice([report, report, ["bench", "study", "bench"], seeds.BENCH])
    return Case("bench", argv, files)


def study(draw: Random, grown: Grown) -> Case:
    trial = {"id": 0, "case": "1", "left": "flowedit", "right": "sdedit"}
    answer = {"trial": 0, "question": "alignment", "choice": "left"}
    key = {"study": "a", "questions": ["alignment"], "trials": [trial]}
    answers = {"study": "a", "answers": [answer]}
    files = {"study-key.json": json.dumps(key), "answers.json": json.dumps(answers)}
    files = {name: text.encode() for name, text in files.items()}
    name = draw.choice(sorted(files))
    files[name] = broken_json(files[name], draw)
    return Case("study", ["bench", "tally", "study-key.json", "answers.json"], files)


def prompts(draw: Random, grown: Grown) -> Case:
    texts = [broken_text(t, draw) for t in (seeds.SOURCE, seeds.TARGET)]
    argv = [
        "edit",
        "clip.mp4",
        "-o",
        "out.mp4",
        "--source-prompt",
        texts[0],
        "--target-prompt",
        texts[1],
    ]
    argv += ["--set", "steps=1", "--backbone", draw.choice(["shapeworld-wan", "shapeworld-t2v"])]
    if draw.random() < 0.3:
        argv += [draw.choice(["--words", "--negative"]), draw.choice(TEXTS)]
    return Case("prompt", _sayable(argv), seeds.base_files())


def flags(draw: Random, grown: Grown) -> Case:
    """Flags with values that nobody means."""
    argv = ["edit", "clip.mp4", "-o", "out.mp4", *draw.choice([SAME, [*QUICK, *WAN]])]
    settings = list(list_settings(EditTask).values())[1:]
    for setting in draw.choices(settings, k=draw.choice((1, 1, 2, 3))):
        argv.append(flag(setting.name))
        if setting.kind != "boolean":
            argv.append(str(draw.choice([*NUMBERS, *TEXTS, *setting.choices, *NEAR])))
    return Case("flags", _sayable(argv), seeds.base_files())


NEAR = ["first.png", "mask.png", "1=first.png", "steps=0", "n_avg=1", "1:2", "2:1", "0,0,16,16"]
NEAR += ["auto", "flowedit", "sdedit", "shapeworld-t2v", "shapeworld-svd", "clip.mp4", "0.5", "cpu"]
PLACES = [
    "/dev/null", "/dev/full", "/proc/x.mp4", "pipe", "pipe.mp4", "taken", "taken.mp4", "clip.mp4",
    "clip.mp4/out.mp4", "http://localhost/x.mp4", "pipe:1", "pipe:1.mp4", "./take:2.mp4", "loop.mp4",
    "link.mp4", "a" * 300 + ".mp4", "a" * 240 + ".mp4", ".", "..", "/", "", "~", "out.txt", "out.MP4",
    "new/a/b/out.mp4", "mask.png", "first.png", "out\n.mp4", "out[b].mp4", "\udcff.mp4", "-.mp4", "out.",
    "clip.mp4.json", "full", "out.latents.safetensors", "file:out.mp4", ".mp4",
]  # fmt: skip


def places(draw: Random, grown: Grown) -> Case:
    """An output, or another file, where none can be."""
    special = {"pipe": "fifo", "pipe.mp4": "fifo", "taken.mp4": "folder", "taken": "folder"}
    special |= {"loop.mp4": "link loop.mp4", "link.mp4": "link nowhere.mp4"}
    files = seeds.base_files() | {"full/mine.txt": b"mine"}
    clip, output = "clip.mp4", draw.choice(PLACES)
    if draw.random() < 0.3:
        clip, output = draw.choice(PLACES), "out.mp4"
    if "/" not in output and len(output) < 200 and draw.random() < 0.1:
        special[output + draw.choice([".json", ".latents.safetensors"])] = "folder"
    argv = ["edit", clip, "-o", output, *SAME]
    if draw.random() < 0.2:
        argv += [draw.choice(["--mask", "--weights"]), draw.choice(PLACES)]
    special = {k: v for k, v in special.items() if k and not k.startswith(("/", "."))}
    return Case("places", argv, files, special=special)


def metrics(draw: Random, grown: Grown) -> Case:
    name = draw.choice(list(seeds.CLIPS))
    files = seeds.base_files() | {name: broken(seeds.clip(name), draw)}
    argv = ["metrics", "clip.mp4", name, "--only", "masked_psnr,flow_error", "--mask", "mask.png"]
    return Case("metrics", argv, files)


def frame(draw: Random, grown: Grown) -> Case:
    name = draw.choice(list(seeds.CLIPS))
    at = draw.choice([0, 0, 1, -1, *NUMBERS])
    output = "f.png" if draw.random() < 0.7 else draw.choice(PLACES)
    argv = ["frame", name, "-o", output, f"--at={at}"]
    return Case("frame", argv, {name: broken(seeds.clip(name), draw)})


def _sayable(argv: list[str]) -> list[str]:
    """Arguments end at their first zero byte."""
    return [a.split("\0")[0] for a in argv]


KINDS: dict[Callable[[Random, Grown], Case], int] = {
    media: 30, masks: 10, first_frames: 4, latents: 7, adapters: 2, weights: 12, jobs: 4, bench: 4,
    study: 2, prompts: 5, flags: 12, places: 10, metrics: 3, frame: 4,
}  # fmt: skip


def drawn(seed: int, number: int, grown: Grown, only: str = "") -> Case:
    """The case of a number: the same for the same seed."""
    draw = Random(f"{seed}/{number}")
    kinds = [kind for kind in KINDS if only in kind.__name__]
    kind = draw.choices(kinds, [KINDS[k] for k in kinds])[0]
    return kind(draw, grown)
