"""Every check that reads a configuration, run against what the default models' repositories hold."""

import inspect
import json
import shutil
import warnings
from pathlib import Path

import pytest

from holdfast import methods
from holdfast.base.errors import MissingDependencyError, UserError
from holdfast.models import checkpoint, downloads, hub, published, registry, weight_files
from holdfast.models import loading as _parts
from holdfast.models.checkpoint import Checkpoint
from holdfast.models.svd import adapter as svd
from holdfast.models.unet import adapter as unet
from holdfast.models.wan import adapter as wan
from holdfast.models.wan.spec import read_boundary
from holdfast.pipeline.planning import make_plan
from holdfast.pipeline.task import EditTask

from .. import configurations, hub_cache

PUBLISHED = [name for name, spec in registry.specs().items() if spec.download_gb]
KNOWN = sorted(hub_cache.known_backbones())
PROMPTS = {"source_prompt": "a red ball rolls", "target_prompt": "a blue ball rolls"}


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """A hub cache with all of them, as this process sees it."""
    from huggingface_hub import constants

    root, usual = tmp_path_factory.mktemp("hub"), constants.HF_HUB_CACHE
    constants.HF_HUB_CACHE = str(root)
    yield {name: hub_cache.write(root, name) for name in KNOWN}
    constants.HF_HUB_CACHE = usual


def test_of_two_default_models_no_file_is_known():
    """svd (14 frames) and zeroscope: not one configuration was found, so nothing here checks them."""
    assert set(PUBLISHED) - set(KNOWN) == set(published.UNKNOWN) == {"svd", "zeroscope"}


def test_every_value_has_its_mark_and_its_source():
    marks = set()
    for name in published.names():
        for file in published.read(name).files.values():
            assert file["source"]
            marks.add(file["mark"])
    assert marks == set(published.MARKS)
    # Two repositories lack files that nobody found; what stands in for one is said in hub_cache.
    for name, known in hub_cache.known_backbones().items():
        card = registry.specs()[name]
        wanted = {"model_index.json", "scheduler/scheduler_config.json"}
        wanted |= {f"{part}/config.json" for part in card.parts}
        absent = wanted - set(known.files)
        assert absent == ({"scheduler/scheduler_config.json"} if name == "wan2.2-14b" else set())


def test_the_defaults_are_the_classes_own():
    """Where this fails, a library has changed: python -m tests.configurations, and look at what moved."""
    assert configurations.FILE == checkpoint.DEFAULTS_FILE
    assert json.loads(configurations.FILE.read_text()) == configurations.tables()


@pytest.mark.parametrize("name", KNOWN)
def test_it_is_found_by_its_hub_id_and_known_before_it_is_loaded(name, cache):
    about, card = registry.describe_backbone(name), registry.specs()[name]
    assert about.clip_format.train_frames == card.train_frames
    side = {"wan2.2-5b": 16}.get(name, 8)
    assert about.clip_format.stride == ((4, side, side) if "wan" in name else (1, 8, 8))
    assert about.clip_format.size_multiple == {"wan2.2-5b": (32, 32)}.get(
        name, (16, 16) if "wan" in name else (64, 64)
    )
    assert registry.identify(name)["revision"] == hub_cache.known_backbones()[name].revision


@pytest.mark.parametrize("name", [n for n in KNOWN if "wan" not in n])
def test_what_works_over_stable_diffusions_latents_says_so(name, cache):
    """SD 1.5's file has no scaling_factor: its class's default is the others' value."""
    assert registry.describe_backbone(name).latent_space == {
        "latent_channels": 4,
        "scaling_factor": 0.18215,
    }
    assert "scaling_factor" not in weight_files.read_json(cache["sd1.5"] / "vae" / "config.json")


def test_a_loaded_backbone_has_the_latents_that_it_had_before(shapeworld, tmp_path):
    """Also where its file leaves a value out."""
    assert registry.describe_backbone("shapeworld-wan").latent_space == shapeworld.latent_space
    folder = shutil.copytree(checkpoint.EMBEDDED / "shapeworld-sd", tmp_path / "sd")
    file = folder / "vae" / "config.json"
    values = json.loads(file.read_text())
    absent = {"scaling_factor", "shift_factor", "latents_mean", "latents_std"}
    file.write_text(json.dumps({k: v for k, v in values.items() if k not in absent}))
    found = registry.describe_backbone("shapeworld-sd", str(folder)).latent_space
    assert found == registry.load_backbone("shapeworld-sd", str(folder), "cpu").latent_space
    assert found["scaling_factor"] == 0.18215


@pytest.mark.parametrize("name", KNOWN)
def test_every_configuration_is_within_the_limits_and_its_parts_agree(name, cache):
    parts = {part: Checkpoint(cache[name]).config(part) for part in card_of(name).parts}
    latents = parts["vae"].get("z_dim") or parts["vae"]["latent_channels"]
    for part in ("unet", "transformer", "transformer_2"):
        if part in parts:
            both = 2 if name == "svd-xt" else 1
            assert parts[part]["in_channels"] == both * latents
    if "text_encoder" in parts:
        width = parts["text_encoder"].get("d_model") or parts["text_encoder"]["hidden_size"]
        network = parts.get("unet") or parts["transformer"]
        assert width == network.get("text_dim", network.get("cross_attention_dim"))

    if "wan" in name:
        wan._check_widths(
            Checkpoint(cache[name]), [part for part in parts if part.startswith("transformer")]
        )
    if name == "svd-xt":
        assert svd._vae_class(Checkpoint(cache[name])) == "AutoencoderKLTemporalDecoder"


def card_of(name):
    return registry.specs()[name]


@pytest.mark.parametrize(
    ("name", "prediction"),
    [("sd1.5", "epsilon"), ("sd2.1", "v_prediction"), ("modelscope", "epsilon")],
)
def test_the_schedule_of_the_stable_diffusion_lineage(name, prediction, cache):
    config = Checkpoint(cache[name]).config("scheduler")
    schedule = unet.NoiseSchedule.from_config(config)
    assert schedule.prediction == prediction
    assert len(schedule.ratios) == 1000
    assert schedule.offset == 1
    assert schedule.ratios[-1] == pytest.approx(14.6146, abs=1e-4)  # its well-known noisiest level


def test_a_schedulers_own_defaults_stand_for_what_its_file_leaves_out(cache):
    """SD 1.5's is a PNDM of diffusers 0.6: it says nothing of its prediction, nor of its spacing."""
    config = Checkpoint(cache["sd1.5"]).config("scheduler")
    assert config["prediction_type"] == "epsilon"
    assert config["timestep_spacing"] == "leading"
    assert config["set_alpha_to_one"] is False  # the file's own


def test_wans_shift_and_boundary(cache):
    shifts = {
        n: Checkpoint(cache[n]).config("scheduler")["flow_shift"] for n in KNOWN if "wan" in n
    }
    assert shifts == {"wan2.1-1.3b": 3.0, "wan2.1-14b": 3.0, "wan2.2-5b": 5.0, "wan2.2-14b": 3.0}
    assert read_boundary("wan2.2-14b", Checkpoint(cache["wan2.2-14b"])) == 0.875


def planned(name, method, **settings):
    about = registry.describe_backbone(name)
    frame = {"first_frame": "frame.png"} if "text" not in about.capabilities else {}
    task = EditTask("clip.mp4", "", **PROMPTS, method=method, backbone=name, **frame, **settings)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return make_plan(task, about, 16, (256, 448))


@pytest.mark.parametrize("name", KNOWN)
def test_every_method_that_fits_is_planned_with_its_defaults(name, cache):
    count = 0
    for method in methods.names():
        info = methods.load(method).METHOD
        if info.missing(card_of(name).capabilities):
            continue
        if "control" in info.requires:  # no ControlNet is on this machine; of sd2.1 none is known
            with pytest.raises((MissingDependencyError, UserError), match="ControlNet"):
                planned(name, method)
            continue
        assert planned(name, method).fit.model_frames
        count += 1
    assert count > 1


def test_assd_with_its_defaults_is_guided_by_stable_diffusion_on_modelscope(cache):
    """The paper's own pair."""
    made = planned("modelscope", "assd")
    assert (made.image_model.name, made.image_model.reason) == ("sd1.5", "over the same latents")


def test_a_first_frame_is_made_by_stable_diffusion(cache):
    roomy = {"memory": "100GB"}  # whatever is free here
    task = EditTask("clip.mp4", "", **PROMPTS, method="i2vedit", backbone="svd-xt", **roomy)
    assert (
        make_plan(
            task, registry.describe_backbone("svd-xt"), 16, (576, 1024)
        ).first_frame_model.name
        == "sd1.5"
    )


def classes(name):
    import diffusers
    import transformers

    network = diffusers.UNet3DConditionModel if name == "modelscope" else None
    return {
        "unet": network or diffusers.UNet2DConditionModel,
        "vae": diffusers.AutoencoderKL,
        "text_encoder": transformers.CLIPTextModel,
    }


def old_names(name: str) -> str:
    """As files of that age call a VAE's attention."""
    for new, old in (
        ("to_q", "query"),
        ("to_k", "key"),
        ("to_v", "value"),
        ("to_out.0", "proj_attn"),
    ):
        name = name.replace(f"attentions.0.{new}", f"attentions.0.{old}")
    return name


@pytest.mark.parametrize("name", ["sd1.5", "modelscope"])
def test_published_parts_are_what_their_classes_make_of_their_configurations(name, cache, tmp_path):
    """The checks before loading, with headers of the weights as the classes name them, and of the published size."""
    import torch

    known, folder = hub_cache.known_backbones()[name], tmp_path
    for part, cls in classes(name).items():
        values = known.values(f"{part}/config.json")
        (folder / part).mkdir()
        (folder / part / "config.json").write_text(json.dumps(values))
        with torch.device("meta"):
            own = "from_config" if hasattr(cls, "from_config") else None
            made = cls.from_config(values) if own else cls(cls.config_class(**values))
        rename = old_names if part == "vae" else str
        shapes = {rename(n): tuple(p.shape) for n, p in made.named_parameters()}
        stem = "model" if part == "text_encoder" else "diffusion_pytorch_model"
        file = hub_cache.header_only(folder / part / f"{stem}.safetensors", shapes)
        said, *_ = known.listing[f"{part}/{file.name}"]
        assert file.stat().st_size == pytest.approx(said, rel=1e-4)
    _parts.check_parts(Checkpoint(folder), classes(name))


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_command_downloads_one_variant_of_the_parts_and_what_goes_with_them(name):
    """As the installed `hf` reads it: its parser, and its own rule of what a glob includes."""
    import shlex

    from huggingface_hub.cli.download import download as command_line
    from huggingface_hub.utils import filter_repo_objects

    get = downloads.plan_download(card_of(name))
    words = shlex.split(get.command.split(" && ")[0])
    assert words[:3] == ["hf", "download", card_of(name).weights]
    assert set(words[3::2]) == {"--include"}
    assert "include" in inspect.signature(command_line).parameters
    if name not in KNOWN:
        assert get.size == f"about {card_of(name).download_gb:g} GB"
        return
    known = hub_cache.known_backbones()[name]
    chosen = set(filter_repo_objects(known.listing, allow_patterns=words[4::2]))
    assert not [
        f for f in chosen if ".fp16" in f or "non_ema" in f or f.endswith((".bin", ".ckpt"))
    ]
    for part in card_of(name).parts:
        assert [f for f in chosen if f.startswith(f"{part}/") and f.endswith(".safetensors")]
    assert sum(known.listing[f][0] for f in chosen) == get.bytes
    assert get.is_exact == (name not in ("sd1.5", "sd2.1"))  # whose lists are of other copies
    assert get.bytes / 1e9 == pytest.approx(card_of(name).download_gb, rel=0.1)


def test_a_download_of_the_named_files_alone_counts_as_complete(cache, monkeypatch):
    """The hub's library keeps a list of all files of a repository, and calls a part of them incomplete."""
    from huggingface_hub import _tree_cache, constants

    folder = cache["sd1.5"]
    listing = hub_cache.known_backbones()["sd1.5"].listing
    entries = {
        path: _tree_cache.TreeCacheEntry(
            size=size, blob_id="0" * 40, lfs_sha256=None, lfs_size=None, xet_hash=None
        )
        for path, (size, *_) in listing.items()
    }
    kept = Path(constants.HF_HUB_CACHE) / "models--stable-diffusion-v1-5--stable-diffusion-v1-5"
    _tree_cache.write_tree_cache(str(kept), folder.name, entries)
    assert hub.find_cached("stable-diffusion-v1-5/stable-diffusion-v1-5") == folder


def test_a_revision_and_a_snapshots_folder_are_weights_too(cache):
    hub_id, folder = card_of("sd1.5").weights, cache["sd1.5"]
    named = f"{hub_id}@{folder.name}"
    assert (
        registry.describe_backbone("sd1.5", named).latent_space
        == registry.describe_backbone("sd1.5").latent_space
    )
    for weights in (named, str(folder), f"{folder}/"):
        found = registry.identify("sd1.5", weights)
        assert (found["hub_id"], found["revision"]) == (hub_id, folder.name)
    with pytest.raises(
        MissingDependencyError, match=f"hf download {hub_id} --revision older --include"
    ):
        registry.describe_backbone("sd1.5", f"{hub_id}@older")


def test_zeroscope_says_that_its_files_have_to_be_converted(cache):
    with pytest.raises(
        MissingDependencyError, match=r"unet and vae are \.bin files.* && holdfast convert cer"
    ):
        registry.describe_backbone("zeroscope")
