"""One warm process that runs the command line many times: it imports everything once and forks for each run.

A run so costs what it does, not the seconds that importing torch takes. Requests and answers are JSON, one a line.
"""

import contextlib
import gc
import json
import os
import resource
import select
import signal
import subprocess
import sys
import time
import traceback
from dataclasses import dataclass
from pathlib import Path

from holdfast.base.names import list_modules

ROOT = Path(__file__).parents[2]
MEMORY, FILE = 12 << 30, 256 << 20  # bytes that a run may map, and write to one file
TO_END = 30.0  # seconds that a run has after a signal


@dataclass(frozen=True)
class Ran:
    """What became of a run. code: as the shell has it; negative for a signal; None where the time was up."""

    code: int | None
    seconds: float
    out: str
    err: str


class Server:
    """The parent's end."""

    def __init__(self, home: Path):
        self.home = home
        told = {"OMP_NUM_THREADS": "1", "HF_HOME": str(home / "hub"), "COLUMNS": "200"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.fuzz.server"],
            cwd=ROOT,
            env=os.environ | told,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(
        self,
        argv: list[str],
        folder: Path,
        limit: float = 10.0,
        code: str = "",
        stop: int = signal.SIGKILL,
    ) -> Ran:
        """Run `holdfast *argv` in a folder. limit: seconds until it is sent the signal `stop`, and killed if that does
        not end it. code: Python to run in its place.
        """
        said = [self.home / "out", self.home / "err"]
        asked = {"argv": argv, "folder": str(folder), "limit": limit, "said": list(map(str, said))}
        asked |= {"code": code, "stop": int(stop)}
        self.process.stdin.write(json.dumps(asked) + "\n")
        self.process.stdin.flush()
        answer = json.loads(self.process.stdout.readline())
        out, err = (path.read_text(errors="replace") for path in said)
        return Ran(answer["code"], answer["seconds"], out, err)

    def close(self) -> None:
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait()


def serve() -> None:
    warm()
    gc.collect()
    gc.freeze()  # a collection in a child would copy all of the parent's memory
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints is no answer
    for line in sys.stdin:
        answers.write(json.dumps(forked(json.loads(line))) + "\n")
        answers.flush()


def warm() -> None:
    """Import what any command may import. Nothing is computed: threads would not survive a fork."""
    import importlib

    import diffusers
    import transformers

    for package in ("methods", "metrics", "bench.datasets"):
        for name in list_modules(f"holdfast.{package}"):
            importlib.import_module(f"holdfast.{package}.{name}")
    for name in (
        "cli.app",
        "pipeline.run",
        "bench.runner",
        "bench.report",
        "bench.study",
        "metrics.compare",
    ):
        importlib.import_module(f"holdfast.{name}")
    for name in ("wan", "svd", "unet"):
        importlib.import_module(f"holdfast.models.{name}.adapter")
    parts = "AutoencoderKLWan WanTransformer3DModel AutoencoderKL UNet3DConditionModel"
    parts += " UNet2DConditionModel UNetSpatioTemporalConditionModel"
    texts = "UMT5EncoderModel CLIPTextModel CLIPVisionModelWithProjection AutoTokenizer"
    for library, names in ((diffusers, parts), (transformers, texts)):
        for name in names.split():
            getattr(library, name)


def forked(asked: dict) -> dict:
    began = time.monotonic()
    child = os.fork()
    if not child:
        _run(asked)
    watch = os.pidfd_open(child)
    ended, _, _ = select.select([watch], [], [], asked["limit"])
    if not ended and asked["stop"] != signal.SIGKILL:
        signal.pidfd_send_signal(watch, asked["stop"])
        ended, _, _ = select.select([watch], [], [], TO_END)
    os.close(watch)
    with contextlib.suppress(ProcessLookupError):  # its children too
        os.killpg(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status) if ended else None
    return {"code": code, "seconds": time.monotonic() - began}


def _run(asked: dict) -> None:
    """In the child: become the command, and end with its exit code."""
    os.setpgid(0, 0)
    nothing = os.open(os.devnull, os.O_RDONLY)
    files = [os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC) for path in asked["said"]]
    for number, file in enumerate((nothing, *files)):
        os.dup2(file, number)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_FSIZE, (FILE, FILE))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.chdir(asked["folder"])
    from holdfast.cli.app import app

    sys.argv = ["holdfast", *asked["argv"]]
    code = 0
    try:
        exec(asked["code"], {}) if asked["code"] else app.main()
    except SystemExit as error:
        code = error.code or 0
    except BaseException:
        traceback.print_exc()
        code = 1
    with contextlib.suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code if isinstance(code, int) else 1)


if __name__ == "__main__":
    serve()
