"""What edits of one clip share: the source's evaluations.

For one seed, noise level and source prompt, the source's branches do not depend on the edit. So another target prompt,
another mask or another guidance scale needs the target's evaluations only. An evaluation is found by what it depends
on: noise level, branch, frames, and the bytes of latent and conditioning. So whatever else changes, what is found is
what would be computed.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from ..base.lazy import torch
from ..sampling.field import Evaluation, KeptEvaluation, VelocityField, find_lenders

if TYPE_CHECKING:
    from torch import Tensor

MAX_BYTES = 4 * 2**30
SHARE_OF_FREE = 0.25  # of the device's free memory


class KeepsEvaluations(Protocol):
    """What a store needs of a backbone."""

    device: torch.device

    def kept_layer_bytes(self, z: Tensor) -> int | None: ...


@dataclass
class _Entry:
    kept: KeptEvaluation
    edit: int  # the last one that used it
    bytes: int  # of what it holds, or will hold after the call


class SourceStore:
    """The source's evaluations of a backbone, for edits that are made one after another.

    max_bytes: of all that is kept; None: a quarter of the device's free memory, at most 4 GiB. Velocities are kept, and
    keys and values of those that lend them, as long as they fit. What the running edit has not used is dropped first,
    the oldest before the others. reused: the evaluations that the running edit found here.
    """

    def __init__(self, backbone: KeepsEvaluations, max_bytes: int | None = None):
        self.backbone, self._max_bytes = backbone, max_bytes
        self.reused, self._edit = 0, 0
        self._room: int | None = None
        self._entries: dict[Hashable, _Entry] = {}
        self._digests: dict[int, tuple[Any, str]] = {}  # of conditionings, by identity

    def begin_edit(self, room: int | None = None) -> None:
        """Begin to count another edit.

        room: the bytes that its memory limit leaves for what is kept, of this edit and others; None: it has no limit.
        """
        self._edit += 1
        self.reused, self._room = 0, room
        self._digests.clear()
        if self._entries:
            self._make_room(0)

    @property
    def max_bytes(self) -> int:
        """How many bytes may be kept. Free memory is asked for once, when the first evaluation is to be kept."""
        if self._max_bytes is None:
            self._max_bytes = free_bytes(self.backbone.device)
        return self._max_bytes if self._room is None else min(self._max_bytes, self._room)

    @property
    def bytes(self) -> int:
        """How many bytes are kept."""
        return sum(entry.bytes for entry in self._entries.values())

    def wrap(self, field: VelocityField) -> VelocityField:
        """Return a field that keeps the source's evaluations here, and finds them here."""

        def velocities(
            sigma: float, evaluations: Sequence[Evaluation], frames: Sequence[int] | None = None
        ) -> list[Tensor]:
            if self._is_observed(field):
                return field.velocities(sigma, evaluations, frames)
            lenders = find_lenders(evaluations)
            which = None if frames is None else tuple(frames)
            digest_point = _digest_once_per_view()
            marked = [
                self._mark(e, ((sigma, e.network_sigma, which), digest_point(e.z)), i in lenders)
                if is_source(e)
                else e
                for i, e in enumerate(evaluations)
            ]
            costs = field.costs(marked)  # a source that is found may run again for its layers
            self.reused += sum(e.is_known and not c for e, c in zip(marked, costs, strict=True))
            return field.velocities(sigma, marked, frames)

        return dataclasses.replace(field, velocities=velocities)

    def _is_observed(self, field: VelocityField) -> bool:
        """Return whether something reads or changes the source's evaluations, or needs their gradient."""
        features, attention = field.feature_hooks, field.attention_hooks
        if torch.is_grad_enabled() or (features and features.rules):
            return True
        if field.clip_norms and field.clip_norms.is_active:
            return True
        if attention is None:
            return False
        return any(
            where(dataclasses.replace(layer, branch=branch))
            for where, _ in attention.rules
            for layer in attention.layers
            for branch in ("src+", "src-")
        )

    def _mark(self, evaluation: Evaluation, at: Hashable, lends: bool) -> Evaluation:
        """Return an evaluation with the place where it is kept. at: noise level, frames and a digest of the latent."""
        value = evaluation.conditioning.for_branch(evaluation.branch)
        key = (at, evaluation.branch, self._digest_once(value))
        entry = self._entries.get(key)
        if entry is None:
            size = evaluation.z.numel() * evaluation.z.element_size()
            if not self._make_room(size):
                return evaluation
            entry = self._entries[key] = _Entry(KeptEvaluation(), self._edit, size)
        entry.edit, kept = self._edit, entry.kept
        layer_bytes = self.backbone.kept_layer_bytes(evaluation.z)
        if lends and layer_bytes and not kept.keeps_layers and self._make_room(layer_bytes):
            kept.keeps_layers = True
            entry.bytes += layer_bytes
        return dataclasses.replace(evaluation, kept=kept)

    def _digest_once(self, value: Any) -> str:
        found = self._digests.get(id(value))
        if found is None:  # the value is held, so that its id stays its own
            found = self._digests[id(value)] = value, digest(value)
        return found[1]

    def _make_room(self, size: int) -> bool:
        """Drop what other edits left until `size` bytes fit. Return whether they do."""
        excess = self.bytes + size - self.max_bytes
        others = [(entry.edit, key) for key, entry in self._entries.items()]
        for edit, key in sorted(others, key=lambda one: one[0]):
            if excess <= 0 or edit == self._edit:
                break
            excess -= self._entries.pop(key).bytes
        return excess <= 0


def free_bytes(device: torch.device) -> int:
    """Return how much of a device's memory may be used to keep evaluations."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
    else:
        import psutil

        free = psutil.virtual_memory().available
    return min(MAX_BYTES, int(SHARE_OF_FREE * free))


def is_source(evaluation: Evaluation) -> bool:
    """Return whether an evaluation is of the source, with or without its prompt."""
    return evaluation.branch.startswith("src")


def _digest_once_per_view() -> Callable[[Tensor], str]:
    """Return a digest of latents that hashes one once: both branches of the source are evaluated at the same point.

    A GPU waits for each. It serves one call, while the latents are not changed.
    """
    found: dict[Hashable, str] = {}

    def digest_point(z: Tensor) -> str:
        view = z.data_ptr(), z.shape, z.stride(), z.dtype
        if view not in found:
            found[view] = digest(z)
        return found[view]

    return digest_point


def digest(value: Any) -> str:
    """Return a hash of a tensor, or of tensors and plain values in sequences, mappings and dataclasses."""
    found = hashlib.blake2b(digest_size=16)
    _update(found, value)
    return found.hexdigest()


def _update(found: hashlib.blake2b, value: Any) -> None:
    if isinstance(value, torch.Tensor):
        found.update(f"{value.dtype}{tuple(value.shape)}".encode())
        found.update(value.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for part in dataclasses.fields(value):
            _update(found, getattr(value, part.name))
    elif isinstance(value, dict):
        for name, part in sorted(value.items()):
            found.update(repr(name).encode())
            _update(found, part)
    elif isinstance(value, (list, tuple)):
        for part in value:
            _update(found, part)
    else:
        found.update(repr(value).encode())
