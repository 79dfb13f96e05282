"""Memory that ran out is told from a bug, whichever library says so; and the peak of some work is its own."""

from pathlib import Path

import numpy as np
import pytest
import torch

from holdfast.base import memory
from holdfast.base.memory import PeakMemory, is_out_of_memory

HUGE = 2**50  # bytes: more than any machine lends


@pytest.mark.parametrize(
    "taken",
    [
        lambda: torch.empty(HUGE, dtype=torch.uint8),
        lambda: np.ones(HUGE, np.uint8),
        lambda: bytearray(HUGE),
    ],
)
def test_a_real_lack_of_memory_is_known(taken):
    with pytest.raises((MemoryError, RuntimeError)) as error:
        taken()
    assert is_out_of_memory(error.value)


def test_words_of_a_gpu_and_of_the_system_are_known_and_others_are_not():
    assert is_out_of_memory(RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"))
    assert is_out_of_memory(OSError(12, "Cannot allocate memory"))
    assert not is_out_of_memory(RuntimeError("shapes cannot be multiplied"))


MB = 2**20


def held(megabytes):
    """Take memory and give it back."""
    np.ones(megabytes * MB, np.uint8)


def test_the_peak_is_of_the_work_and_not_of_the_process():
    """The second edit of a process reported the first one's peak."""
    with PeakMemory() as first:
        held(300)
    with PeakMemory() as second:
        held(10)
    assert first.megabytes("cpu") > second.megabytes("cpu") + 200


def test_measurements_overlap_and_go_on_after_a_pause():
    with PeakMemory() as outer:
        held(200)
        with PeakMemory() as inner:  # which resets the process's mark
            held(10)
    held(400)
    with outer:
        held(20)
    assert inner.megabytes("cpu") < outer.megabytes("cpu") - 100
    with PeakMemory() as idle:
        pass
    assert outer.megabytes("cpu") < idle.megabytes("cpu") + 300


def test_a_peak_that_an_earlier_one_hides_is_unknown(monkeypatch):
    """Where the mark cannot be reset: known where it rose, and where the earlier peak was this measurement's own."""
    marks = {"cpu": 100 * MB}
    monkeypatch.setattr(memory, "_ram_mark", lambda: marks["cpu"])
    monkeypatch.setattr(memory, "_RESET", Path("/nowhere/clear_refs"))
    with PeakMemory() as hidden:
        pass
    with PeakMemory() as risen:
        marks["cpu"] = 150 * MB
    with risen:
        pass
    assert hidden.megabytes("cpu") is None
    assert risen.megabytes("cpu") == 150
    marks["cpu"] = 200 * MB
    with risen:
        pass
    assert risen.megabytes("cpu") is None


def test_each_device_has_its_own_peak(monkeypatch):
    """After an edit on a GPU, one on the CPU reported the GPU's memory."""
    lent = [500 * MB]
    monkeypatch.setattr(memory, "_gpus", lambda: 1)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda index: lent[index])
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda index: lent.__setitem__(0, 0))
    with PeakMemory() as peak:
        lent[0] = 70 * MB
    assert peak.megabytes("cuda") == peak.megabytes("cuda:0") == 70
    assert peak.megabytes("cpu") > 70
    assert peak.megabytes("mps") is None
