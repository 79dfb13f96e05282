"""Latents are checked at every step: at once, or one step late where reading a number would make a GPU wait."""

import pytest
import torch

from holdfast.base.errors import UserError
from holdfast.pipeline.finite import StepCheck, copy_number, is_usable
from holdfast.sampling.field import Step

GOOD, BAD = torch.ones(1, 1, 1, 2, 2), torch.full((1, 1, 1, 2, 2), torch.nan)


def test_on_a_cpu_a_step_is_checked_at_once():
    check = StepCheck(is_late=False)
    check.add(Step("edit", 1, 3, GOOD))
    with pytest.raises(UserError, match="after step 2 of 3 holds values that are not finite"):
        check.add(Step("edit", 2, 3, BAD))
    check.finish()


def test_on_a_gpu_a_step_is_checked_after_the_next_or_at_the_end():
    for end in (lambda c: c.add(Step("edit", 3, 3, GOOD)), StepCheck.finish):
        check = StepCheck(is_late=True)
        check.add(Step("edit", 1, 3, GOOD))
        check.add(Step("edit", 2, 3, BAD))
        with pytest.raises(UserError, match="after step 2 of 3 holds values that are not finite"):
            end(check)


def test_what_can_be_used():
    assert is_usable(GOOD)
    assert not any(map(is_usable, (BAD, GOOD / 0, GOOD * 1e7)))
    assert copy_number(torch.tensor(2.5))() == 2.5
