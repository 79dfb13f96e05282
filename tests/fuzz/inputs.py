"""Break what a user can feed in, run the real command on it, and look that it fails as it should.

    python -m tests.fuzz.inputs --count 10000 --seed 1 [--minutes 30] [--only weights] [--keep FOLDER]

Cases that fail are kept as small files in tests/fuzz/corpus, or where --keep says. The exit status is 1 where any did.
"""

import argparse
import collections
import contextlib
import shutil
import sys
import tempfile
import time
from pathlib import Path

from tests.patience import PATIENCE, measure_patience

from . import seeds
from .case import Case, read
from .drawn import drawn
from .judge import complaints, incomplete, seen
from .server import Ran, Server

CORPUS = Path(__file__).parent / "corpus"
# seconds for a case, times the machine's patience; the second where the first is over: the machine may be busy
LIMIT, LAST_LIMIT = 10.0, 60.0


def tried(server: Server, case: Case, folder: Path) -> tuple[Ran, list[str]]:
    """Run a case in a new folder, and say what is wrong with how it went."""
    ran, found = _once(server, case, folder, LIMIT * PATIENCE)
    if ran.code is None:
        ran, found = _once(server, case, folder, LAST_LIMIT * measure_patience())
    return ran, found


def _once(server: Server, case: Case, folder: Path, limit: float) -> tuple[Ran, list[str]]:
    case.lay_out(folder)
    try:
        before = seen(folder)
        ran = server.run(case.argv, folder, limit)
        found = complaints(case, ran, before, seen(folder))
        if case.argv[0] == "edit" and ran.code == 0:
            found += incomplete(case, folder)
        return ran, found
    finally:
        shutil.rmtree(folder)


def fuzz(server: Server, asked: argparse.Namespace, home: Path) -> collections.Counter:
    """Run the cases; how often each kind had which end."""
    grown = seeds.grow(server, home / "grown")
    counts, seconds = collections.Counter(), collections.Counter()
    began, told = time.monotonic(), set()
    with contextlib.suppress(KeyboardInterrupt):  # what was run is told
        for number in range(asked.start, asked.start + asked.count):
            if time.monotonic() - began > 60 * asked.minutes:
                break
            case = drawn(asked.seed, number, grown, asked.only)
            ran, found = tried(server, case, home / "case")
            counts[case.kind, "failed" if found else f"exit code {ran.code}"] += 1
            seconds[case.kind] += ran.seconds
            if found:
                sign = (case.kind, found[0], ran.err.strip().rpartition("\n")[2][:60])
                if sign not in told:  # one of a sort is enough
                    told.add(sign)
                    print(
                        f"{number} {case.save(asked.keep)}: {'; '.join(found)}\n{ran.err[-1500:]}\n",
                        flush=True,
                    )
    print(*(f"{kind} {value:.1f} s" for kind, value in seconds.most_common()), sep=", ")
    return counts


def replay(server: Server, path: Path, home: Path) -> list[str]:
    """What is wrong with a kept case now."""
    return tried(server, read(path), home / "case")[1]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--start", type=int, default=0, help="number of the first case")
    parser.add_argument("--minutes", type=float, default=float("inf"))
    parser.add_argument("--only", default="", help="part of a kind's name")
    parser.add_argument("--keep", type=Path, default=CORPUS)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fuzz-") as home:
        server = Server(Path(home))
        began = time.monotonic()
        counts = fuzz(server, asked, Path(home))
        server.close()
    for (kind, end), count in sorted(counts.items()):
        print(f"{count:6} {kind}: {end}")
    print(f"{counts.total()} cases in {time.monotonic() - began:.0f} s")
    return any(end == "failed" for _, end in counts)


if __name__ == "__main__":
    sys.exit(main())
