"""What a scheduler's configuration says of its model, and what it asks of a sampler that is not used here.

A value that the file leaves out is the default of its class, and a name that its class does not take means nothing:
published files carry some of both.
"""

from collections.abc import Mapping
from typing import Any

from ..base.errors import UserError
from ..base.notices import note
from . import weights

# Settings of a sampler that change its result, where they are on. clip_sample is none of them: it is DDIM's default for
# pictures, and diffusers' own pipelines over latents switch it off.
SPACED = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "use_lu_lambdas")
SAMPLER = (*SPACED, "thresholding")
SHIFTED = ("use_dynamic_shifting", "shift_terminal", "invert_sigmas")
OTHER = "use weights of this model's family, or another backbone"


def complete(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration with its class's defaults, without what is None or has no meaning for the class."""
    defaults = _defaults(str(config.get("_class_name", "")))
    if defaults:
        config = {name: config.get(name, value) for name, value in defaults.items()} | {
            "_class_name": config["_class_name"]
        }
    return {name: value for name, value in config.items() if value is not None}


def _defaults(class_name: str) -> dict[str, Any]:
    """Return what a scheduler class of diffusers takes, with its defaults; nothing for an unknown class."""
    found = weights.defaults(class_name)
    return found if "num_train_timesteps" in found else {}


def check_betas(config: Mapping[str, Any]) -> None:
    """Refuse a completed configuration that is not of a model of betas; announce what is not applied."""
    if "_class_name" in config and _defaults(config["_class_name"]):
        _require(config, "beta_schedule" in config, "which holds no betas")
        timesteps = config.get("timestep_type", "discrete")
        _require(config, timesteps == "discrete", f"whose timesteps are {timesteps}")
    _require(config, not config.get("use_flow_sigmas"), "of a rectified flow")
    announce_unused(config, (*SAMPLER, "sigma_min", "sigma_max"))


def check_edm(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the completed configuration of an EDM model that predicts v. Refuse another; announce what is not
    applied."""
    known = complete(config)
    if known:
        prediction = known.get("prediction_type", "v_prediction")
        _require(known, prediction == "v_prediction", f"whose prediction is {prediction}")
        timesteps = known.get(
            "timestep_type", "discrete" if "_class_name" in known else "continuous"
        )
        _require(known, timesteps == "continuous", f"whose timesteps are {timesteps}")
        others = [name for name in SAMPLER if name != "use_karras_sigmas"]
        announce_unused(known, others)
        if known.get("use_karras_sigmas") is False:
            note("the weights' scheduler has use_karras_sigmas=False; levels are Karras' here")
    return known


def flow_shift(config: Mapping[str, Any]) -> float:
    """Return the shift of a rectified flow, 3 where nothing is said. Refuse another kind of model; announce what is
    not applied."""
    known = complete(config)
    prediction = known.get("prediction_type", "flow_prediction")
    _require(known, prediction == "flow_prediction", f"whose prediction is {prediction}")
    if "_class_name" in known and _defaults(known["_class_name"]):
        flows = "shift" in known or known.get("use_flow_sigmas")
        _require(known, bool(flows), "which is not of a rectified flow")
    count = known.get("num_train_timesteps", 1000)
    _require(known, count == 1000, f"of {count} timesteps in place of 1000")
    announce_unused(known, (*SAMPLER, *SHIFTED))
    return known.get("flow_shift") or known.get("shift") or 3.0


def announce_unused(config: Mapping[str, Any], names: tuple[str, ...] | list[str]) -> None:
    """Tell the user of settings that are on and that the edit does not apply."""
    on = [f"{name}={config[name]}" for name in names if config.get(name) not in (None, False)]
    if on:
        note(f"the weights' scheduler has {', '.join(on)}, which edits do not apply")


def _require(config: Mapping[str, Any], fits: bool, what: str) -> None:
    if not fits:
        name = config.get("_class_name", "one")
        raise UserError(f"the scheduler of the weights is {name}, {what}", OTHER)
