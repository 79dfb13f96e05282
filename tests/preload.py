"""What the server of `processes.py` imports before it forks: all that a command may need.

Nothing is computed here: threads would not survive a fork.
"""

import gc
import importlib

import diffusers
import transformers

from holdfast.base.names import list_modules

PARTS = "AutoencoderKLWan WanTransformer3DModel AutoencoderKL UNet3DConditionModel"
PARTS += " UNet2DConditionModel UNetSpatioTemporalConditionModel"
ENCODERS = "UMT5EncoderModel CLIPTextModel CLIPVisionModelWithProjection AutoTokenizer"

for package in ("methods", "metrics", "bench.datasets", "cli", "pipeline", "shapeworld"):
    for name in list_modules(f"holdfast.{package}"):
        importlib.import_module(f"holdfast.{package}.{name}")
for name in ("bench.runner", "bench.report", "bench.study", "metrics.compare"):
    importlib.import_module(f"holdfast.{name}")
for family in ("wan", "svd", "unet"):
    importlib.import_module(f"holdfast.models.{family}.adapter")
for library, classes in ((diffusers, PARTS), (transformers, ENCODERS)):
    for name in classes.split():
        getattr(library, name)
gc.collect()
gc.freeze()  # a collection in a forked process would copy all of this memory
