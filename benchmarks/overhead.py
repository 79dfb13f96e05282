"""What a step costs besides its network evaluations: `python benchmarks/overhead.py`.

Runs each method once through the driver, saving included, with every evaluation timed, and prints in that one run the
seconds of the bare evaluations and of everything else. Target: everything else under 2 %.
"""

import tempfile
import time
from pathlib import Path

from holdfast import load_backbone, methods, registry
from holdfast.run import Metered, Step, Store, drive
from holdfast.shapeworld.render import render
from holdfast.shapeworld.scenes import sample_edit

STEPS, FRAMES = 20, 13


def measure(backbone, name: str, source, src, tgt) -> tuple[float, float, int]:
    module, field = registry.method(name), Metered(backbone)
    cfg = module.Config(steps=STEPS, strength=1.0)
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder) / "latents.safetensors", "benchmark")
        begin = time.perf_counter()
        drive(module.edit(field, source, src, tgt, cfg), Step(0, STEPS, source, {}), store)
        return time.perf_counter() - begin, field.seconds, field.evaluations


def main() -> None:
    backbone = load_backbone("shapeworld-wan")
    edit = sample_edit(0, "colour")
    source = backbone.encode(render([edit.source], FRAMES)[0])
    src, tgt = (backbone.condition(s.caption()) for s in (edit.source, edit.target))
    print(f"{'method':<10} {'evaluations':>11} {'bare s':>8} {'other s':>8} {'overhead':>9}")
    for name in methods.names():
        measure(backbone, name, source, src, tgt)  # warm up
        total, bare, count = measure(backbone, name, source, src, tgt)
        print(f"{name:<10} {count:>11} {bare:>8.3f} {total - bare:>8.3f} {(total - bare) / bare:>8.2%}")


if __name__ == "__main__":
    main()
