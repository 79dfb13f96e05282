"""What a batch gains over one edit after the other, and whether its results are the same: `python benchmarks/batch.py`.

Makes shapeworld jobs, does them one after the other in one warm process and by `holdfast batch` with several workers,
in turns of a part each, so that both see the same machine; then once more by `holdfast batch` alone while workers and
the driver are killed. Prints jobs a second and how many results are equal, byte for byte and manifest for manifest.
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

import torch

from holdfast import load_backbone
from holdfast.batch import rows
from holdfast.bench.datasets.shapeworld import cases
from holdfast.pipeline import jobs
from holdfast.pipeline.output_paths import manifest_path

# of a manifest: what its run took, a resumed one less, and where it lies
OWN = ("seconds", "peak_memory_mb", "evaluations", "guide_evaluations", "output", "stamp", "task")


@dataclass(frozen=True)
class Pace:
    seconds: float = 0.0
    warm_seconds: float = 0.0  # from when every worker had done its first job
    warm: int = 0  # jobs done in them

    def __add__(self, other: "Pace") -> "Pace":
        return Pace(
            self.seconds + other.seconds,
            self.warm_seconds + other.warm_seconds,
            self.warm + other.warm,
        )


class Batch:
    """A `holdfast batch` under way."""

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

    def finished(self) -> int:
        return sum(row["status"] in ("done", "skipped", "failed") for row in self.rows())

    def until(self, count: int) -> None:
        while self.process.poll() is None and self.finished() < count:
            time.sleep(0.1)

    def kill_worker(self) -> None:
        pids = [row["pid"] for row in self.rows() if row["status"] == "running"]
        if pids:
            os.kill(pids[0], signal.SIGKILL)

    def kill_driver(self) -> None:
        self.process.kill()
        self.process.wait()
        self.start()


def made(options: argparse.Namespace, folder: Path) -> list[dict]:
    """The rows of so many jobs, with their clips."""
    found = []
    for case in cases("single,several", folder / "data", options.jobs):
        told = {
            "source_prompt": case.source,
            "target_prompt": case.target,
            "backbone": options.backbone,
        }
        settings = {"steps": options.steps}
        found.append({"id": case.name, "input": case.clip, "settings": settings, **told})
    return found


def written(file: Path, found: list[dict]) -> Path:
    file.write_text("\n".join(map(json.dumps, found)))
    return file


def alone(file: Path, folder: Path, backbone) -> Pace:
    """One after the other, in this process."""
    begin = time.perf_counter()
    found = rows.read_jobs(file, folder)
    for job in found:
        jobs.run_job(job.task, backbone)
    seconds = time.perf_counter() - begin
    return Pace(seconds, seconds, len(found))


def together(file: Path, folder: Path, options: argparse.Namespace, count: int) -> Pace:
    (folder / "batch.json").unlink(missing_ok=True)  # of the turn before
    begin, batch = time.perf_counter(), Batch(file, folder, options)
    batch.until(options.workers)
    first, before = time.perf_counter(), batch.finished()
    batch.process.wait()
    end = time.perf_counter()
    return Pace(end - begin, end - first, count - before)


def killed(file: Path, folder: Path, options: argparse.Namespace) -> None:
    """A batch of which something is killed, evenly over its jobs: workers, and every second time the driver."""
    batch = Batch(file, folder, options)
    for i in range(options.kills):
        batch.until(options.jobs * (i + 1) // (options.kills + 1))
        batch.kill_driver() if i % 2 else batch.kill_worker()
        time.sleep(1)
    batch.process.wait()
    tried = [row["attempts"] for row in batch.rows()]
    print(f"killed {options.kills} times; tried again in the last run: {sum(n > 1 for n in tried)}")


def plain(path: Path) -> dict:
    manifest = json.loads(manifest_path(path).read_text())
    return {key: value for key, value in manifest.items() if key not in OWN}


def equal(found: list[dict], one: Path, other: Path) -> str:
    """How many results of two folders are the same."""
    names = [f"{row['id']}.mp4" for row in found]
    pairs = [(one / name, other / name) for name in names if (other / name).exists()]
    files = sum(a.read_bytes() == b.read_bytes() for a, b in pairs)
    manifests = sum(plain(a) == plain(b) for a, b in pairs)
    return f"of {len(names)} results: {files} files equal, {manifests} manifests equal"


def compare(options: argparse.Namespace, folder: Path) -> None:
    found = made(options, folder)
    backbone = load_backbone(options.backbone, device="cpu")
    single, many = Pace(), Pace()
    size = -(-len(found) // options.turns)
    for i in range(0, len(found), size):
        part = written(folder / f"{i}.jsonl", found[i : i + size])
        single += alone(part, folder / "single", backbone)
        many += together(part, folder / "batch", options, len(found[i : i + size]))
        print(f"{i + size} of {len(found)}, load {os.getloadavg()[0]:.1f}", flush=True)
    one, two = single.warm / single.warm_seconds, many.warm / many.warm_seconds
    print(f"one after the other {one:.3f} jobs/s, {options.workers} workers {two:.3f} jobs/s warm")
    print(f"ratio warm {two / one:.2f}; with starting {single.seconds / many.seconds:.2f}")
    print(f"seconds {single.seconds:.0f} and {many.seconds:.0f}, of which {options.turns} starts")
    print(equal(found, folder / "single", folder / "batch"))
    if options.kills:
        killed(written(folder / "all.jsonl", found), folder / "killed", options)
        print(f"after the kills, {equal(found, folder / 'single', folder / 'killed')}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=200)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1, help="of torch, in every process")
    parser.add_argument("--turns", type=int, default=2, help="parts that take turns")
    parser.add_argument("--kills", type=int, default=0)
    parser.add_argument("--backbone", default="shapeworld-wan")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        compare(options, Path(folder))


if __name__ == "__main__":
    main()
