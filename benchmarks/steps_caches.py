"""Step caches of diffusers around an edit, for benchmarks/steps.py.

All branches of a step are one packed row of tokens, so that a cache takes one decision for source and targets. The
first 4 and the last 2 evaluated steps are never skipped.
"""

import ast
import contextlib
import io
from collections.abc import Callable, Sequence

from torch import Tensor

from holdfast.models.base import Backbone, BackboneWrapper
from holdfast.pipeline import in_memory
from holdfast.pipeline.events import EditFinished
from holdfast.pipeline.loop import LoopJob
from holdfast.sampling.field import Evaluation

FIRST, LAST = 4, 2  # steps that are never skipped


class CachedBackbone(BackboneWrapper):
    """A Wan backbone with a step cache. Count what its calls cost, in evaluations of the whole latent.

    kind: fbc (FirstBlockCache) or mag (MagCache). steps: how many steps the edit evaluates.
    """

    def __init__(self, inner: Backbone, kind: str, threshold: float, steps: int):
        super().__init__(inner)
        self.kind, self.threshold, self.steps = kind, threshold, steps
        self.step, self.skipped, self.dense = 0, 0, 0.0
        self.transformer = inner.part("transformer")

    def velocities(
        self, sigma: float, evaluations: Sequence[Evaluation], frames: Sequence[int] | None = None
    ) -> list[Tensor]:
        self._switch()
        blocks, computed = self.transformer.blocks, []
        handle = blocks[2].attn1.register_forward_hook(lambda *_: computed.append(True))
        with handle, self.transformer.cache_context(" ".join(e.branch for e in evaluations)):
            found = self.inner.velocities(sigma, evaluations, frames)
        cost = sum(self.inner.costs(evaluations))
        if not computed:
            self.skipped += 1
            cost *= 1 / len(blocks) if self.kind == "fbc" else 0
        self.dense += cost
        self.step += 1
        return found

    def _switch(self) -> None:
        """Enable the cache when the first steps are over, and disable it before the last ones."""
        # MagCache counts the steps from the first one on, and keeps off the first ones by itself.
        begin = FIRST - 1 if self.kind == "fbc" else 0
        if self.step == begin:
            self.transformer.enable_cache(self._config())
        if self.step == self.steps - LAST:
            self.transformer.disable_cache()

    def _config(self):
        from diffusers import FirstBlockCacheConfig
        from diffusers.hooks import MagCacheConfig

        if self.kind == "fbc":
            return FirstBlockCacheConfig(self.threshold)
        if self.kind == "calibration":
            return MagCacheConfig(calibrate=True, num_inference_steps=self.steps - LAST)
        return MagCacheConfig(
            self.threshold,
            retention_ratio=FIRST / self.steps,
            num_inference_steps=self.steps,
            mag_ratios=RATIOS[self.steps],
        )

    def close(self) -> None:
        """Leave the network as it was."""
        if self.transformer.is_cache_enabled:
            self.transformer.disable_cache()


RATIOS: dict[int, list[float]] = {}  # by evaluated steps, from `calibrate`


def read_ratios(backbone: CachedBackbone, run: Callable[[], object]) -> None:
    """Run an edit that skips nothing, and keep the ratios that MagCache prints at its end."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        run()
    line = next(text for text in printed.getvalue().splitlines() if text.startswith("[1"))
    ratios = ast.literal_eval(line)
    RATIOS[backbone.steps] = [*ratios, *ratios[-1:] * LAST]


def run_cached(job: LoopJob, backbone: Backbone, name: str) -> tuple[EditFinished, float]:
    """Run an edit with a cache, "fbc 0.1". Return its end, and its cost in evaluations of the whole latent."""
    kind, threshold = name.split()
    config = job.plan.config
    steps = round(config.strength * config.steps)
    if kind == "mag" and steps not in RATIOS:
        calibrated = CachedBackbone(backbone, "calibration", 0, steps)
        read_ratios(calibrated, lambda: in_memory.finish_loop(job, calibrated))
    cached = CachedBackbone(backbone, kind, float(threshold), steps)
    try:
        finished = in_memory.finish_loop(job, cached)
    finally:
        cached.close()
    return finished, cached.dense
