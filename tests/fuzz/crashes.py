"""Kill an edit at a random moment, run it again, and look that the result is that of an undisturbed run.

    python -m tests.fuzz.crashes --count 100 --seed 1

Every other run is ended by SIGTERM, which must clean up after itself; SIGKILL leaves that to the next run. Latents are
saved at every step here, and not every 20 seconds: so that there are some.
"""

import argparse
import hashlib
import json
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from random import Random

from holdfast.media import video
from tests.patience import HANG

from . import seeds
from .case import Case
from .judge import seen
from .server import Server

COMMAND = """
from holdfast.cli import app
from holdfast.pipeline import run

assert run.SAVE_SECONDS > 0
run.SAVE_SECONDS = 0.0
app.main()
"""
EDIT = ["--source-prompt", seeds.SOURCE, "--target-prompt", seeds.TARGET, "--set", "steps=4"]
EDIT += ["--backbone", "shapeworld-wan", "--mask", "mask.png"]
OUTPUTS = ("out.mp4", "out.mkv", "out", "out.gif")


def looked(folder: Path) -> dict[str, str]:
    """Every file's content; of Matroska, whose files have a number of their own each, that of the frames."""
    found = seen(folder)
    for path in folder.glob("*.mkv"):
        digest = hashlib.sha256()
        for frame in video.read(video.probe(path)):
            digest.update(frame)
        found[path.name] = digest.hexdigest()
    return found


class Trials:
    """Runs of one command in one folder, and what an undisturbed one of it makes."""

    def __init__(self, server: Server, folder: Path, output: str):
        self.server, self.folder, self.output = server, folder, output
        self.argv = ["edit", "clip.mp4", "-o", output, *EDIT]
        self.begin()
        ran = server.run(self.argv, folder, HANG, COMMAND)
        if ran.code:
            raise RuntimeError(ran.err)
        self.seconds, self.whole = ran.seconds, looked(folder)
        self.told = self.manifest()

    def begin(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        Case("crash", [], seeds.base_files()).lay_out(self.folder)

    def manifest(self) -> dict:
        """What it says of the result, and not of the run."""
        about = json.loads((self.folder / f"{self.output}.json").read_text())
        run = ("seconds", "peak_memory_mb", "evaluations", "dense_equivalents", "notes", "stamp")
        del about["plan"]["memory"]  # of what was free
        return {key: value for key, value in about.items() if key not in run}

    def trial(self, draw: Random) -> list[str]:
        """One kill and what is wrong after it."""
        earlier = draw.random() < 0.4
        if not earlier:  # else the result of the last run lies there, and is replaced
            self.begin()
        stop = draw.choice((signal.SIGKILL, signal.SIGTERM))
        moment = draw.uniform(0, 1.1 * self.seconds)
        ran = self.server.run(self.argv, self.folder, moment, COMMAND, stop)
        found = self.after(stop, ran)
        resume = self.folder / f"{self.output}.latents.safetensors"
        again = [*self.argv, "--resume"] if resume.exists() else self.argv
        ran = self.server.run(again, self.folder, HANG, COMMAND)
        if ran.code:
            found.append(f"the next run ended with {ran.code}: {ran.err}")
        else:
            found += self.different()
        how = "after an earlier result" if earlier else "from nothing"
        return [f"{stop.name} at {moment:.2f} s, {how}: {text}" for text in found]

    def after(self, stop: int, ran) -> list[str]:
        """What lies there once it was stopped: nothing half-written; after SIGTERM only latents are left."""
        found = []
        now = {name: what for name, what in looked(self.folder).items() if ".holdfast" not in name}
        for name, what in now.items():
            if name.startswith(self.output) and not name.endswith((".json", ".safetensors")):
                found += [f"{name} is half-written"] if self.whole.get(name) != what else []
        for place in self.folder.glob("*.json"):
            json.loads(place.read_text())
        if stop == signal.SIGTERM:
            found += [f"left {p.name}" for p in self.folder.glob(".*")]
            if ran.code not in (130, 0, -signal.SIGTERM):  # the last: before the command began
                found.append(f"exit code {ran.code}: {ran.err}")
            saved = f"{self.output}.latents.safetensors" in now
            if ran.code == 130 and saved and "resume with: holdfast edit" not in ran.err:
                found.append("it does not say how to resume")
        return found

    def different(self) -> list[str]:
        """What is not as an undisturbed run leaves it."""
        now, own = looked(self.folder), f"{self.output}.json"
        names = sorted(set(now) | set(self.whole))
        found = [n for n in names if n != own and now.get(n) != self.whole.get(n)]
        if self.manifest() != self.told:
            found.append(own)
        return [f"{name} is not as after an undisturbed run" for name in found]


def crash(server: Server, home: Path, count: int, seed: int) -> list[str]:
    """What went wrong in so many kills."""
    draw, found = Random(seed), []
    outputs = OUTPUTS[: max(1, count // 3)]
    known = [Trials(server, home / f"trials{i}", output) for i, output in enumerate(outputs)]
    for number in range(count):
        wrong = known[number % len(known)].trial(draw)
        found += [f"{number}, {known[number % len(known)].output}: {text}" for text in wrong]
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="crashes-") as home:
        server = Server(Path(home))
        found = crash(server, Path(home), asked.count, asked.seed)
        server.close()
    print(*found, sep="\n")
    print(f"{asked.count} kills, {len(found)} complaints, {time.monotonic() - began:.0f} s")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
