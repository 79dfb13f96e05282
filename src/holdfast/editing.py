"""A whole edit: read, fit, encode, walk, decode, composite, write."""

import contextlib
import dataclasses
import math
import platform
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from importlib import metadata
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from . import fit, masks, methods, registry, run, video, windows, words
from .backbones.base import Backbone
from .task import EditTask, configure, part_of

Progress = Callable[[str, int, int], None]  # stage, done, count


@dataclass
class Result:
    """An edited latent and all that brings it back to the clip it came from. Frames are made when they are asked for."""

    task: EditTask
    clip: video.Clip
    part: range
    mask: masks.Mask | None
    fit: fit.Fit
    backbone: Backbone
    z: Tensor | None  # None: nothing was to change, the source itself is the result
    manifest: dict
    store: run.Store | None = None
    seconds: dict[str, float] = field(default_factory=dict)

    def frames(self, measure: "Preservation | None" = None) -> Iterator[np.ndarray]:
        """The result's frames before encoding: H W 3, uint8, or uint16 for a source above 8 bits. All of the clip's."""
        edited = self.edited()
        alphas = self.mask.alphas() if self.mask else None
        for i, source in enumerate(video.read(self.clip)):
            alpha = np.zeros(source.shape[:2], np.float32)
            result = source
            if i in self.part:
                alpha = next(alphas) if alphas else np.ones(source.shape[:2], np.float32)
                result = source if self.z is None else masks.composite(source, next(edited), alpha)
            if measure:
                measure.add(source, result, alpha)
            yield result

    def edited(self) -> Iterator[np.ndarray]:
        """What the model made of the part, at the source's size, before any mask."""
        if self.z is None:
            yield from islice(video.read(self.clip), self.part.start, self.part.stop)
            return
        for frame in self.fit.back(self.backbone.decode(self.z)):
            yield to_array(frame, self.clip.bits)

    def save(self, path: str | Path | None = None, progress: Progress | None = None) -> Path:
        """Write the clip and, beside it, its manifest; then the saved latents are no longer needed and go."""
        if not (path or self.task.output):
            raise ValueError("give a file name to save to")
        path = Path(path or self.task.output)
        check_place(path, self.task)
        measure = Preservation()
        with timed(self.seconds, "decode and write"):
            frames = reporting(self.frames(measure), "decode and write", self.clip.frames, progress)
            video.write(path, self.clip, frames, self.task.codec, self.task.crf)
        suffix = path.suffix.lower()
        self.manifest["codec"] = video.pick_codec(self.task.codec, suffix, self.clip) if suffix in video.CONTAINERS else suffix
        self.manifest |= {
            "output": str(path),
            "preservation": measure.figures(),
            "seconds": {k: round(v, 3) for k, v in self.seconds.items()},
            "peak_memory_mb": peak_memory_mb(),
        }
        if self.clip.audio and suffix not in video.CONTAINERS:
            warnings.warn(f"{path.name} cannot hold the source's audio; it was left out", stacklevel=2)
            self.manifest["audio_tracks"] = 0
        run.write_json(manifest_path(path), self.manifest)
        if self.store:
            self.store.remove()
        return path

    @property
    def preservation(self) -> dict:
        """The preservation figures of this result, measured before encoding."""
        if "preservation" not in self.manifest:
            measure = Preservation()
            for _ in self.frames(measure):
                pass
            self.manifest["preservation"] = measure.figures()
        return self.manifest["preservation"]


class Preservation:
    """How much of the source a result keeps, over all frames, in [0, 1] pixel values.

    Outside is where the mask's weight is 0 (and every frame that was not to be edited). `changed_share`: the share of all
    pixels of which any channel moved by more than 2/255.
    """

    def __init__(self) -> None:
        self.square = self.count = self.square_out = self.count_out = self.worst = self.changed = 0.0

    def add(self, source: np.ndarray, result: np.ndarray, alpha: np.ndarray) -> None:
        peak = np.iinfo(source.dtype).max
        difference = np.abs(source.astype(np.float32) - result) / peak
        square, outside = difference**2, alpha == 0
        self.square += float(square.sum(dtype=np.float64))
        self.count += square.size
        self.square_out += float(square[outside].sum(dtype=np.float64))
        self.count_out += 3 * int(outside.sum())
        self.worst = max(self.worst, float(difference[outside].max(initial=0.0)))
        self.changed += 3 * int((difference.max(axis=2) > 2.001 / 255).sum())

    def figures(self) -> dict[str, float | str | None]:
        """psnr and psnr_outside in dB ("inf" where not a bit moved); the outside ones are None where nothing is outside."""
        outside = bool(self.count_out)
        return {
            "psnr": _psnr(self.square, self.count),
            "psnr_outside": _psnr(self.square_out, self.count_out) if outside else None,
            "max_abs_outside": self.worst if outside else None,
            "changed_share": round(self.changed / self.count, 6),
        }


def _psnr(square: float, count: float) -> float:
    return math.inf if square == 0 else round(10 * math.log10(count / square), 3)


def edit(task: EditTask, backbone: Backbone | None = None, resume: bool = False, progress: Progress | None = None) -> Result:
    """Run an edit up to the saved latent. `Result.save` decodes and writes it.

    backbone: one that is loaded already; else the task's is loaded. resume: go on from the latents beside the output.
    Raises ValueError for bad input, registry.Missing for missing weights, run.Cancelled after Ctrl-C.
    """
    seconds: dict[str, float] = {}
    method = registry.method(task.method)
    with timed(seconds, "read"):
        clip = video.probe(task.input)
        part = part_of(task.frames, clip.frames)
        shape = masks.Shape(task.invert_mask, task.outline, task.grow, task.feather)
        mask = masks.bind(task.mask, clip, part, shape) if task.mask and task.mask != "auto" else None
    check(task, clip)
    change = words.changed(task.source, task.target, task.words)
    if "text_attention" in method.NEEDS and not same(task):
        words.told(change, task.source)
    elif task.words and task.mask != "auto":
        warnings.warn(f"words have no effect on {task.method}, which does not look at attention", stacklevel=2)
    with timed(seconds, "load"):
        backbone = backbone or registry.load_backbone(task.backbone, task.weights, task.device, task.dtype)
    require(method.NEEDS, backbone, task.method)
    cfg, origin = configure(method.Config, backbone.prefers, task.strength, task.settings)
    fitted = fit.plan(backbone.grid, len(part), (clip.size[1], clip.size[0]))
    planned = windows.plan(backbone.grid, fitted.model_frames, task.window)
    store = run.Store(latents_path(Path(task.output)), task.key()) if task.output else None
    field = run.Metered(backbone)
    whole = windows.fitted(field, planned)
    z = None
    if same(task):
        warnings.warn("the prompts are equal: the result is the source", stacklevel=2)
    else:
        with timed(seconds, "text"):
            src = backbone.condition(task.source, task.negative, change.source)
            tgt = backbone.condition(task.target, task.negative, change.target)
        with timed(seconds, "encode"):
            frames = (to_tensor(f) for f in islice(video.read(clip), part.start, part.stop))
            source = backbone.encode(fitted.forward(reporting(frames, "encode", len(part), progress)))
        if task.mask == "auto":
            with timed(seconds, "mask"):
                cells = found_mask(task, backbone, whole, (source, src, tgt), store if resume else None)
                mask = masks.from_cells(cells, backbone.grid, fitted, shape)
            store = store and dataclasses.replace(store, keep={"mask": cells.byte()})
        inside = masks.to_latent(mask.frames(), backbone.grid, source.shape[2:]).to(source) if mask else None
        start = on_device(store.load(), source) if resume and store else None
        if resume and start is None:
            warnings.warn("nothing was saved to go on from; starting over", stacklevel=2)
        with timed(seconds, "edit"):
            steps = method.edit(whole, source, src, tgt, cfg, mask=inside, seed=task.seed, start=start)
            begin = start or run.Step(cfg.steps, cfg.steps, source, {})  # where a method has nothing to do
            z = run.drive(steps, begin, store, progress and (lambda done, count: progress("edit", done, count))).z
    manifest = describe(task, clip, (fitted, planned, change), backbone, (cfg, origin), field)
    return Result(task, clip, part, mask, fitted, backbone, z, manifest, store, seconds)


def found_mask(task: EditTask, backbone: Backbone, field, latents: tuple, store: run.Store | None) -> Tensor:
    """The latent mask that attention gives, f h w boolean; where `store` holds that of the run to go on from, that one.

    latents: the source's latent and both conditions.
    """
    require({"text_attention"}, backbone, "--mask auto")
    kept = store.kept("mask") if store else None
    return masks.from_attention(field, *latents, task.seed) if kept is None else kept > 0


def same(task: EditTask) -> bool:
    return task.source.split() == task.target.split()


def check(task: EditTask, clip: video.Clip) -> None:
    """Refuse what could only fail after the work is done, and warn of what has no effect."""
    if task.output:
        path = Path(task.output)
        check_place(path, task)
        video.check_output(path, clip, task.codec, task.crf)
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix.lower() not in video.CONTAINERS and (task.codec != "auto" or task.crf is not None):
            warnings.warn(f"codec and crf have no effect on {path.name}", stacklevel=3)
    if task.crf is not None and task.codec in ("lossless", "ffv1"):
        warnings.warn(f"crf has no effect with codec {task.codec}", stacklevel=3)
    if task.mask is None and (task.feather or task.invert_mask or task.grow or task.outline != "given"):
        warnings.warn("feather, grow, outline and invert-mask have no effect without a mask", stacklevel=3)


def check_place(path: Path, task: EditTask) -> None:
    """Refuse to overwrite what the edit was made from, or a folder that is not an earlier result."""
    for name in filter(None, (task.input, task.mask)):
        if path.exists() and path.resolve() == Path(name).resolve():
            raise ValueError(f"the result would replace {path}; give another --output")
    if path.is_dir() and any(path.iterdir()) and not manifest_path(path).exists():
        raise ValueError(f"{path} is a folder that holds other things; give a file name, or a folder of its own")


def require(needs: set[str], backbone: Backbone, method: str) -> None:
    missing = needs - backbone.carries
    if missing:
        fitting = [n for n in methods.names() if backbone.carries >= registry.method(n).NEEDS]
        raise ValueError(
            f"{method} needs {', '.join(sorted(missing))}, which {backbone.name} does not carry; it carries: {', '.join(fitting) or 'none'}"
        )


def on_device(step: run.Step | None, like: Tensor) -> run.Step | None:
    if step is None:
        return None
    state = {k: v.to(like.device) for k, v in step.state.items()}
    return dataclasses.replace(step, z=step.z.to(like.device), state=state)


def to_tensor(array: np.ndarray) -> Tensor:
    """H W 3 integers to 3 H W float32 in [0, 1]."""
    return torch.from_numpy(array.astype(np.float32) / np.iinfo(array.dtype).max).permute(2, 0, 1)


def to_array(frame: Tensor, bits: int) -> np.ndarray:
    """3 H W in [0, 1] to H W 3, uint8 or (above 8 bits) uint16."""
    kind = np.uint8 if bits == 8 else np.uint16
    values = frame.permute(1, 2, 0).float().cpu().numpy() * np.iinfo(kind).max
    return np.rint(values).astype(kind)


def describe(task: EditTask, clip: video.Clip, plans: tuple, backbone: Backbone, settings: tuple, field: run.Metered) -> dict:
    """The manifest, as far as it is known before writing."""
    cfg, origin = settings
    fitted, planned, change = plans
    driving = [" ".join(words.pieces(text)[i] for i in at) for text, at in ((task.source, change.source), (task.target, change.target))]
    names = ("holdfast", "torch", "diffusers", "transformers", "av")
    return {
        "output": task.output,
        "task": task.to_dict(),
        "method": registry.method(task.method).__name__.rpartition(".")[2],
        "backbone": backbone.name,
        "seed": task.seed,
        "settings": {k: {"value": v, "from": origin[k]} for k, v in dataclasses.asdict(cfg).items()},
        "frames": clip.frames,
        "rate": str(clip.rate),
        "size": list(clip.size),
        "audio_tracks": clip.audio,
        "source": {"notes": list(clip.notes), "variable_rate": clip.variable, "bits": clip.bits},
        "device": {"type": backbone.device.type, "dtype": str(backbone.dtype).removeprefix("torch.")},
        "plan": {
            "fit": dataclasses.asdict(fitted),
            "windows": {"count": planned.count, "spans": planned.spans, "reason": planned.reason},
            "words": {"source": driving[0], "target": driving[1], "reason": "named" if task.words else "where the two prompts differ"},
            "memory": {"offload": "text encoder", "reason": "the text encoder leaves the device once the prompts are encoded"},
        },
        "evaluations": field.evaluations,
        "versions": {n: metadata.version(n) for n in names} | {"python": platform.python_version()},
    }


@contextlib.contextmanager
def timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    begin = time.perf_counter()
    try:
        yield
    finally:
        seconds[stage] = seconds.get(stage, 0.0) + time.perf_counter() - begin


def reporting(items: Iterable, stage: str, count: int, progress: Progress | None) -> Iterator:
    for done, item in enumerate(items, 1):
        yield item
        if progress:
            progress(stage, done, count)


def peak_memory_mb() -> float:
    """The most memory this process has held: on a GPU where one was used, else in RAM."""
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return round(torch.cuda.max_memory_allocated() / 2**20, 1)
    if sys.platform == "win32":
        import psutil

        return round(psutil.Process().memory_info().peak_wset / 2**20, 1)
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20, 1)


def manifest_path(output: Path) -> Path:
    return output.with_name(output.name + ".json")


def latents_path(output: Path) -> Path:
    return output.with_name(output.name + ".latents.safetensors")
