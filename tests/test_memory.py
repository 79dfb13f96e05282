"""Memory that ran out is told from a bug, whichever library says so."""

import numpy as np
import pytest
import torch

from holdfast.memory import ran_out

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
    assert ran_out(error.value)


def test_words_of_a_gpu_and_of_the_system_are_known_and_others_are_not():
    assert ran_out(RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"))
    assert ran_out(OSError(12, "Cannot allocate memory"))
    assert not ran_out(RuntimeError("shapes cannot be multiplied"))
