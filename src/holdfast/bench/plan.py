"""The plan of a benchmark: variants (method, settings, backbone, with or without the mask) and cases.

Whether a method may see the benchmark's mask is part of its name: `flowedit` does not see it, `flowedit+mask` does, and
`flowedit+mask:box` sees a rough one (rough_masks.py). The metrics use the tight mask in all cases.
"""

import functools
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from .. import methods
from ..base import old_names
from ..base.errors import UserError
from ..base.names import choose, suggest
from ..base.notices import warn_user
from ..base.schema import Dtype, configure, list_settings
from ..media import video
from ..models import registry
from ..pipeline.task import EditTask
from .datasets.base import Case
from .rough_masks import mask_fields, parse_rough_mask

# How another editor's results are measured: the editor's own clips, or its change put back into the source.
Origin = Literal["raw", "kept"]
ORIGINS: tuple[Origin, ...] = get_args(Origin)


@dataclass(frozen=True)
class Variant:
    """What is compared: a method with its settings on a backbone, with or without sight of the mask.

    origin: of results made elsewhere. `method` is then the editor's name, and nothing else is known.
    rough_mask: what a method with sight of the mask sees of it; empty: the mask itself.
    """

    method: str
    backbone: str
    sees_mask: bool = False
    settings: tuple[tuple[str, str], ...] = ()
    origin: Origin | None = None
    rough_mask: str = ""

    @property
    def label(self) -> str:
        """Name in tables. It says what a method omits without a mask, and that results were not made here."""
        if self.origin:
            return f"{self.key} (not made here)"
        omission = "" if self.sees_mask else _omission_without_mask(self.method)
        return self._name(f", {omission}" if omission else "")

    @property
    def key(self) -> str:
        """Name of its folder."""
        return f"{self.method} {self.origin}" if self.origin else self._name("")

    @property
    def has_raw_clip(self) -> bool:
        """Whether what the method left differs from what is delivered: a mask put the source back."""
        return self.sees_mask and not self.origin

    @property
    def takes_first_frame(self) -> bool:
        """Whether an edited first frame drives it. False for a backbone that is not installed."""
        spec = registry.specs().get(self.backbone)
        return spec is not None and "image" in spec.capabilities

    def names(self) -> set[str]:
        """Return the names that a user may type: with or without the backbone."""
        full = {self.label, self.key}
        if self.origin:
            return full
        return full | {name.removesuffix(f" on {self.backbone}") for name in full}

    def _name(self, omission: str) -> str:
        mask = f"+{self._mask_name()}" if self.sees_mask else omission
        settings = "".join(f" {key}={value}" for key, value in self.settings)
        return f"{self.method}{mask}{settings} on {self.backbone}"

    def _mask_name(self) -> str:
        return f"mask:{self.rough_mask}" if self.rough_mask else "mask"


@functools.cache
def _omission_without_mask(method: str) -> str:
    """Return the part that a method omits if it sees no mask; empty for a method that is no longer installed."""
    known = method in methods.names()
    return methods.load(method).METHOD.unmasked_suffix if known else ""


@dataclass(frozen=True)
class BenchmarkPlan:
    """All cells of a benchmark: every variant with every case.

    weights: those of the backbone `weights_of`, or where that is empty of all. Another backbone finds its own.
    """

    dataset: str
    variants: tuple[Variant, ...]
    cases: tuple[Case, ...]
    seed: int = 0
    weights: str | None = None
    weights_of: str = ""
    device: str = "auto"
    dtype: Dtype = "auto"
    every: int | None = None  # as in EditTask
    count: int | None = None

    def cells(self) -> Iterator[tuple[Variant, Case]]:
        """Iterate over the cells by backbone, so that each is loaded once."""
        backbones = [variant.backbone for variant in self.variants]
        variants = sorted(self.variants, key=lambda variant: backbones.index(variant.backbone))
        return (cell for cell in itertools.product(variants, self.cases) if applies(*cell))

    def check_masks(self) -> None:
        """Raise UserError if variants see the mask but no case has one; note how many cases have none."""
        without_mask = sum(case.mask is None for case in self.cases)
        if not any(variant.sees_mask for variant in self.variants):
            return
        if without_mask == len(self.cases):
            raise UserError(f"{self.dataset} has no masks", "remove +mask from the methods")
        if without_mask:
            warn_user(
                f"{without_mask} of {len(self.cases)} clips have no mask: variants with +mask skip them"
            )

    def task(self, variant: Variant, case: Case, output: Path) -> EditTask:
        """Return the edit of a cell, with a lossless output.

        The raw clip is written where it differs from the result. An image-driven backbone gets the case's edited
        frames.
        """
        place = output.parent
        mask = mask_fields(variant.rough_mask, case.mask, place) if variant.sees_mask else {}
        return EditTask(
            input=case.clip,
            output=str(output),
            source_prompt=case.source_prompt,
            target_prompt=case.target_prompt,
            method=variant.method,
            backbone=variant.backbone,
            weights=self.find_weights(variant.backbone),
            settings=dict(variant.settings),
            seed=self.seed,
            device=self.device,
            dtype=self.dtype,
            codec="ffv1",
            every=self.every,
            count=self.count,
            raw=str(raw_path(place)) if variant.has_raw_clip else None,
            **mask,
            **_edited_frames(variant, case),
        )

    def find_weights(self, backbone: str) -> str | None:
        """Return the weights that the plan names for a backbone; None: it finds its own."""
        return self.weights if self.weights_of in ("", backbone) else None

    def sampled_frames(self, case: Case) -> tuple[int, ...]:
        """Return which frames of a case's clip are edited; empty: all."""
        if not (self.every or self.count):
            return ()
        return video.choose_frames(range(video.probe(case.clip).frames), self.every, self.count)


def raw_path(folder: Path) -> Path:
    """Return the path of a cell's raw clip."""
    return folder / "raw.mkv"


def _edited_frames(variant: Variant, case: Case) -> dict[str, Any]:
    """Return the edited frames that drive a variant, as fields of EditTask."""
    if not variant.takes_first_frame:
        return {}
    has_segments = methods.load(variant.method).METHOD.long_clips == "segments"
    keyframes = case.keyframes if has_segments else ()
    return {"first_frame": case.first_frame, "keyframes": keyframes}


def applies(variant: Variant, case: Case) -> bool:
    """Return whether a variant runs on a case: a variant with +mask needs the case's mask."""
    return case.mask is not None or not variant.sees_mask


def make_variants(
    method_names: list[str], backbones: list[str], sweep: dict[str, list[str]]
) -> tuple[Variant, ...]:
    """Combine every method with every backbone and every combination of the settings that the method has.

    method_names: with +mask if the method may see the mask, or +mask:ROUGH for a rough one. sweep: values by setting; a
    method without a setting ignores it. A backbone that lacks a method's requirement is skipped with a notice. Raise
    UserError for unknown names, for a setting that no method has, and if no variant remains.
    """
    known = registry.backbones()
    backbones = [choose(name, known, "backbone") for name in backbones]
    variants: list[Variant] = []
    missing: dict[str, str] = {}
    for method in method_names:
        name, sees_mask, rough = _parse_method(method)
        able = [backbone for backbone in backbones if _can_run(name, backbone, missing)]
        for settings in _combinations(methods.load(name).Config, sweep):
            variants += [
                Variant(name, backbone, sees_mask, settings, rough_mask=rough) for backbone in able
            ]
    _note_missing(missing, bool(variants))
    _refuse_unused(sweep, {variant.method for variant in variants})
    return tuple(dict.fromkeys(variants))


def _refuse_unused(sweep: dict[str, list[str]], method_names: Iterable[str]) -> None:
    """Raise UserError for a setting that none of the methods has."""
    settings = {n for method in method_names for n in list_settings(methods.load(method).Config)}
    unused = [name for name in sweep if old_names.present_setting(name, settings) not in settings]
    if unused:
        cause = f"none of these methods has a setting {', '.join(sorted(unused))}"
        raise UserError(cause, suggest(unused[0], sorted(settings)))


def _can_run(method: str, backbone: str, missing: dict[str, str]) -> bool:
    """Return whether a backbone meets a method's requirements; if not, add what is missing to `missing`."""
    absent = methods.load(method).METHOD.missing(registry.specs()[backbone].capabilities)
    if absent:
        missing[f"{method} on {backbone}"] = " and ".join(sorted(absent)).replace("_", " ")
    return not absent


def _note_missing(missing: dict[str, str], any_variant: bool) -> None:
    if not missing:
        return
    reasons = "; ".join(f"{name} (it lacks {absent})" for name, absent in missing.items())
    if not any_variant:
        raise UserError(f"nothing can be run: {reasons}", "see: holdfast list pairs")
    warn_user(f"skipped, because the backbone cannot run it: {reasons}")


def _parse_method(text: str) -> tuple[str, bool, str]:
    """Return a method's name, whether it may see the mask, and the rough mask that it sees instead; empty: none."""
    name, plus, suffix = text.partition("+")
    mask, colon, rough = suffix.partition(":")
    if plus and mask != "mask":
        raise UserError(f"{text}: only +mask or +mask:ROUGH can follow a method's name")
    if colon:
        rough = parse_rough_mask(rough)
    return choose(name, methods.names(), "method"), bool(plus), rough


def _combinations(config: type, sweep: dict[str, list[str]]) -> list[tuple[tuple[str, str], ...]]:
    """Return every combination of the sweep's settings that a method has. Raise UserError for invalid values."""
    settings = list_settings(config)
    sweep = old_names.rename_settings(sweep, {n: s.choices for n, s in settings.items()})
    choices = [[(key, value) for value in sweep[key]] for key in sweep if key in settings]
    combinations = list(itertools.product(*choices))
    for combination in combinations:
        configure(config, {}, None, dict(combination))
    return combinations
