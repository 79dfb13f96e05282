"""A method and a backbone from outside the package: each is one file."""

import sys
import textwrap
from pathlib import Path

import pytest
import torch

import holdfast
from holdfast import methods, models
from holdfast.models import registry
from holdfast.pipeline import in_memory, run
from holdfast.pipeline.task import EditTask

METHOD = '''
"""FlowEdit in another arrangement: the loop is over the edit's displacement y = z - x."""

from holdfast.base.schema import Field, Guidance, Share, settings_class
from holdfast.methods.base import MethodInfo
from holdfast.sampling.field import Step, begin, initial_state, remaining_steps
from holdfast.sampling.guidance import GuidedPoint, guided_velocities
from holdfast.sampling.noise import add_noise, keyed_noise
from holdfast.sampling.settings import SamplingConfig

METHOD = MethodInfo(requires=frozenset({"text"}))


@settings_class
class Config(SamplingConfig):
    strength: Share = Field(default=0.66, description="share of the schedule that is run")
    source_guidance: Guidance = Field(default=3.5, description="guidance scale of the source prompt")
    target_guidance: Guidance = Field(default=13.5, description="guidance scale of the target prompt")


def edit(field, inputs, config, resume=None):
    sampler = begin(field, inputs, config)
    sigmas, x = sampler.sigmas, inputs.latent
    z, _ = initial_state(resume, x)
    y = z - x
    for i in remaining_steps(resume, "edit", sampler.first_step, config.steps):
        q = add_noise(x, sigmas[i], keyed_noise(x, inputs.seed, i))
        v_q, v_p = guided_velocities(
            sampler.field,
            sigmas[i],
            GuidedPoint(q, inputs.source, "src", config.source_guidance),
            GuidedPoint(q + y, inputs.target, "tgt", config.target_guidance),
        )
        y = y + (sigmas[i + 1] - sigmas[i]) * inputs.apply_mask(v_p - v_q)
        yield Step("edit", i + 1, config.steps, x + y)
'''

BACKBONE = '''
"""Pixels whose clips are Gaussian about a grey that the prompt's length says: known exactly, without weights."""

from pathlib import Path

import torch

from holdfast.media.clip_format import ClipFormat
from holdfast.models.base import Backbone, Conditioning
from holdfast.models.checkpoint import Checkpoint
from holdfast.models.family import Family
from holdfast.models.spec import BackboneSpec
from holdfast.sampling.schedules import flow_sigmas

SPEC = BackboneSpec("grey", 0, 8, 64 * 64, 13, frozenset({"text"}), recommended={"steps": 3})
FORMAT = ClipFormat((1, 1, 1), (1, 1, 1), 8, 64 * 64, 13, 10**6)


class GreyFamily(Family):
    specs = {"grey": SPEC}

    def find(self, name, weights=None):
        return Checkpoint(Path("no folder"))

    def locate(self, name, weights=None):
        return None

    def clip_format(self, name, checkpoint):
        return FORMAT

    def load(self, name, checkpoint, device, dtype):
        return Grey()


FAMILY = GreyFamily()


class Grey(Backbone):
    name, clip_format, capabilities, recommended = "grey", FORMAT, SPEC.capabilities, SPEC.recommended
    device, dtype, attention_hooks, feature_hooks, parts = torch.device("cpu"), torch.float32, None, None, {}

    def condition(self, prompt):
        return Conditioning(*(torch.tensor(len(t) / 100) for t in (prompt.text, prompt.negative)))

    def encode(self, frames, eps=None):
        return torch.stack(list(frames), 1)[None]

    def decode(self, z):
        for frame in z[0].transpose(0, 1):
            yield frame[None].clamp(0, 1)

    def sigmas(self, steps, shift=None, schedule="native", shape=None):
        return flow_sigmas(schedule, steps, shift or 1.0, native="wan").tolist()

    def snap_timestep(self, sigma):
        return int(1000 * sigma) / 1000

    def velocity(self, z, sigma, condition, *, branch, frames=None):
        mean, spread = condition.for_branch(branch), 0.3
        variance = (1 - sigma) ** 2 * spread**2 + sigma**2
        residual = (z - (1 - sigma) * mean) / variance
        return sigma * residual - (mean + (1 - sigma) * spread**2 * residual)
'''


@pytest.fixture
def plugged(tmp_path, monkeypatch):
    """A method as a file in the package's folder, and a backbone whose family is registered."""
    folder = tmp_path / "methods"
    folder.mkdir()
    (folder / "arranged.py").write_text(textwrap.dedent(METHOD))
    monkeypatch.setattr(methods, "__path__", [*methods.__path__, str(folder)])
    module = {"__name__": "grey"}
    exec(compile(textwrap.dedent(BACKBONE), "grey", "exec"), module)
    registry.register(module["FAMILY"])
    yield
    registry.unregister(module["FAMILY"])
    sys.modules.pop("holdfast.methods.arranged", None)


def test_a_method_plugs_in_as_one_file_and_is_flowedit(plugged, tiny_wan):
    assert "arranged" in methods.names()
    clip = torch.rand(5, 3, 32, 48, generator=torch.Generator().manual_seed(0))
    results = []
    for method in ("flowedit", "arranged"):
        task = EditTask(
            input="",
            output="",
            source_prompt="a plain red ball",
            target_prompt="a plain blue ball",
            method=method,
            settings={"steps": 4, "strength": 1.0},
        )
        results.append(in_memory.edit_latent(in_memory.plan_job(task, tiny_wan, clip), tiny_wan))
    assert torch.allclose(*results, atol=1e-4)
    assert not torch.allclose(results[0], tiny_wan.encode(clip), atol=1e-2)


@pytest.mark.filterwarnings("ignore:no image model over the latents")
@pytest.mark.filterwarnings("ignore:this model has no attention hooks")
def test_a_registered_backbone_is_found_and_every_fitting_method_runs(plugged, make_clip, tmp_path):
    assert registry.describe_backbone("grey").clip_format.length_rule == "any"
    assert "grey" in models.names()
    clip = make_clip(frames=5, size=(48, 32))
    fits = methods.list_compatible({"text"})
    assert {"flowedit", "arranged", "uniedit"} <= set(fits)
    assert "flowanchor" not in fits
    for i, method in enumerate(fits):
        task = EditTask(
            input=str(clip),
            output=str(tmp_path / f"{i}.mp4"),
            source_prompt="a ball",
            target_prompt="a ball and a much longer text",
            method=method,
            backbone="grey",
        )
        result = run.edit(task)
        assert Path(result.save()).exists()
        assert result.preservation["changed_share"] > 0.5
        steps, descends = (
            result.manifest["settings"]["steps"],
            "learning_rate" in result.plan.settings(),
        )
        unmeasured = "the method's default, not measured on this backbone"
        has_own = descends or method == "holdfast"  # such steps are no model's to recommend
        own = {"value": 200 if descends else 15, "from": unmeasured}
        assert steps == (own if has_own else {"value": 3, "from": "suits this backbone"})
    with pytest.raises(
        ValueError, match="flowanchor does not run on grey, which has no text_attention"
    ):
        holdfast.edit(clip, "a", "b", method="flowanchor", backbone="grey")


def test_a_field_without_hooks_can_be_windowed(plugged):
    """Gaussian pixels know nothing of their neighbours: windows change nothing."""
    backbone = holdfast.load_backbone("grey")
    clip = torch.rand(31, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    results = []
    for window in (0, 9):
        task = EditTask(
            input="", output="", source_prompt="a", target_prompt="a longer text", window=window
        )
        job = in_memory.plan_job(task, backbone, clip)
        results.append(in_memory.edit_latent(job, backbone))
        assert (job.plan.windows.count > 1) == (window == 9)
    assert torch.allclose(*results, atol=1e-5)


def test_what_fits_is_made_from_what_methods_need_and_models_carry():
    known = registry.specs()
    fits = {name: methods.list_compatible(spec.capabilities) for name, spec in known.items()}
    others = {"anyv2v", "ebsynth", "fatezero", "flatten", "i2vedit", "p2p", "rerender", "spacetime"}
    assert not others & set(fits["shapeworld-wan"])  # each needs layers or inputs that Wan lacks
    assert {"flowanchor", "rfsolver", "uniedit", "holdfast"} <= set(fits["shapeworld-wan"])
    assert {"fatezero", "flatten", "p2p", "tokenflow"} <= set(fits["sd1.5"])
    assert "spacetime" in fits["zeroscope"]
    assert "anyv2v" in fits["svd"]
    assert fits.pop("pixels") == ["ebsynth"]  # the others need a velocity
    assert "i2vedit" in fits["svd"]
    assert "rfsolver" not in fits["sd1.5"]  # no token of it sees another frame
    assert {"flowedit", "flowalign", "dfvedit", "sdedit"} <= set.intersection(
        *map(set, fits.values())
    )
