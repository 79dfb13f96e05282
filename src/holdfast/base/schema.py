"""Typed settings: what a field may hold is in its type, checked in one place for the command line, JSON and Python
alike.

@dataclass(frozen=True)
class Config:
    steps: Steps = setting(50, "T")
    contrast: Literal["signed", "abs"] = "signed"
    __post_init__ = check
"""

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from .errors import UserError


@dataclass(frozen=True)
class Range:
    """Limits of a number, both allowed. None: no limit on that side."""

    low: float | None = None
    high: float | None = None

    def __contains__(self, value: float) -> bool:
        above = self.low is None or value >= self.low
        below = self.high is None or value <= self.high
        return above and below and math.isfinite(value)

    def __str__(self) -> str:
        if self.low is None and self.high is None:
            return "a number"
        if self.high is None:
            return f"{self.low:g} or more"
        if self.low is None:
            return f"{self.high:g} or less"
        return f"between {self.low:g} and {self.high:g}"


Steps = Annotated[int, Range(1, 1000)]
# of a descent, which visits levels at random: not what a backbone prefers for a walk down them
Iterations = Annotated[int, Range(1, 10000)]
Count = Annotated[int, Range(0, 1000)]
Share = Annotated[float, Range(0, 1)]
Number = Annotated[float, Range()]
# of the grid of levels; None: the backbone's own
Shift = Annotated[float, Range(0.01, 1000)] | None
# A number, or two of them: from the first frame to the last, evenly ("1:3" on the command line).
Guidance = Annotated[float, Range()] | tuple[float, float]
LevelGrid = Literal[
    "own", "wan", "euler", "ddim", "karras"
]  # own: the one that the backbone's authors use
Timesteps = Literal["whole", "exact"]  # whether the model is told timesteps cut to whole numbers


@dataclass(frozen=True)
class Kind:
    """What one setting takes, read from its type."""

    base: type  # bool, int, float, str, tuple or dict
    range: Range | None = None
    choices: tuple[str, ...] = ()
    optional: bool = False  # None is allowed
    pair: bool = False  # two numbers are allowed in place of one

    def __str__(self) -> str:
        if self.choices:
            text = " or ".join(self.choices)
        elif self.base is bool:
            text = "true or false"
        elif self.base is int:
            text = f"a whole number {self.range or ''}".strip()
        elif self.base is float:
            text = f"a number {self.range or ''}".replace("a number a number", "a number").strip()
        else:
            text = {str: "text", tuple: "a list of texts", dict: "a table"}[self.base]
        text += ", or two of them with a colon" if self.pair else ""
        return text + (", or none" if self.optional else "")


def setting(default: Any, about: str) -> Any:
    """Return a dataclass field with a default and the words that lists and the page show of it."""
    return dataclasses.field(default=default, metadata={"help": about})


def kinds(cls: type) -> dict[str, Kind]:
    """What each field of a dataclass takes, by name."""
    return {f.name: kind_of(f.type) for f in dataclasses.fields(cls)}


def kind_of(annotation: Any) -> Kind:
    """Read a type: a plain one, Annotated with a Range, a Literal of words, a tuple, or one of them or None."""
    if isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is typing.Union:
        members = typing.get_args(annotation)
        pair = any(typing.get_origin(m) is tuple for m in members)
        plain = [m for m in members if m is not type(None) and typing.get_origin(m) is not tuple]
        kind = kind_of(plain[0])
        return dataclasses.replace(kind, optional=type(None) in members, pair=pair)
    origin = typing.get_origin(annotation)
    if origin is Literal:
        return Kind(str, choices=typing.get_args(annotation))
    if origin is Annotated:
        base, limits = typing.get_args(annotation)
        return Kind(base, range=limits)
    return Kind(origin or annotation)


def without_limits(annotation: Any) -> Any:
    """A type as other libraries know it: its Range left out."""
    kind = kind_of(annotation)
    plain = Literal[kind.choices] if kind.choices else kind.base
    return plain | None if kind.optional else plain


def check(self) -> None:
    """Bring every field of a dataclass to its type, or raise ValueError saying what it takes.
    As its `__post_init__`.
    """
    for name, kind in kinds(type(self)).items():
        object.__setattr__(self, name, parsed(name, getattr(self, name), kind))


def parsed(name: str, value: Any, kind: Kind) -> Any:
    """A value as its setting's type; a text is read as one types it. Raises ValueError for what it does not take."""
    if value is None or (isinstance(value, str) and value.lower() == "none" and kind.optional):
        if not kind.optional:
            raise _wrong(name, value, kind)
        return None
    if kind.choices:
        if value not in kind.choices:
            raise _wrong(name, value, kind)
        return value
    if kind.base is bool:
        return _truth(name, value, kind)
    if kind.base in (int, float):
        return _numbers(name, value, kind)
    if kind.base is tuple:
        return _texts(name, value, kind)
    if not isinstance(value, kind.base):
        raise _wrong(name, value, kind)
    return value


def _texts(name: str, value: Any, kind: Kind) -> tuple[str, ...]:
    values = (value,) if isinstance(value, str) else value
    if not isinstance(values, (list, tuple)) or not all(isinstance(v, str) for v in values):
        raise _wrong(name, value, kind)
    return tuple(values)


_TRUTHS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def _truth(name: str, value: Any, kind: Kind) -> bool:
    known = _TRUTHS.get(str(value).lower())
    if known is None:
        raise _wrong(name, value, kind)
    return known


def _numbers(name: str, value: Any, kind: Kind) -> Any:
    parts = value.split(":") if isinstance(value, str) else value
    if kind.pair and isinstance(parts, (list, tuple)) and len(parts) == 2:
        return tuple(_number(name, part, kind) for part in parts)
    return _number(name, value, kind)


def _number(name: str, value: Any, kind: Kind) -> int | float:
    if isinstance(value, bool):
        raise _wrong(name, value, kind)
    try:
        number = kind.base(value)
        if not isinstance(value, str) and number != value and not math.isnan(number):
            raise _wrong(name, value, kind)  # 2.7 is no whole number
        within = number in (kind.range or Range())
    except (TypeError, ValueError, OverflowError) as error:
        raise _wrong(name, value, kind) from error
    if not within:
        raise _wrong(name, value, kind)
    return number


def _wrong(name: str, value: Any, kind: Kind) -> ValueError:
    return UserError(f"{name} is {kind}, not {value!r}")


_DESCENT = {"steps": kind_of(Iterations)}  # settings of a shared name that mean another thing


def configure(
    config: type,
    prefers: Mapping[str, Any],
    strength: float | None,
    given: Mapping[str, Any],
    what: str = "setting of this method",
) -> tuple[Any, dict[str, str]]:
    """A method's Config: its own defaults, then what the backbone prefers, then the user's. Returns it and each
    value's origin.

    what: how a message calls one of them. Raises ValueError for an unknown setting (with the nearest names) and for a
    value that does not fit.
    """
    from .names import choose

    known = kinds(config)
    values = {n: v for n, v in prefers.items() if n in known and known[n] != _DESCENT.get(n)}
    origin = dict.fromkeys(known, "the method's default")
    origin |= dict.fromkeys(values, "suits this backbone")
    given = dict(given) if strength is None else {**given, "strength": strength}
    for key, value in given.items():
        name = choose(str(key), known, what)
        values[name], origin[name] = value, "given"
    return config(**{k: parsed(k, v, known[k]) for k, v in values.items()}), origin


def described(config: type) -> dict[str, dict[str, str]]:
    """What a list or a page shows of each setting: its default, what it takes, and what it is."""
    rows = {}
    for f in dataclasses.fields(config):
        takes = kind_of(f.type)
        rows[f.name] = {
            "default": str(f.default).lower()
            if f.default in (None, True, False)
            else str(f.default),
            "takes": str(takes),
            "about": f.metadata.get("help", ""),
        }
    return rows
