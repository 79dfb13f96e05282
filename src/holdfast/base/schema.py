"""Settings: typed fields with limits, choices and a description each.

A class of settings is a frozen pydantic dataclass:

    @settings_class
    class Config:
        steps: Steps = Field(default=50, description="T: number of steps")
        contrast: Literal["signed", "abs"] = Field(default="signed", description="how a difference is read")

The same check serves the command line, JSON and Python. The command line, the page, `edit()`, lists and error messages
are all made from `list_settings`.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar, dataclass_transform, get_type_hints

from annotated_types import BaseMetadata, Ge, GroupedMetadata, Le
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as pydantic_dataclass
from pydantic.fields import FieldInfo

from . import old_names
from .errors import MissingArgumentError, UnknownArgumentError, UserError
from .names import choose, suggest

T = TypeVar("T")
MAX_SHOWN = 200  # characters of a wrong value that a message repeats
REQUIRED = dataclasses.MISSING  # the default of a setting that must be given
# strict: texts are read by `read_text` alone, so that True is not read as a number, nor 3 as a text.
CONFIG = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


@dataclass(frozen=True)
class Range(GroupedMetadata):
    """Limits of a number, both allowed. None: no limit on that side."""

    low: float | None = None
    high: float | None = None

    def __iter__(self) -> Iterator[BaseMetadata]:
        if self.low is not None:
            yield Ge(self.low)
        if self.high is not None:
            yield Le(self.high)

    def __contains__(self, value: float) -> bool:
        above = self.low is None or value >= self.low
        below = self.high is None or value <= self.high
        return above and below and math.isfinite(value)

    def __str__(self) -> str:
        if self.low is not None and self.high is not None:
            return f"between {self.low:g} and {self.high:g}"
        if self.low is not None:
            return f"of {self.low:g} or more"
        return "" if self.high is None else f"of {self.high:g} or less"


Steps = Annotated[int, Range(1, 1000)]
# Of a method that draws sigmas at random: the steps that a model recommends are not meant for it.
Iterations = Annotated[int, Range(1, 10000), Field(json_schema_extra={"recommended": False})]
Count = Annotated[int, Range(0, 1000)]
Share = Annotated[float, Range(0, 1)]
Number = float
# Of weights that are fitted to a clip: the rate that a model recommends is that of score distillation.
TuningRate = Annotated[float, Field(json_schema_extra={"recommended": False})]
# Of the schedule of sigmas. None: the model's own.
Shift = Annotated[float, Range(0.01, 1000)] | None
# A number, or two: from the first frame to the last, evenly spaced ("1:3" as text).
Guidance = float | tuple[float, float]
# Two numbers, or the second one alone, from 0 on.
Interval = Guidance | None
# native: the one that the model's authors use
ScheduleName = Literal["native", "wan", "euler", "ddim", "karras"]
SolverName = Literal["euler", "unipc"]  # how the difference of velocities is integrated
Timesteps = Literal["whole", "exact"]  # whether the network gets timesteps rounded down
# Where the target is evaluated: where the mask allows a change, or everywhere.
RegionSetting = Literal["mask", "off"]

DEVICE_NAMES = "auto, cpu, cuda, cuda:N, xpu, xpu:N or mps"
DEVICE_PATTERN = r"^(auto|cpu|mps|(cuda|xpu)(:[0-9]{1,3})?)$"
DTYPE_NAMES = "auto, bfloat16, float16 or float32"
# Where to compute, as torch names it; auto: the first CUDA device, or the CPU.
Device = Annotated[str, Field(pattern=DEVICE_PATTERN, json_schema_extra={"noun": DEVICE_NAMES})]
Dtype = Literal["auto", "bfloat16", "float16", "float32"]

Kind = Literal["boolean", "integer", "number", "string", "array", "object"]  # JSON Schema's names
PYTHON_TYPES: dict[Kind, type] = {
    "boolean": bool,
    "integer": int,
    "number": float,
    "string": str,
    "array": tuple,
    "object": dict,
}


@dataclass(frozen=True)
class Setting:
    """One field of a class of settings, read from its JSON Schema."""

    name: str
    description: str
    default: Any  # REQUIRED where it must be given
    kind: Kind
    choices: tuple[str, ...] = ()
    range: Range = Range()
    is_optional: bool = False  # None is allowed
    is_pair: bool = False  # two numbers are allowed instead of one
    may_be_list: bool = False  # a list is allowed instead of a text
    noun: str = ""  # what it takes, where its type does not say it
    follows_model: bool = True  # a model's recommended value of this name is meant for it

    @property
    def takes(self) -> str:
        """Describe the values that the setting takes."""
        pair = ", or two of them with a colon" if self.is_pair else ""
        return _noun(self) + pair + (", or none" if self.is_optional else "")


def _noun(setting: Setting) -> str:
    if setting.choices:
        *first, last = setting.choices
        return f"{', '.join(first)} or {last}" if first else last
    if setting.noun:
        return setting.noun
    nouns: dict[Kind, str] = {
        "boolean": "true or false",
        "integer": "a whole number",
        "number": "a number",
        "string": "text",
        "array": "a list of texts",
        "object": "a table",
    }
    return f"{nouns[setting.kind]} {setting.range}".strip()


@dataclass_transform(frozen_default=True, field_specifiers=(Field,))
def settings_class(cls: type[T]) -> type[T]:
    """Make a class a frozen dataclass of settings. Its constructor reads values that were typed as text.

    The constructor raises UserError for a value that a setting does not take, UnknownArgumentError for an unknown name,
    MissingArgumentError for one that is missing. Old names are read by a class's static method `rename_arguments`.
    """
    made: Any = pydantic_dataclass(cls, frozen=True, config=CONFIG)
    validate, rename = made.__init__, getattr(cls, "rename_arguments", dict)

    @functools.wraps(validate)
    def __init__(self, *arguments: Any, **values: Any) -> None:
        settings = list_settings(made)
        values = rename(values)
        typed = values | _by_name(made, arguments, values)
        known = settings.keys() & typed.keys()
        try:
            validate(self, **typed | {n: read_text(settings[n], typed[n]) for n in known})
        except ValidationError as error:
            raise _user_error(made, error, typed) from None

    made.__init__ = __init__
    return made


def _by_name(cls: type, arguments: tuple, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return positional arguments by their names. Raise TypeError as any call does."""
    names = list(list_settings(cls))
    if len(arguments) > len(names):
        raise TypeError(f"{cls.__name__} takes at most {len(names)} arguments")
    named = dict(zip(names, arguments, strict=False))
    twice = named.keys() & values.keys()
    if twice:
        raise TypeError(f"{cls.__name__} got several values for {', '.join(sorted(twice))}")
    return named


def _user_error(cls: type, error: ValidationError, typed: Mapping[str, Any]) -> Exception:
    """Return the first problem that pydantic found in our words; pydantic's own error if the user did not cause it."""
    settings, first = list_settings(cls), error.errors(include_url=False)[0]
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, UserError):  # of __post_init__
        return cause
    name = str(first["loc"][0]) if first["loc"] else ""
    if first["type"] == "unexpected_keyword_argument":
        return UnknownArgumentError(f"unknown field {name!r}", suggest(name, settings))
    if first["type"] == "missing":
        return MissingArgumentError(f"{name} is missing", f"add it ({settings[name].takes})")
    return wrong_value(settings[name], typed[name]) if name in settings else error


def wrong_value(setting: Setting, value: Any) -> UserError:
    """Return the error for a value that a setting does not take."""
    return UserError(f"{setting.name} is {_describe(value)}", f"use {setting.takes}")


def _describe(value: Any) -> str:
    """Return a value as Python writes it; a long one is cut."""
    try:
        text = repr(value)
    except ValueError:  # an integer with thousands of digits
        text = f"a number of type {type(value).__name__} that is too large"
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."


@functools.cache
def list_settings(cls: type) -> dict[str, Setting]:
    """List the settings of a class by name, in its order."""
    properties = json_schema(cls)["properties"]
    return {f.name: _read_property(f, properties[f.name]) for f in dataclasses.fields(cls)}


def json_schema(cls: type) -> dict[str, Any]:
    """Return the JSON Schema of a class of settings."""
    return TypeAdapter(cls).json_schema()


def _read_property(f: dataclasses.Field, schema: Mapping[str, Any]) -> Setting:
    options = schema.get("anyOf", [schema])
    kinds = [option["type"] for option in options]
    plain = next(option for option in options if option["type"] != "null")
    return Setting(
        name=f.name,
        description=schema.get("description", ""),
        default=_default(f),
        kind=plain["type"],
        choices=tuple(plain.get("enum", ())),
        range=Range(plain.get("minimum"), plain.get("maximum")),
        is_optional="null" in kinds,
        is_pair={"number", "array"} <= set(kinds),
        may_be_list={"string", "array"} <= set(kinds),
        noun=plain.get("noun", ""),
        follows_model=plain.get("recommended", True),
    )


def _default(f: dataclasses.Field) -> Any:
    if f.default_factory is not dataclasses.MISSING:
        return f.default_factory()
    if not isinstance(f.default, FieldInfo):
        return f.default
    return REQUIRED if f.default.is_required() else f.default.get_default(call_default_factory=True)


def plain_type(setting: Setting) -> Any:
    """Return a setting's type without limits, as other libraries take it."""
    plain: Any = Literal[setting.choices] if setting.choices else PYTHON_TYPES[setting.kind]
    return plain | None if setting.is_optional else plain


def read_text(setting: Setting, value: Any) -> Any:
    """Return a value that was typed as text in the setting's type ("none", "true", "1:3"). Return what it does not
    understand unchanged: the class refuses it.
    """
    if setting.is_optional and isinstance(value, str) and value.lower() == "none":
        return None
    if setting.choices or value is None:
        return value
    if setting.kind == "boolean":
        return _TRUTHS.get(str(value).lower(), value)
    if setting.kind in ("integer", "number"):
        return _read_numbers(setting, value)
    if setting.kind == "array":
        return (value,) if isinstance(value, str) else tuple(value) if _is_list(value) else value
    return value


_TRUTHS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def _is_list(value: Any) -> bool:
    return isinstance(value, (list, tuple))


def _read_numbers(setting: Setting, value: Any) -> Any:
    parts = value.split(":") if isinstance(value, str) else value
    if setting.is_pair and _is_list(parts) and len(parts) == 2:
        return tuple(_read_number(float, part) for part in parts)
    return _read_number(PYTHON_TYPES[setting.kind], value)


def read_value(cls: type, name: str, value: Any) -> Any:
    """Return a value as a class of settings takes it for one of its names. Raise UserError where it does not."""
    setting, annotation = list_settings(cls)[name], get_type_hints(cls, include_extras=True)[name]
    try:
        adapter = TypeAdapter(annotation, config=CONFIG)
        return adapter.validate_python(read_text(setting, value))
    except ValidationError:
        raise wrong_value(setting, value) from None


def _read_number(cls: Callable[[Any], Any], value: Any) -> Any:
    """Return a text, or a number of another type (NumPy's) with the same value, as a number of this type."""
    if isinstance(value, bool):
        return value
    try:
        number = cls(value)
    except (TypeError, ValueError, OverflowError):
        return value
    is_same = isinstance(value, str) or number == value or math.isnan(number)
    return number if is_same else value


def configure(
    config: type,
    recommended: Mapping[str, Any],
    strength: float | None,
    given: Mapping[str, Any],
    what: str = "setting of this method",
) -> tuple[Any, dict[str, str]]:
    """Make a method's Config from its defaults, then what the model recommends, then the user's values.

    what: what a message calls one of the settings. Return the Config, and where each value comes from. Raise UserError
    for an unknown setting, with the nearest names, and for a value that does not fit.
    """
    settings = list_settings(config)
    values = {n: v for n, v in recommended.items() if n in settings and settings[n].follows_model}
    origin = dict.fromkeys(settings, "the method's default")
    origin |= dict.fromkeys(values, "suits this backbone")
    given = old_names.rename_settings(given, {n: s.choices for n, s in settings.items()})
    given |= {} if strength is None else {"strength": strength}
    for key, value in given.items():
        name = choose(str(key), settings, what)
        if origin[name] == "given":
            raise UserError(f"{name} is given twice", f"leave out {key}")
        values[name], origin[name] = value, "given"
    return config(**values), origin


def describe_settings(config: type) -> dict[str, dict[str, str]]:
    """Describe each setting for a list: its default, what it takes, and what it is."""
    return {
        name: {
            "default": _default_text(setting.default),
            "takes": setting.takes,
            "about": setting.description,
        }
        for name, setting in list_settings(config).items()
    }


def _default_text(value: Any) -> str:
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)
