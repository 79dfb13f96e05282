"""The mutations fit the present files. Whether tests notice them, `python tests/mutations.py` finds out: hours."""

import pytest

from . import mutations
from .mutations import Mutation


def test_every_mutation_changes_one_place_of_the_present_files():
    assert mutations.check(mutations.MUTATIONS) == []


@pytest.mark.parametrize(
    ("file", "old", "new", "problem"),
    [
        ("base/none.py", "x", "y", "the file does not exist"),
        ("base/intervals.py", "no such text", "y", "occurs 0 times"),
        ("base/intervals.py", "return", "y", "times, not once"),
        ("base/intervals.py", "class Estimate:", "class Estimate", "is not Python"),
    ],
)
def test_a_mutation_that_cannot_be_applied_is_listed(file, old, new, problem):
    (line,) = mutations.check([Mutation(file, old, new, "tests/base/test_intervals.py")])
    assert problem in line


def test_a_mutation_needs_its_tests():
    (line,) = mutations.check([Mutation("base/intervals.py", "x", "y", "tests/test_none.py")])
    assert "tests/test_none.py does not exist" in line
