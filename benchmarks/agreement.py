"""Measure how far a model's own judgement of an edit can be trusted: `python benchmarks/agreement.py --out FOLDER`.

Edit scenes of the synthetic world (each kind of edit in turn, with flowedit's defaults), record whether the exact
result says that the edit succeeded, and compute the model's score of the edited latent. The thresholds of "clearly"
and "not" are chosen on tuning scenes; held-out scenes show how often each verdict is right. A second run resumes the
first. `--write` puts the thresholds and the counts into the model's calibration.json.
"""

import argparse
import dataclasses
import itertools
import json
from collections.abc import Callable
from pathlib import Path

import torch
from tables import print_header, print_row

from holdfast.base.files import load_tensors, save_tensors
from holdfast.base.intervals import estimate_rate
from holdfast.models.base import Backbone, Prompt
from holdfast.models.registry import find_weights, load_backbone
from holdfast.pipeline import agreement, in_memory
from holdfast.pipeline.task import EditTask
from holdfast.shapeworld.calibrate import update_calibration
from holdfast.shapeworld.caption_check import is_object_added
from holdfast.shapeworld.evaluate import FIRST_TUNING_SEED, seeds_with_edit, seeds_with_two_actors
from holdfast.shapeworld.rendering import render
from holdfast.shapeworld.scenes import SceneEdit, sample_edit
from holdfast.shapeworld.truth import judge

# The edits in turn: kind of edit, and set of scenes.
MIX = {
    "recolour": ("colour", "single"),
    "backdrop": ("backdrop", "single"),
    "shape": ("shape", "single"),
    "material": ("material", "single"),
    "recolour one of two": ("colour", "several"),
    "remove": ("remove", "several"),
    "add": ("add", "single"),
}


@dataclasses.dataclass(frozen=True)
class Case:
    name: str
    seed: int

    def edit(self) -> SceneEdit:
        return sample_edit(self.seed, *MIX[self.name])


def list_cases(start: int, count: int) -> list[Case]:
    """Return the first `count` cases, each kind in turn."""
    each = -(-count // len(MIX))
    columns = []
    for name, (kind, scenes) in MIX.items():
        two = name == "recolour one of two"
        seeds = (
            seeds_with_two_actors(start, each)
            if two
            else seeds_with_edit(start, each, kind, scenes)
        )
        columns.append([Case(name, seed) for seed in seeds])
    return list(itertools.chain.from_iterable(zip(*columns, strict=True)))[:count]


@torch.no_grad()
def run_case(case: Case, backbone: Backbone) -> tuple[dict, dict]:
    """Edit a case. Return whether the edit succeeded, and its latents."""
    edit = case.edit()
    frames = render([edit.source])[0]
    task = EditTask("", "", edit.source.caption(), edit.target.caption(), backbone=backbone.name)
    job = in_memory.plan_job(dataclasses.replace(task, seed=case.seed), backbone, frames)
    z = in_memory.edit_latent(job, backbone)
    result = torch.stack(list(job.plan.fit.to_clip(backbone.decode(z))))
    figures = judge(edit, result)
    # The prompt does not say where an added actor goes.
    success = is_object_added(edit, result) if edit.kind == "add" else figures["success"]
    row = {"case": case.name, "seed": case.seed, "success": bool(success)}
    row |= {"psnr": figures["psnr"], "psnr_source": figures["psnr_source"]}
    return row, {"before": backbone.encode(job.frames()), "after": z}


def make_edits(folder: Path, backbone: Backbone, chosen: list[Case]) -> None:
    """Edit the cases that have no result yet."""
    folder.mkdir(parents=True, exist_ok=True)
    known = {(row["case"], row["seed"]) for row in read_rows(folder)}
    left = [case for case in chosen if (case.name, case.seed) not in known]
    for case in left:
        row, latents = run_case(case, backbone)
        save_tensors(latents_path(folder, case), latents, {})
        with (folder / "edits.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")


def read_rows(folder: Path) -> list[dict]:
    path = folder / "edits.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def latents_path(folder: Path, case: Case) -> Path:
    return folder / f"{case.name} {case.seed}.latents"


@torch.no_grad()
def score_edits(folder: Path, backbone: Backbone, chosen: list[Case]) -> list[dict]:
    """Return the rows of the chosen cases, each with the score of its latent."""
    wanted = {(case.name, case.seed) for case in chosen}
    found = []
    for row in read_rows(folder):
        case = Case(row["case"], row["seed"])
        if (case.name, case.seed) not in wanted:
            continue
        edit = case.edit()
        latents, _ = load_tensors(latents_path(folder, case))
        prompts = (edit.source.caption(), edit.target.caption())
        conditions = [backbone.condition(Prompt(text)) for text in prompts]
        z = latents["after"]
        value = agreement.score(backbone.field, z, *conditions, z.shape[2], case.seed)
        found.append(row | {"score": value})
    return found


def choose_thresholds(tuning: list[dict]) -> dict[str, float]:
    """Choose both thresholds: the lowest score from which 95 % succeeded, and the highest below which 90 % failed.

    Scores are rounded to two decimals.
    """
    values = sorted({round(row["score"], 2) for row in tuning})
    clearly = [t for t in values if success_share(tuning, lambda s, t=t: s >= t) >= 0.95]
    failing = [t for t in values if success_share(tuning, lambda s, t=t: s < t) <= 0.1]
    return {"from": min(clearly), "below": max(failing, default=values[0])}


def success_share(found: list[dict], verdict_of: Callable[[float], bool]) -> float:
    """Return the share of the scenes with such a score that succeeded; 1 if there are none."""
    seen = [row["success"] for row in found if verdict_of(row["score"])]
    return sum(seen) / len(seen) if seen else 1.0


def count_by_verdict(held_out: list[dict], chosen: dict[str, float]) -> dict:
    """Return the calibration: the thresholds, and how many held-out scenes of each verdict succeeded."""
    calibration = {
        agreement.CLEARLY: {"from": chosen["from"]},
        agreement.WEAKLY: {},
        agreement.NOT: {"below": chosen["below"]},
    }
    for word, entry in calibration.items():
        seen = [row["success"] for row in held_out if verdict_of(row["score"], chosen) == word]
        entry |= {"scenes": len(seen), "succeeded": sum(seen)}
    return calibration


def verdict_of(score: float, chosen: dict[str, float]) -> str:
    if score >= chosen["from"]:
        return agreement.CLEARLY
    return agreement.NOT if score < chosen["below"] else agreement.WEAKLY


def auc(found: list[dict]) -> float:
    """Return the AUC: how often a scene that succeeded scores higher than one that failed."""
    good = torch.tensor([row["score"] for row in found if row["success"]])
    bad = torch.tensor([row["score"] for row in found if not row["success"]])
    apart = good[:, None] - bad
    return ((apart > 0).float() + 0.5 * (apart == 0).float()).mean().item()


def auc_interval(found: list[dict], draws: int = 2000) -> tuple[float, float]:
    """Return the ends of the AUC's 95 % interval, by resampling successes and failures independently."""
    groups = [[r for r in found if r["success"] == kind] for kind in (True, False)]
    generator = torch.Generator().manual_seed(0)
    values = []
    for _ in range(draws):
        again = []
        for group in groups:
            picks = torch.randint(len(group), (len(group),), generator=generator)
            again += [group[i] for i in picks]
        values.append(auc(again))
    ends = torch.tensor(values).quantile(torch.tensor([0.025, 0.975]))
    return ends[0].item(), ends[1].item()


def print_report(held_out: list[dict], calibration: dict) -> None:
    low, high = auc_interval(held_out)
    rate = estimate_rate(sum(row["success"] for row in held_out), len(held_out)).interval_text()
    print(
        f"{len(held_out)} held-out scenes, {rate} succeeded; AUC {auc(held_out):.2f} [{low:.2f}, {high:.2f}]"
    )
    print_header("verdict", "score", "scenes", "of these, the edit succeeded")
    ranges = {
        agreement.CLEARLY: f"{calibration[agreement.CLEARLY]['from']} or more",
        agreement.WEAKLY: "between",
        agreement.NOT: f"below {calibration[agreement.NOT]['below']}",
    }
    for word, entry in calibration.items():
        done, count = entry["succeeded"], entry["scenes"]
        print_row(
            word, ranges[word], count, estimate_rate(done, count).interval_text() if count else "-"
        )
    print_header("kind", "succeeded", *calibration)
    for name in MIX:
        kind = [row for row in held_out if row["case"] == name]
        words = [verdict_of(row["score"], read_thresholds(calibration)) for row in kind]
        succeeded = sum(row["success"] for row in kind)
        print_row(name, f"{succeeded} of {len(kind)}", *(words.count(word) for word in calibration))


def read_thresholds(calibration: dict) -> dict[str, float]:
    return {
        "from": calibration[agreement.CLEARLY]["from"],
        "below": calibration[agreement.NOT]["below"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for the edits")
    parser.add_argument("--backbone", default="shapeworld-wan")
    parser.add_argument("--count", type=int, default=105, help="held-out scenes")
    parser.add_argument("--tuning", type=int, default=140, help="tuning scenes")
    parser.add_argument("--write", action="store_true", help="update calibration.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    backbone = load_backbone(options.backbone)
    found = {}
    for name, start, count in (
        ("tuning", FIRST_TUNING_SEED, options.tuning),
        ("held-out", 0, options.count),
    ):
        chosen = list_cases(start, count)
        make_edits(options.out / name, backbone, chosen)
        found[name] = score_edits(options.out / name, backbone, chosen)
    calibration = count_by_verdict(found["held-out"], choose_thresholds(found["tuning"]))
    print(f"AUC on the {len(found['tuning'])} tuning scenes: {auc(found['tuning']):.2f}")
    print_report(found["held-out"], calibration)
    if options.write:
        update_calibration(find_weights(options.backbone), {"agreement": calibration})


if __name__ == "__main__":
    main()
