"""No step after the first waits for a device: nothing reads a number or finds positions of a tensor."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tests import tiny
from tests.methods.test_contract import Case

# lift_fresh: torch.tensor(...), which is copied to the device before anything else runs. float64 stays on the CPU.
WAITS = {"_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal", "lift_fresh"}
INDEXING = {"index", "index_put_", "index_put", "_index_put_impl_"}


class RefuseWaits(TorchDispatchMode):
    """Raise where an operation would wait for a GPU."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        indices = args[1] if name in INDEXING else ()
        masks = [i for i in indices if i is not None and i.dtype == torch.bool]
        waits = name in WAITS or bool(masks)
        waits &= not (name == "lift_fresh" and args[0].dtype == torch.float64)
        assert not waits, f"{func} waits for the device"
        return func(*args, **(kwargs or {}))


def test_the_guard_can_fail():
    x = torch.arange(3.0)
    for wait in (
        lambda: x.sum().item(),
        lambda: bool(x.any()),
        lambda: x[x > 1],
        x.nonzero,
        lambda: torch.tensor([1]),
    ):
        with pytest.raises(AssertionError, match="waits"), RefuseWaits():
            wait()
    positions = torch.tensor([1, 2])
    with RefuseWaits():
        assert len(x[positions] + 1) == 2


CASES = [
    ("flowanchor", "wan", {}),
    ("flowanchor", "wan", {"padding": "kept", "text_range": "prompt"}),
    ("flowanchor", "sd", {}),
    ("flowedit", "wan", {}),
    ("flowedit", "sd", {}),
    ("flowedit", "t2v", {}),
    ("flowedit", "svd", {}),
    ("wanedit", "wan", {}),
    ("flowalign", "wan", {}),
    ("holdfast", "wan", {}),
    ("dds", "wan", {}),
]


@pytest.mark.parametrize(("name", "family", "settings"), CASES)
def test_a_step_does_not_wait(name, family, settings):
    case = Case(name, tiny.ADAPTERS[family]())
    steps = case.steps(case.config(region="off", **settings), mask=case.part())
    next(steps)  # it may find what the later ones keep
    with torch.no_grad(), RefuseWaits():
        assert len(list(steps)) >= 2
