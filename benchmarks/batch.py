"""Compare `holdfast batch` with one edit after another, in speed and in results: `python benchmarks/batch.py`.

Make shapeworld jobs, and run them one after another in one warm process and by `holdfast batch` with several workers,
alternating in parts so that both see the same machine. Then run them once more by `holdfast batch` alone while workers
and the driver are killed. Print jobs a second and how many results are equal, byte for byte and manifest for manifest.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from holdfast import load_backbone
from holdfast.batch import rows
from holdfast.bench.datasets.shapeworld import cases
from holdfast.pipeline import jobs
from holdfast.pipeline.output_paths import manifest_path

# Manifest keys that differ between runs: costs (a resumed run has lower ones) and paths.
RUN_KEYS = (
    "seconds", "peak_memory_mb", "evaluations", "guide_evaluations", "output", "stamp", "task",
)  # fmt: skip


@dataclass(frozen=True)
class Pace:
    seconds: float = 0.0
    warm_seconds: float = 0.0  # after every worker finished its first job
    warm: int = 0  # jobs done in them

    def __add__(self, other: "Pace") -> "Pace":
        return Pace(
            self.seconds + other.seconds,
            self.warm_seconds + other.warm_seconds,
            self.warm + other.warm,
        )


class Batch:
    """A running `holdfast batch`."""

    def __init__(self, file: Path, folder: Path, options: argparse.Namespace):
        self.file, self.folder, self.options = file, folder, options
        self.start()

    def start(self) -> None:
        workers, threads = self.options.workers, self.options.threads
        command = [sys.executable, "-m", "holdfast.cli", "batch", self.file, "-o", self.folder]
        limits = ["--workers", workers, "--threads", threads, "--json"]
        self.process = subprocess.Popen(
            [*map(str, command), *map(str, limits)], stdout=subprocess.DEVNULL
        )

    def rows(self) -> list[dict]:
        try:
            return json.loads((self.folder / "batch.json").read_text())["rows"]
        except FileNotFoundError:
            return []

    def count_finished(self) -> int:
        return sum(row["status"] in ("done", "skipped", "failed") for row in self.rows())

    def wait_until(self, count: int) -> None:
        """Wait until `count` jobs are finished or the process ends."""
        while self.process.poll() is None and self.count_finished() < count:
            time.sleep(0.1)

    def kill_worker(self) -> None:
        pids = [row["pid"] for row in self.rows() if row["status"] == "running"]
        if pids:
            os.kill(pids[0], signal.SIGKILL)

    def kill_driver(self) -> None:
        self.process.kill()
        self.process.wait()
        self.start()


def make_rows(options: argparse.Namespace, folder: Path) -> list[dict]:
    """Make clips and return a batch's rows for them."""
    made = []
    for case in cases("single,several", folder / "data", options.jobs):
        prompts = {"source_prompt": case.source_prompt, "target_prompt": case.target_prompt}
        row = {"id": case.name, "input": case.clip, "backbone": options.backbone, **prompts}
        made.append(row | {"settings": {"steps": options.steps}})
    return made


def write_rows(file: Path, lines: list[dict]) -> Path:
    file.write_text("\n".join(map(json.dumps, lines)))
    return file


def run_sequentially(file: Path, folder: Path, backbone: Any) -> Pace:
    """Run one job after another in this process."""
    begin = time.perf_counter()
    found = rows.read_jobs(file, folder)
    for job in found:
        jobs.run_job(job.edit_task, backbone)
    seconds = time.perf_counter() - begin
    return Pace(seconds, seconds, len(found))


def run_batch(file: Path, folder: Path, options: argparse.Namespace, count: int) -> Pace:
    (folder / "batch.json").unlink(missing_ok=True)  # of the previous part
    begin, batch = time.perf_counter(), Batch(file, folder, options)
    batch.wait_until(options.workers)
    warm, before = time.perf_counter(), batch.count_finished()
    batch.process.wait()
    end = time.perf_counter()
    return Pace(end - begin, end - warm, count - before)


def run_with_kills(file: Path, folder: Path, options: argparse.Namespace) -> None:
    """Run a batch, and kill a worker or, every second time, the driver, at even distances."""
    batch = Batch(file, folder, options)
    for i in range(options.kills):
        batch.wait_until(options.jobs * (i + 1) // (options.kills + 1))
        if i % 2:
            batch.kill_driver()
        else:
            batch.kill_worker()
        time.sleep(1)
    batch.process.wait()
    retried = sum(row["attempts"] > 1 for row in batch.rows())
    print(f"killed {options.kills} times; jobs retried in the last run: {retried}")


def read_manifest(path: Path) -> dict:
    """Return a result's manifest without RUN_KEYS."""
    manifest = json.loads(manifest_path(path).read_text())
    return {key: value for key, value in manifest.items() if key not in RUN_KEYS}


def describe_equality(lines: list[dict], one: Path, other: Path) -> str:
    """Describe how many results of two folders are equal."""
    names = [f"{row['id']}.mp4" for row in lines]
    pairs = [(one / name, other / name) for name in names if (other / name).exists()]
    files = sum(a.read_bytes() == b.read_bytes() for a, b in pairs)
    manifests = sum(read_manifest(a) == read_manifest(b) for a, b in pairs)
    return f"of {len(names)} results: {files} files equal, {manifests} manifests equal"


def compare(options: argparse.Namespace, folder: Path) -> None:
    lines = make_rows(options, folder)
    backbone = load_backbone(options.backbone, device="cpu")
    single, many = Pace(), Pace()
    size = -(-len(lines) // options.turns)
    for i in range(0, len(lines), size):
        part = write_rows(folder / f"{i}.jsonl", lines[i : i + size])
        single += run_sequentially(part, folder / "single", backbone)
        many += run_batch(part, folder / "batch", options, len(lines[i : i + size]))
        print(f"{i + size} of {len(lines)}, load {os.getloadavg()[0]:.1f}", flush=True)
    one, two = single.warm / single.warm_seconds, many.warm / many.warm_seconds
    print(f"sequentially {one:.3f} jobs/s, {options.workers} workers {two:.3f} jobs/s warm")
    print(f"ratio warm {two / one:.2f}; with starts {single.seconds / many.seconds:.2f}")
    print(f"seconds {single.seconds:.0f} and {many.seconds:.0f}, with {options.turns} starts")
    print(describe_equality(lines, folder / "single", folder / "batch"))
    if options.kills:
        run_with_kills(write_rows(folder / "all.jsonl", lines), folder / "killed", options)
        print(f"after the kills, {describe_equality(lines, folder / 'single', folder / 'killed')}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=200)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1, help="torch threads of every process")
    parser.add_argument("--turns", type=int, default=2, help="parts that alternate")
    parser.add_argument("--kills", type=int, default=0)
    parser.add_argument("--backbone", default="shapeworld-wan")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        compare(options, Path(folder))


if __name__ == "__main__":
    main()
