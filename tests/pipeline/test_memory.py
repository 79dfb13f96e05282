"""The memory plan: exact choices first, within the limit, each with its reason, and known before anything is loaded."""

import dataclasses
import json
import re

import pytest
import torch

from holdfast.base.errors import OutOfMemoryError, UserError
from holdfast.base.memory import format_size, parse_limit
from holdfast.models import registry
from holdfast.models.footprint import Activations, ClipShape, PartSize, count_part, measure_part
from holdfast.models.placement import Placements, StreamedPart
from holdfast.pipeline import memory, memory_limits, planning, run
from holdfast.pipeline.loading import check_windows
from holdfast.pipeline.memory import Machine, Workload
from holdfast.pipeline.task import EditTask

GB = 10**9
SIZES = {  # in float32: 16 GB, 4 GB, 0.4 GB
    "text_encoder": PartSize(4 * GB, 8 * GB, GB // 10, GB // 100, GB // 10, GB),
    "transformer": PartSize(GB, 2 * GB, GB // 20, GB // 100, GB // 20),
    "vae": PartSize(GB // 10, 4 * GB // 10),
}
CPU, GPU = Machine(False, 4, 64 * GB), Machine(True, 2, 64 * GB)


def activations(shape, placements):
    """Decoding takes 7 GB, or by tiles what they cover; a latent frame takes 0.1 GB to denoise."""
    share = 1.0
    if placements.tile:
        share = placements.tile**2 / (shape.height * shape.width)
    return Activations(GB, GB // 5, shape.frames * GB // 10, round(7 * GB * share), True)


def work(**changes):
    streamable = frozenset({"text_encoder", "transformer"})
    made = Workload(SIZES, activations, ClipShape(21, 1024, 1024), streamable, "tiles", (11, 5))
    return dataclasses.replace(made, **changes)


@pytest.mark.parametrize(
    ("text", "size", "storage"),
    [
        ("auto", None, ""),
        ("12GB", 12 * GB, ""),
        ("12GiB", 12 * 2**30, ""),
        (" 1.5 gb ", 1.5 * GB, ""),
        ("12000MB", 12 * GB, ""),
        ("12GB,float8", 12 * GB, "float8"),
        ("AUTO, FLOAT8", None, "float8"),
    ],
)
def test_a_limit_is_read_as_people_write_it(text, size, storage):
    limit = parse_limit(text)
    assert (limit.bytes, limit.storage) == (size, storage)


@pytest.mark.parametrize("text", ["", "much", "-1GB", "0GB", "12", "12 GBit", "nanGB", "12GB,int3"])
def test_a_limit_that_is_none_is_refused(text):
    with pytest.raises(UserError, match="memory is"):
        EditTask("a.mp4", "b.mp4", memory=text)


def test_the_key_of_a_result_knows_only_what_changes_numbers():
    key = EditTask("a.mp4", "b.mp4").latent_key()
    assert EditTask("a.mp4", "b.mp4", memory="12GB").latent_key() == key
    assert EditTask("a.mp4", "b.mp4", memory="12GB,float8").latent_key() != key


def test_sizes_are_rounded_up_so_that_a_proposal_is_enough():
    assert format_size(11_410_000_000) == "11.5GB"
    assert format_size(12 * GB) == "12GB"


def test_where_everything_fits_nothing_changes():
    for machine in (CPU, GPU):
        plan = memory.choose(work(), machine, 64 * GB)
        assert plan.placements.is_default
        assert not plan.changes_numbers


@pytest.mark.parametrize(
    ("machine", "limit", "parts", "tile"),
    [
        (CPU, 20, {"text_encoder": "disk"}, 0),
        (CPU, 11, {"text_encoder": "disk", "transformer": "stored"}, 0),
        (CPU, 9, {"text_encoder": "disk", "transformer": "disk"}, 0),
        (CPU, 4.1, {"text_encoder": "disk", "transformer": "disk"}, 512),
        (GPU, 8.9, {"transformer": "swapped"}, 0),
        (GPU, 7.5, {"transformer": "swapped", "text_encoder": "ram"}, 0),
        (GPU, 3.0, {"transformer": "ram", "text_encoder": "disk"}, 512),
    ],
)
def test_less_memory_takes_slower_choices_and_what_changes_numbers_last(
    machine, limit, parts, tile
):
    plan = memory.choose(work(), machine, round(limit * GB))
    assert plan.peak <= limit * GB
    assert (plan.placements.parts, plan.placements.tile) == (parts, tile)
    assert plan.changes_numbers == bool(tile)


def test_weights_that_ram_cannot_hold_are_read_from_disk_also_for_a_gpu():
    plan = memory.choose(work(), dataclasses.replace(GPU, ram=8 * GB), round(7.4 * GB))
    assert plan.placements.of("text_encoder") == "disk"


def test_float8_is_only_used_where_it_is_asked_for():
    plan = memory.choose(work(), GPU, 64 * GB, "float8")
    assert plan.placements.parts == {"transformer": "float8"}
    assert plan.changes_numbers
    resident = memory.choose(work(), GPU, 64 * GB)
    assert plan.stages["denoise"] < resident.stages["denoise"] - 0.9 * GB


def test_windows_become_shorter_where_nothing_else_helps_and_a_given_limit_refuses_less():
    plan = memory.choose(work(), CPU, round(2.85 * GB))
    assert plan.window == 11
    plan = memory.choose(work(), CPU, GB)
    with pytest.raises(UserError, match="--memory 1GB is below the smallest plan") as error:
        memory.require_fit(plan, "wan")
    assert re.search(
        r"in which wan needs [\d.]+GB to (en|de)\w+ (this clip|the prompts .*)", error.value.cause
    )
    smallest = error.value.remedy.split()[2].rstrip(",")
    again = memory.choose(work(), CPU, parse_limit(smallest).bytes)
    memory.require_fit(again, "wan")


def test_a_tile_is_as_large_as_fits_also_where_windows_had_to_be_shorter():
    plan = memory.choose(work(), CPU, round(2.85 * GB))
    assert (plan.window, plan.placements.tile) == (11, 384)


def test_two_denoisers_count_once_on_a_gpu_and_twice_on_a_cpu():
    sizes = SIZES | {"transformer_2": SIZES["transformer"]}
    for machine, more in ((GPU, 0), (CPU, round(memory.CPU_MARGIN * 4 * GB))):
        one, two = (
            memory.evaluate(work(sizes=s), machine, Placements(), ClipShape(1, 64, 64)).stages
            for s in (SIZES, sizes)
        )
        assert abs(two["denoise"] - one["denoise"] - more) <= 1


def test_the_next_smaller_plan_is_smaller():
    plan = memory.choose(work(), GPU, 64 * GB)
    peaks = [plan.peak]
    while (smaller := memory.smaller_limit(work(), GPU, plan)) is not None:
        plan = memory.choose(work(), GPU, smaller)
        peaks.append(plan.peak)
    assert peaks == sorted(set(peaks), reverse=True)
    assert len(peaks) > 3


def test_parts_are_counted_by_the_names_of_their_tensors():
    shapes = {"shared.weight": (100, 4), "block.0.w": (10, 4), "block.1.w": (20, 4), "out.w": (3,)}
    size = count_part(shapes, dict.fromkeys(shapes, 2), StreamedPart(("block",), "shared.weight"))
    assert size == PartSize(523, 1046, 80, 3, 160, 400)
    assert size.device_bytes("disk", 4) == 4 * 83 + 160
    assert size.device_bytes("stored", 4) == 1046 + 4 * 483
    assert size.device_bytes("ram", 4) == 4 * 563


def test_the_size_of_a_part_is_read_from_the_headers_and_equals_what_is_loaded():
    backbone = registry.load_backbone("shapeworld-wan", None, "cpu")
    folder = registry.find_weights("shapeworld-wan")
    for name, part in backbone.parts.items():
        assert measure_part(folder.part(name)).numbers == sum(p.numel() for p in part.parameters())


def test_a_plan_says_what_it_expects_and_why():
    described = memory.choose(work(), CPU, round(4.1 * GB)).describe()
    json.dumps(described)
    assert described["parts"]["transformer"]["placement"] == "disk"
    assert "in tiles of 512x512" in described["decoding"]
    for text in ("3.9GB expected", "transformer: disk (each block is read", "tiles"):
        assert text in described["summary"]


def test_an_automatic_limit_that_is_too_small_is_a_notice(monkeypatch):
    monkeypatch.setattr(memory_limits, "free_memory", lambda is_gpu: GB)
    with pytest.warns(UserWarning, match="may run out of memory"):
        plan = memory_limits.choose_for(work(), CPU, parse_limit("auto"), "wan")
    assert plan.window == 0  # the key of a result does not depend on what was free


def test_memory_that_runs_out_proposes_a_smaller_plan():
    task = EditTask("a.mp4", "b.mp4", backbone="shapeworld-wan", device="cpu")
    info = registry.describe_backbone("shapeworld-wan")
    checkpoint = registry.find_weights("shapeworld-wan")
    shape = ClipShape(1, 2048, 2048)
    made = memory_limits.describe_work(info.name, checkpoint, shape, 4)
    plan = memory.choose(made, CPU, None)
    with (
        pytest.raises(OutOfMemoryError, match=r"out of memory: use --memory [0-9.]+GB"),
        memory_limits.propose_smaller_plan(task, plan),
    ):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")
    with (
        pytest.raises(RuntimeError, match="another"),
        memory_limits.propose_smaller_plan(task, plan),
    ):
        raise RuntimeError("another")
    with (
        pytest.raises(OutOfMemoryError, match="use fewer --frames"),
        memory_limits.propose_smaller_plan(task, memory.MemoryPlan()),
    ):
        raise MemoryError


def test_progress_with_other_windows_is_not_resumed(tiny_wan):
    task = EditTask("", "", "a red ball", "a blue ball", memory="6GB")
    plan = planning.make_plan(task, tiny_wan, 5, (32, 32))
    check_windows(plan, {})
    with pytest.raises(UserError, match="windows of 9 latent frames, and with --memory 6GB they"):
        check_windows(plan, {"window": torch.tensor(9)})


@pytest.mark.filterwarnings("ignore:this clip is unlike")
def test_an_edit_loads_its_model_as_its_plan_says_and_gives_the_same_latent(make_clip):
    clip, prompts = str(make_clip()), ("a plain red ball", "a plain blue ball")
    settings = {"steps": "2", "strength": "1"}
    fields = {"backbone": "shapeworld-wan", "device": "cpu", "settings": settings}
    whole = run.edit(EditTask(clip, "", *prompts, **fields))
    described = whole.manifest["plan"]["memory"]
    assert described["parts"]["transformer"]["placement"] == "resident"
    limit = f"{described['peak_mb'] - 1}MB"
    streamed = run.edit(EditTask(clip, "", *prompts, memory=limit, **fields))
    described = streamed.manifest["plan"]["memory"]
    assert {part["placement"] for part in described["parts"].values()} != {"resident"}
    assert torch.equal(streamed.z, whole.z)
    with pytest.raises(UserError, match=r"--memory 0\.1GB is below the smallest plan"):
        run.edit(EditTask(clip, "", *prompts, memory="50MB", **fields))
