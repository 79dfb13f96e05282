"""A scene and its edit: a red disc becomes blue."""

import pytest

from . import scenes
from .checks import COUNT


@pytest.fixture(scope="session")
def source():
    return scenes.clip(range(COUNT))


@pytest.fixture(scope="session")
def edited():
    return scenes.clip(range(COUNT), scenes.BLUE)
