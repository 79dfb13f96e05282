"""Whole batches on Ray: on a cluster of two nodes made here, of which everything dies in turn; and on this machine."""

import json
import os
import signal
from pathlib import Path

import psutil
import pytest

from holdfast.batch import rows
from holdfast.pipeline import jobs, run
from holdfast.pipeline.output_paths import manifest_path
from holdfast.pipeline.progress import saved_progress
from tests.patience import HANG

from . import nodes

pytestmark = pytest.mark.slow
CLIPS, STEPS = 6, 24  # so many steps that the driver dies before all clips are done
# of a manifest: what its run took, a resumed one less, and where it lies
OWN = ("seconds", "peak_memory_mb", "evaluations", "dense_equivalents", "guide_evaluations")
OWN += ("output", "stamp", "task")


@pytest.fixture(scope="module")
def work(tmp_path_factory, shapeworld):
    """A folder with rows for short clips, and the same made one after the other in `single`."""
    from holdfast.shapeworld.demo import to_arrays, write_clip
    from holdfast.shapeworld.rendering import render
    from holdfast.shapeworld.scenes import sample_edit

    folder, lines = tmp_path_factory.mktemp("batch"), []
    for seed in range(CLIPS):
        edit = sample_edit(seed, "colour")
        (frames,) = render([edit.source], 5)
        write_clip(folder / f"{seed}.mkv", to_arrays(frames), "lossless")
        told = {"source_prompt": edit.source.caption(), "target_prompt": edit.target.caption()}
        row = {"input": f"{seed}.mkv", "backbone": "shapeworld-wan", "settings": {"steps": STEPS}}
        lines.append(json.dumps(row | told))
    (folder / "jobs.jsonl").write_text("\n".join(lines))
    for job in rows.read_jobs(folder / "jobs.jsonl", folder / "single"):
        run.edit(job.task, shapeworld, judge_result=False).save()
    return folder


def same(made: Path, single: Path) -> bool:
    """Whether two results are equal: the file byte for byte, and the manifest but for time and place."""
    manifests = [json.loads(manifest_path(path).read_text()) for path in (made, single)]
    for manifest in manifests:
        del manifest["plan"]["memory"]  # of what was free
    plain = [{k: v for k, v in manifest.items() if k not in OWN} for manifest in manifests]
    return made.read_bytes() == single.read_bytes() and plain[0] == plain[1]


def marks(paths: list[Path]) -> list[tuple[int, int]]:
    """What would change if a file were made again."""
    beside = [*paths, *map(manifest_path, paths)]
    return [(path.stat().st_ino, path.stat().st_mtime_ns) for path in beside]


def test_a_driver_a_worker_and_a_node_die_and_nothing_is_lost_or_done_twice(work):
    out = work / "out"
    tasks = [job.task for job in rows.read_jobs(work / "jobs.jsonl", out)]
    with nodes.cluster() as cluster:
        options = ("--workers", "2", "--ray", cluster.address)
        driver = nodes.Driver(work / "jobs.jsonl", out, *options)
        # The record of a batch is written twice a second, in which all clips may end: look at the files.
        found = driver.once(
            lambda found: (
                any(row["pid"] for row in found)
                and any(jobs.finished_manifest(task) for task in tasks)
            )
        )
        workers = [
            psutil.Process(row["pid"]) for row in found if psutil.pid_exists(row["pid"] or -1)
        ]
        driver.signal(signal.SIGKILL)
        driver.ended()
        _, left = psutil.wait_procs(workers, timeout=HANG)
        assert not left  # workers die with their driver
        finished = [Path(task.output) for task in tasks if jobs.finished_manifest(task)]
        assert 0 < len(finished) < CLIPS
        before = marks(finished)

        driver = nodes.Driver(work / "jobs.jsonl", out, *options, "--json")
        second = psutil.Process(cluster.second)

        def at_work(found: list[dict], there: bool) -> list[dict]:
            """Rows that a worker of the second node does, or one of the first."""
            pids = {child.pid for child in second.children()}
            running = (row for row in found if row["status"] == "running")
            return [row for row in running if (row["pid"] in pids) == there]

        found = driver.once(lambda found: at_work(found, True) and at_work(found, False))
        hit = at_work(found, False)[0]
        os.kill(hit["pid"], signal.SIGKILL)
        driver.once(lambda found: found[hit["line"] - 1]["attempts"] == 2)
        cluster.remove()
        code, printed, said = driver.ended()
    assert code == 0, said
    report = json.loads(printed)
    assert report == json.loads((out / "batch.json").read_text()) | {"seconds": report["seconds"]}
    assert (report["skipped"], report["done"]) == (len(finished), CLIPS - len(finished))
    assert max(row["attempts"] for row in report["rows"]) >= 2
    assert marks(finished) == before
    assert all(same(Path(task.output), work / "single" / Path(task.output).name) for task in tasks)
    names = {Path(task.output).name for task in tasks}
    assert {path.name for path in out.iterdir()} == {
        "batch.json", *names, *(f"{name}.json" for name in names)
    }  # fmt: skip


def test_ctrl_c_on_this_machine_saves_what_is_under_way_and_the_same_command_goes_on(work):
    out, file = work / "local", work / "long.jsonl"
    first, second = (work / "jobs.jsonl").read_text().splitlines()[:2]
    longer = json.loads(second) | {"settings": {"steps": 300}}
    file.write_text("\n".join([first, "{bad", json.dumps(longer)]))
    driver = nodes.Driver(file, out, "--workers", "1")
    task = rows.read_jobs(file, out)[2].task
    driver.once(lambda found: found and found[2]["status"] == "running")
    started = nodes.below(driver.process.pid)
    os.killpg(driver.process.pid, signal.SIGINT)  # as a terminal does
    code, printed, said = driver.ended()
    assert (code, printed) == (130, "")
    assert "line 2 failed: invalid JSON" in said
    assert f"progress is saved, continue with: holdfast batch {file}" in said
    found = driver.rows()
    assert [row["status"] for row in found] == ["done", "failed", "stopped"]
    assert saved_progress(task).can_resume()
    assert same(out / "0.mp4", work / "single" / "0.mp4")
    _, left = psutil.wait_procs(started, timeout=HANG)
    assert not left  # nothing of Ray stays behind
