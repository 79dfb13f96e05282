"""What each method does when nothing is said: the values of its authors, frozen, and that they reach the field."""

import pytest
import torch

from holdfast import methods
from holdfast.base.schema import configure
from holdfast.models.attention.hooks import LayerHooks
from holdfast.sampling.distillation import SCHEDULE_STEPS, DistillationConfig
from holdfast.sampling.field import EditInputs, begin

from .analytic import WITHOUT_LAYERS, Gaussian, about, as_field

# steps, strength, schedule, timesteps: of each method's authors, as docs/ says.
PUBLISHED = {
    "anyv2v": (50, 0.98, "native", "exact"),
    "assd": (200, 1.0, "native", "whole"),
    "controlvideo": (50, 1.0, "ddim", "exact"),
    "dds": (200, 1.0, "native", "whole"),
    "dfvedit": (50, 0.98, "native", "exact"),
    "ebsynth": (6, 1.0, None, None),  # it has no noise schedule
    "fatezero": (50, 1.0, "ddim", "exact"),
    "flatten": (50, 1.0, "ddim", "exact"),
    "flowalign": (33, 1.0, "native", "exact"),
    "flowanchor": (25, 0.92, "native", "whole"),
    "flowdirector": (50, 0.8, "native", "whole"),
    "flowdistill": (200, 1.0, "native", "whole"),
    "flowedit": (50, 0.66, "native", "exact"),
    "holdfast": (15, 0.66, "native", "exact"),
    "i2vedit": (25, 1.0, "native", "exact"),
    "motiondirector": (30, 1.0, "ddim", "exact"),
    "rerender": (20, 0.95, "ddim", "exact"),
    "p2p": (50, 1.0, "ddim", "exact"),
    "rfsolver": (25, 1.0, "native", "exact"),
    "sdedit": (50, 0.7, "native", "whole"),
    "sds": (200, 1.0, "native", "whole"),
    "spacetime": (50, 1.0, "ddim", "exact"),
    "tokenflow": (50, 1.0, "ddim", "exact"),
    "tuneavideo": (50, 1.0, "ddim", "exact"),
    "uniedit": (25, 0.8, "euler", "exact"),
    "videograin": (50, 1.0, "ddim", "exact"),
    "vmc": (75, 1.0, "ddim", "exact"),
    "wanedit": (50, 0.82, "native", "whole"),
}
SOURCE = torch.randn(1, 2, 3, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
GIVEN = EditInputs(SOURCE, about(0 * SOURCE), about(0 * SOURCE + 1))
pytestmark = [
    pytest.mark.filterwarnings("ignore:without a mask the target's attention"),
    pytest.mark.filterwarnings("ignore:no word drives the edit"),
]


@pytest.mark.parametrize("name", methods.names())
def test_the_published_values(name):
    cfg = methods.load(name).Config()
    schedule, timesteps = (getattr(cfg, name, None) for name in ("schedule", "timesteps"))
    assert (cfg.steps, cfg.strength, schedule, timesteps) == PUBLISHED[name]


class Asked(Gaussian):
    attention_hooks = LayerHooks(lambda hooks: lambda: None, [])

    def sigmas(self, steps, shift=None, schedule="native", shape=None):
        self.asked = (steps, shift, schedule, tuple(shape))
        return super().sigmas(steps, shift)


# This field has no layers. Other methods have settings with which they read none.
ALWAYS_READ_LAYERS = {"flatten", "tokenflow", "videograin"}
ASKING = [
    name
    for name in methods.names()
    if name not in ALWAYS_READ_LAYERS and "pixels" not in methods.load(name).METHOD.requires
]


@pytest.mark.parametrize("name", ASKING)
def test_a_method_asks_for_the_levels_that_its_settings_name(name):
    """Steps, shift, schedule and the latent's shape all reach the field."""
    field, module = Asked(), methods.load(name)
    known = {"steps": 3, "strength": 0.7, "shift": 2.5, "schedule": "wan", "inject": 0, "n_avg": 1}
    # this field has no layers, and there is no picture
    known |= {"fusion": 0.0, "flow": 0.0, "tuning_steps": 0, "sarp": 0.0, "matching": False}
    known |= WITHOUT_LAYERS
    known |= {"attention": "own", "smoother_steps": 0} if name == "controlvideo" else {}
    resampled = {"attention": "own", "interval": 1, "warp_end": 0.0, "fusion_strength": 0.0}
    known |= resampled if name == "rerender" else {}
    known |= {"motion": "none"} if name == "i2vedit" else {}
    known |= {"inversion_steps": 3}
    cfg = module.Config(**{k: v for k, v in known.items() if hasattr(module.Config, k)})
    for _ in module.edit(as_field(field), GIVEN, cfg):
        pass
    walks = not issubclass(
        module.Config, DistillationConfig
    )  # down the levels: a descent draws from a fine grid
    assert field.asked == (3 if walks else SCHEDULE_STEPS, 2.5, "wan", (3, 4, 5))


WALKED = [(50, 0.66, 17), (25, 0.92, 2), (4, 0.3, 3)]


@pytest.mark.parametrize(("steps", "strength", "first"), WALKED)
def test_strength_is_the_rounded_share_of_the_levels_that_is_walked(steps, strength, first):
    cfg = methods.load("flowedit").Config(steps=steps, strength=strength)
    assert begin(as_field(Gaussian()), GIVEN, cfg).first_step == first


def test_uniedit_inverts_the_whole_levels_within_its_share():
    cfg = methods.load("uniedit").Config(steps=15, strength=0.58)  # 8.7: eight levels, not nine
    steps = list(methods.load("uniedit").edit(as_field(Gaussian()), GIVEN, cfg))
    assert steps[0].count == 8


@pytest.mark.parametrize("name", methods.names())
def test_the_first_line_of_a_method_says_all_that_the_list_shows(name):
    """`holdfast list methods` shows that line alone: a sentence that goes on in the next one is cut."""
    first, second, *_ = methods.load(name).__doc__.splitlines()
    assert first.endswith(".")
    assert not second


@pytest.mark.parametrize("name", ["i2vedit", "motiondirector", "tuneavideo", "vmc"])
def test_the_rate_of_score_distillation_is_not_that_of_tuning(name):
    """A model recommends 0.04 for the descent of a latent, at which weights that are fitted to a clip explode."""
    Config = methods.load(name).Config
    config, _ = configure(Config, {"learning_rate": 0.04}, None, {})
    assert config.learning_rate == Config().learning_rate < 1e-3
    assert (
        configure(methods.load("dds").Config, {"learning_rate": 0.04}, None, {})[0].learning_rate
        == 0.04
    )
