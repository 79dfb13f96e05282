"""Names of release 0.1 that are still read, with a notice. This module goes with release 0.3."""

from collections.abc import Container, Mapping
from typing import Any

from .errors import UserError
from .notices import warn_user

# Fields of an EditTask: in `edit()`, the rows of a batch, manifests.
FIELDS = {"source": "source_prompt", "target": "target_prompt", "guide": "image_model"}
# Cases of a benchmark.
CASE_FIELDS = {
    "source": "source_prompt",
    "target": "target_prompt",
    "local": "object_prompt",
}
# Settings of methods: the present name is the one of these that the method has.
SETTINGS = {
    "cut": ("mask_velocity",),
    "fused": ("fused_layers",),
    "grid": ("schedule",),
    "high": ("timestep_max", "threshold_last"),
    "interval": ("attend_first_segment",),
    "keep": ("preservation",),
    "low": ("timestep_min", "threshold_first"),
    "mask": ("smoothing_mask",),
    "memory": ("map_memory",),
    "rate": ("learning_rate",),
    "scale": ("gradient_scale",),
    "smooth": ("pool_size",),
    "source_prompt": ("invert_with_source",),
    "stride": ("key_frame_stride",),
    "targets": ("tuned_layers",),
    "tune": ("tuning_steps",),
    "window": ("smoothing",),
    "worse": ("n_worst",),
}
# Values of settings, by the setting's present name.
SETTING_VALUES = {"schedule": {"own": "native"}, "tau_by": {"level": "sigma"}}
# Flags of the command line, by command.
PROMPT_FLAGS = {"--source": "--source-prompt", "--target": "--target-prompt"}
EDIT_FLAGS = PROMPT_FLAGS | {"--guide": "--image-model"}
FLAGS = {
    "edit": EDIT_FLAGS,
    "sheet": EDIT_FLAGS,
    "mask": PROMPT_FLAGS | {"--exact": "--no-refine", "--with": "--tracker"},
    "metrics": PROMPT_FLAGS | {"--local": "--object-prompt"},
    "demo": {"--set-of": "--scenes"},
    "ui": {"--most-frames": "--max-frames", "--most-mb": "--max-upload-mb"},
}


def describe_rename(old: str, new: str) -> str:
    return f"{old} is now called {new}; the old name works until release 0.3"


def rename_fields(values: Mapping[str, Any], notify: bool = True) -> dict[str, Any]:
    """Return the fields of a task under their present names. notify: warn the user of each old one.

    Raise UserError where a field has both its names.
    """
    return _rename(values, FIELDS, notify)


def rename_case(values: Mapping[str, Any], notify: bool = True) -> dict[str, Any]:
    """Return the fields of a benchmark's case under their present names, as `rename_fields` does."""
    return _rename(values, CASE_FIELDS, notify)


def present_setting(name: str, known: Container[str]) -> str:
    """Return what a method calls a setting today. known: its settings. Return any other name unchanged."""
    candidates = [name, *SETTINGS.get(name, ())]
    return next((candidate for candidate in candidates if candidate in known), name)


def rename_settings(
    values: Mapping[str, Any], choices: Mapping[str, Container[str]]
) -> dict[str, Any]:
    """Return a method's settings with present names and values. choices: those of each setting that the method has.

    values: of each setting its value, or the list of values that a benchmark compares.
    """
    table = {name: present_setting(name, choices) for name in values}
    renamed = _rename(values, table, notify=True)
    return {name: _rename_value(name, value, choices) for name, value in renamed.items()}


def _rename_value(name: str, value: Any, choices: Mapping[str, Container[str]]) -> Any:
    if isinstance(value, list):
        return [_rename_value(name, item, choices) for item in value]
    table = SETTING_VALUES.get(name, {})
    new = table.get(value) if isinstance(value, str) else None
    if new is None or new not in choices.get(name, ()):
        return value
    warn_user(describe_rename(f"{name}={value}", f"{name}={new}"))
    return new


def rename_flags(command: str, arguments: list[str]) -> tuple[list[str], list[str]]:
    """Return a command's arguments with present flags, and a notice for each old one."""
    table, renamed, notices = FLAGS.get(command, {}), [], []
    for n, argument in enumerate(arguments):
        if argument == "--":
            return [*renamed, *arguments[n:]], notices
        flag, equals, value = argument.partition("=")
        if flag in table:
            notices.append(describe_rename(flag, table[flag]))
        renamed.append(table.get(flag, flag) + equals + value)
    return renamed, notices


def _rename(values: Mapping[str, Any], table: Mapping[str, str], notify: bool) -> dict[str, Any]:
    renamed = {}
    for name, value in values.items():
        new = table.get(name, name)
        if new != name and new in values:
            raise UserError(f"{name} and {new} are the same field", f"leave out {name}")
        if new != name and notify:
            warn_user(describe_rename(name, new))
        renamed[new] = value
    return renamed
