"""Plan an edit's memory before anything is loaded: where each part of the model is, and the expected peak.

Exact choices come first: parts leave the device between their stages, then blocks are streamed. What changes numbers
comes last, and only for a limit that was given: tiles of the VAE, and shorter windows.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ..base.errors import UserError
from ..base.memory import format_size
from ..models.footprint import Activations, ClipShape, PartSize
from ..models.placement import STREAMED, Placement, Placements

ENCODERS = ("text_encoder", "image_encoder")
PROCESS_BYTES = (
    750 * 10**6
)  # of Python and its libraries; on a GPU they take no memory of the device
# On a CPU: of what a stage frees, the C library keeps a part in pieces. Measured over a whole edit of Wan2.1-1.3B.
CPU_MARGIN = 1.07
AUTO_SHARE = 0.9  # of the free memory that an edit may take
TILES = (512, 384, 256, 192)  # sides in pixels
DECODED_FRAMES = (4, 2, 1)
STAGE_TEXTS = {
    "condition": "encode the prompts or the first frame",
    "encode": "encode this clip",
    "denoise": "denoise this clip",
    "decode": "decode this clip",
}
SMALLER_CLIP = "a smaller clip or a shorter --window"
STAGE_PARTS = {"condition": ENCODERS, "encode": ("vae",), "denoise": (), "decode": ("vae",)}
Sizes = Mapping[str, PartSize]

REASONS: dict[Placement, str] = {
    "resident": "it fits next to everything else",
    "swapped": "it is on the device during its stages alone, which costs a copy each time",
    "stored": "it stays in the format of its files, and each block is converted when it runs",
    "ram": "each block is copied from RAM when it runs",
    "disk": "each block is read from its file when it runs",
    "float8": "--memory asks for float8, which changes the numbers",
}


@dataclass(frozen=True)
class Machine:
    """What an edit runs on. item: bytes of a number that the denoiser computes in; ram: what is free, in bytes."""

    is_gpu: bool
    item: int
    ram: int


@dataclass(frozen=True)
class Workload:
    """What an edit holds. sizes: of the parts; activations: of a clip and a tile side (0: whole frames).

    saving: how decoding can take less, "tiles", "frames" (fewer at once) or "". windows: shorter windows to try, in
    latent frames, the longest first.
    """

    sizes: Sizes
    activations: Callable[[ClipShape, Placements], Activations]
    shape: ClipShape
    streamable: frozenset[str]
    saving: str = ""
    windows: tuple[int, ...] = ()

    @property
    def denoisers(self) -> tuple[str, ...]:
        """The parts that denoise: two for a model of two experts."""
        return tuple(name for name in self.sizes if name not in (*ENCODERS, "vae"))


@dataclass(frozen=True)
class MemoryPlan:
    """Where the parts of a model are, and what is expected of it.

    limit: bytes, None if nothing is known of the device. stages: expected bytes by stage. window: latent frames, where
    the limit made windows shorter; 0 otherwise. is_measured: whether the formula was compared with measurements.
    names: of the parts; shape: of the clip that it was made for.
    """

    placements: Placements = field(default_factory=Placements)
    limit: int | None = None
    stages: Mapping[str, int] = field(default_factory=dict)
    reason: str = ""
    window: int = 0
    is_measured: bool = False
    names: tuple[str, ...] = ()
    shape: ClipShape | None = None

    @property
    def peak(self) -> int | None:
        """The expected peak in bytes; None where it is unknown."""
        return max(self.stages.values(), default=None)

    @property
    def changes_numbers(self) -> bool:
        """Whether the result differs from that of an edit with enough memory."""
        own = self.placements
        is_rounded = "float8" in own.parts.values()
        return bool(is_rounded or own.tile or own.decoded_frames or self.window)

    def describe(self) -> dict[str, Any]:
        """Return the plan as in the manifest, in MB (of 10^6 bytes)."""
        own = self.placements
        parts = {
            name: {"placement": own.of(name), "reason": REASONS[own.of(name)]}
            for name in self.names
        }
        return {
            "limit_mb": None if self.limit is None else self.limit // 10**6,
            "peak_mb": None if self.peak is None else self.peak // 10**6,
            "stages_mb": {name: size // 10**6 for name, size in self.stages.items()},
            "parts": parts,
            "decoding": self._describe_decoding(),
            "window": self.window or None,
            "changes_numbers": self.changes_numbers,
            "reason": self.reason,
            "summary": self.summarize(),
        }

    def summarize(self) -> str:
        """Return the plan in one line: the expected peak, the limit, and each part that is not resident."""
        if self.peak is None:
            return f"memory: {self.reason}"
        own = self.placements
        changes = [
            f"{name.replace('_', ' ')}: {own.of(name)} ({REASONS[own.of(name)]})"
            for name in self.names
            if own.of(name) != "resident"
        ]
        if own.tile or own.decoded_frames:
            changes.append(f"decoding {self._describe_decoding()}")
        if self.window:
            changes.append(
                f"windows of {self.window} latent frames, because longer ones do not fit"
            )
        how = "by a formula checked on a CPU" if self.is_measured else "by a rough formula"
        parts = "; ".join(changes) or "every part stays where it is needed"
        reason = f", {self.reason}" if self.reason else ""
        return f"memory: about {format_size(self.peak)} expected ({how}){reason}; {parts}"

    def _describe_decoding(self) -> str:
        if self.placements.tile:
            side = self.placements.tile
            return f"in tiles of {side}x{side} pixels, whose seams are blended: whole frames do not fit"
        if self.placements.decoded_frames:
            return f"{self.placements.decoded_frames} frames at once: more do not fit"
        return "whole frames"


def choose(work: Workload, machine: Machine, limit: int | None, storage: str = "") -> MemoryPlan:
    """Return the plan with the fewest changes whose expected peak is within a limit, or else the smallest plan.

    limit: bytes; None for no limit.
    """
    plan = None
    for placements, shape in _candidates(work, machine, storage):
        plan = evaluate(work, machine, placements, shape)
        if limit is None or (plan.peak or 0) <= limit:
            break
    assert plan is not None
    if limit is not None and plan.peak is not None and plan.peak <= limit:
        plan = _undo_needless_changes(work, machine, plan, limit)
    return replace(plan, limit=limit)


def _undo_needless_changes(
    work: Workload, machine: Machine, plan: MemoryPlan, limit: int
) -> MemoryPlan:
    """Return a plan without the changes that a later one has made needless: first those that change numbers."""
    shape = replace(work.shape, frames=plan.window or work.shape.frames)
    steps = _part_steps(work, machine)

    def try_placements(placements: Placements) -> bool:
        nonlocal plan
        tried = evaluate(work, machine, placements, shape)
        fits = (tried.peak or 0) <= limit
        plan = tried if fits else plan
        return fits

    whole = replace(plan.placements, tile=0, decoded_frames=0)
    for own in (whole, *_decoding_steps(work, whole)):
        if own == plan.placements or try_placements(own):
            break
    changed = [name for name, how in plan.placements.parts.items() if how != "float8"]
    for name in sorted(changed, key=lambda name: name not in work.denoisers):
        others = {n: p for n, p in plan.placements.parts.items() if n != name}
        milder: list[dict[str, Placement]] = [{}, *({name: how} for n, how in steps if n == name)]
        for own in milder:
            if try_placements(replace(plan.placements, parts=others | own)):
                break
    return plan


def _candidates(
    work: Workload, machine: Machine, storage: str
) -> Iterator[tuple[Placements, ClipShape]]:
    """Yield placements from the largest memory to the smallest, then smaller windows."""
    parts: dict[str, Placement] = {}
    if storage:
        parts |= dict.fromkeys(work.denoisers, "float8")
    yield Placements(dict(parts)), work.shape
    for name, placement in _part_steps(work, machine):
        if parts.get(name) != "float8" or placement != "swapped":
            parts[name] = placement
            yield Placements(dict(parts)), work.shape
    smallest = Placements(dict(parts))
    for placements in _decoding_steps(work, smallest):
        smallest = placements
        yield smallest, work.shape
    for frames in work.windows:
        yield smallest, replace(work.shape, frames=frames)


def _part_steps(work: Workload, machine: Machine) -> list[tuple[str, Placement]]:
    """Return the changes of placement, one after another, from the cheapest in time."""
    encoders = [name for name in ENCODERS if name in work.sizes]
    denoisers = list(work.denoisers)
    steps: list[tuple[str, Placement]] = []

    def add(names: list[str], placement: Placement) -> None:
        is_movable = placement == "swapped"
        steps.extend((n, placement) for n in names if is_movable or n in work.streamable)

    if machine.is_gpu:
        add([*denoisers, "vae"], "swapped")
        if _host_bytes(work, machine.item) <= machine.ram:
            add([*encoders, *denoisers], "ram")
    add(encoders, "disk")
    is_smaller = all(work.sizes[name].is_stored_smaller for name in denoisers)
    if not machine.is_gpu and machine.item == 4 and is_smaller:
        add(denoisers, "stored")
    add(denoisers, "disk")
    return steps


def _host_bytes(work: Workload, item: int) -> int:
    """Return the RAM that all parts take while they are not on the GPU."""
    return sum(item * size.numbers for size in work.sizes.values())


def _decoding_steps(work: Workload, placements: Placements) -> Iterator[Placements]:
    if work.saving == "tiles":
        whole = max(work.shape.height, work.shape.width)
        for side in (side for side in TILES if side < whole):
            yield replace(placements, tile=side)
    if work.saving == "frames":
        for count in DECODED_FRAMES:
            yield replace(placements, decoded_frames=count)


def evaluate(
    work: Workload, machine: Machine, placements: Placements, shape: ClipShape
) -> MemoryPlan:
    """Return a plan with the expected memory of each stage."""
    activations = work.activations(shape, placements)
    base, margin = (0, 1.0) if machine.is_gpu else (PROCESS_BYTES, CPU_MARGIN)
    stages = {
        stage: round(
            margin
            * (base + _weights(work, machine, placements, stage) + getattr(activations, stage))
        )
        for stage in STAGE_PARTS
    }
    window = shape.frames if shape.frames != work.shape.frames else 0
    known = activations.is_measured
    names = tuple(work.sizes)
    return MemoryPlan(placements, None, stages, "", window, known, names, work.shape)


def _weights(work: Workload, machine: Machine, placements: Placements, stage: str) -> int:
    """Return the memory of all parts' weights during a stage."""
    needed = work.denoisers if stage == "denoise" else STAGE_PARTS[stage]
    each = {
        name: _part_bytes(name, size, machine, placements.of(name), name in needed)
        for name, size in work.sizes.items()
    }
    denoisers = [each.pop(name) for name in work.denoisers]
    # Of two denoisers one is on the GPU, and one block at a time is read.
    together = max(denoisers) if machine.is_gpu else sum(denoisers)
    return sum(each.values()) + together


def _part_bytes(
    name: str, size: PartSize, machine: Machine, placement: Placement, is_needed: bool
) -> int:
    """Return the memory of a part's weights on the device during a stage that needs it or does not."""
    item = 4 if name == "vae" else machine.item
    if is_needed:
        return size.device_bytes(placement, item)
    if placement == "disk":
        return item * size.outside
    if placement == "stored":
        return size.file_bytes + item * (size.outside + size.embedding)
    if machine.is_gpu and (placement in (*STREAMED, "swapped") or name in ENCODERS):
        return 0
    return size.device_bytes(placement, item)


def smaller_limit(work: Workload, machine: Machine, plan: MemoryPlan) -> int | None:
    """Return the expected peak of the next smaller plan; None if there is none."""
    if plan.peak is None:
        return None
    storage = "float8" if "float8" in plan.placements.parts.values() else ""
    smaller = choose(work, machine, plan.peak - 10**8, storage).peak
    return smaller if smaller is not None and smaller <= plan.peak - 10**8 else None


def require_fit(plan: MemoryPlan, backbone: str, smaller_clip: str = SMALLER_CLIP) -> None:
    """Raise UserError if a plan takes more than its limit. smaller_clip: what the user can do about the clip."""
    if plan.limit is None or plan.peak is None or plan.peak <= plan.limit:
        return
    stage = max(plan.stages, key=plan.stages.__getitem__)
    raise UserError(
        f"--memory {format_size(plan.limit)} is below the smallest plan, in which {backbone} needs "
        f"{format_size(plan.peak)} to {STAGE_TEXTS[stage]}",
        f"use --memory {format_size(plan.peak)}, {smaller_clip}",
    )
