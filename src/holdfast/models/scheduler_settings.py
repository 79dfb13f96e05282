"""What a scheduler's configuration says of its model, and what it asks of a sampler that is not used here.

A value that the file omits is the default of its class. A name that its class does not take has no meaning; published
files hold some of these.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from ..base.errors import UserError
from ..base.notices import warn_user
from .checkpoint import class_defaults

# Settings of a sampler that change its result when they are on. clip_sample is not one of them: it is DDIM's default
# for pictures, and diffusers' own pipelines over latents turn it off.
SPACING_SETTINGS = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas")
SPACING_SETTINGS += ("use_lu_lambdas",)
SAMPLER_SETTINGS = (*SPACING_SETTINGS, "thresholding")
FLOW_SETTINGS = ("use_dynamic_shifting", "shift_terminal", "invert_sigmas")
REMEDY = "use weights of this model's family, or another backbone"


def fill_defaults(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration with its class's defaults, without None and without names that the class does not take."""
    defaults = _scheduler_defaults(str(config.get("_class_name", "")))
    if defaults:
        values = {name: config.get(name, value) for name, value in defaults.items()}
        config = values | {"_class_name": config["_class_name"]}
    return {name: value for name, value in config.items() if value is not None}


def _scheduler_defaults(name: str) -> dict[str, Any]:
    """Return what a scheduler class of diffusers takes, with its defaults; empty for an unknown class."""
    defaults = class_defaults(name)
    return defaults if "num_train_timesteps" in defaults else {}


def check_betas(config: Mapping[str, Any]) -> None:
    """Raise UserError if a complete configuration does not belong to a model of betas. Note what is not applied."""
    if "_class_name" in config and _scheduler_defaults(config["_class_name"]):
        _require("beta_schedule" in config, config, "which holds no betas")
        timesteps = config.get("timestep_type", "discrete")
        _require(timesteps == "discrete", config, f"whose timesteps are {timesteps}")
    _require(not config.get("use_flow_sigmas"), config, "of a rectified flow")
    note_unused(config, (*SAMPLER_SETTINGS, "sigma_min", "sigma_max"))


def check_edm(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the complete configuration of an EDM model that predicts v. Raise UserError for another model.

    Note what is not applied.
    """
    known = fill_defaults(config)
    if known:
        prediction = known.get("prediction_type", "v_prediction")
        _require(prediction == "v_prediction", known, f"whose prediction is {prediction}")
        default = "discrete" if "_class_name" in known else "continuous"
        timesteps = known.get("timestep_type", default)
        _require(timesteps == "continuous", known, f"whose timesteps are {timesteps}")
        note_unused(known, [name for name in SAMPLER_SETTINGS if name != "use_karras_sigmas"])
        if known.get("use_karras_sigmas") is False:
            warn_user(
                "the weights' scheduler has use_karras_sigmas=False; edits use Karras' sigmas anyway"
            )
    return known


def read_flow_shift(config: Mapping[str, Any]) -> float:
    """Return the shift of a rectified flow; 3 if the configuration has none. Raise UserError for another model.

    Note what is not applied.
    """
    known = fill_defaults(config)
    prediction = known.get("prediction_type", "flow_prediction")
    _require(prediction == "flow_prediction", known, f"whose prediction is {prediction}")
    if "_class_name" in known and _scheduler_defaults(known["_class_name"]):
        is_flow = "shift" in known or known.get("use_flow_sigmas")
        _require(bool(is_flow), known, "which does not belong to a rectified flow")
    count = known.get("num_train_timesteps", 1000)
    _require(count == 1000, known, f"of {count} timesteps instead of 1000")
    note_unused(known, (*SAMPLER_SETTINGS, *FLOW_SETTINGS))
    return known.get("flow_shift") or known.get("shift") or 3.0


def note_unused(config: Mapping[str, Any], names: Sequence[str]) -> None:
    """Note the settings that are on and that edits do not apply."""
    on = [f"{name}={config[name]}" for name in names if config.get(name) not in (None, False)]
    if on:
        warn_user(f"the weights' scheduler has {', '.join(on)}, which edits do not apply")


def _require(fits: bool, config: Mapping[str, Any], description: str) -> None:
    if not fits:
        name = config.get("_class_name", "one")
        raise UserError(f"the scheduler of the weights is {name}, {description}", REMEDY)
