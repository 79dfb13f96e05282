"""What each class of a model's part takes where its configuration leaves a value out, read from the libraries.

`python -m tests.configurations` writes the table that the package carries.
"""

import dataclasses
import inspect
import json
from pathlib import Path

import holdfast

FILE = Path(holdfast.__file__).parent / "models" / "defaults.json"
DIFFUSERS = (
    "AutoencoderKL",
    "AutoencoderKLTemporalDecoder",
    "AutoencoderKLWan",
    "UNet2DConditionModel",
    "UNet3DConditionModel",
    "UNetSpatioTemporalConditionModel",
    "WanTransformer3DModel",
    "DDIMScheduler",
    "DDPMScheduler",
    "DEISMultistepScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "EulerAncestralDiscreteScheduler",
    "EulerDiscreteScheduler",
    "FlowMatchEulerDiscreteScheduler",
    "HeunDiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "LCMScheduler",
    "PNDMScheduler",
    "TCDScheduler",
    "UniPCMultistepScheduler",
)
TRANSFORMERS = {
    "CLIPTextModel": "CLIPTextConfig",
    "CLIPVisionModelWithProjection": "CLIPVisionConfig",
    "UMT5EncoderModel": "UMT5Config",
}


def tables() -> dict[str, dict]:
    """The defaults by class, as JSON holds them."""
    import diffusers
    import transformers

    found = {name: of_signature(getattr(diffusers, name)) for name in DIFFUSERS}
    for name, config in TRANSFORMERS.items():
        found[name] = of_fields(getattr(transformers, config), transformers.PreTrainedConfig)
    return json.loads(json.dumps(found))


def of_signature(cls: type) -> dict:
    parameters = inspect.signature(cls.__init__).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not inspect.Parameter.empty}


def of_fields(cls: type, base: type) -> dict:
    """Plain numbers of a configuration's own fields: what else it holds depends on the library's version."""
    inherited = {f.name for f in dataclasses.fields(base)}
    own = [f for f in dataclasses.fields(cls) if f.name not in inherited]
    return {f.name: f.default for f in own if isinstance(f.default, (int, float, str))}


def text() -> str:
    """One line a class."""
    lines = (f"{json.dumps(name)}: {json.dumps(values)}" for name, values in tables().items())
    return "{\n" + ",\n".join(lines) + "\n}\n"


if __name__ == "__main__":
    FILE.write_text(text())
