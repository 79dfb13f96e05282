"""Shared by the page's tests: Gradio opens event loops that it leaves open, and a warning is an error."""

import asyncio

import pytest


@pytest.fixture(scope="module", autouse=True)
def loops():
    """Close what was opened."""
    made, new = [], asyncio.new_event_loop
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(asyncio, "new_event_loop", lambda: made.append(new()) or made[-1])
        yield
    asyncio.set_event_loop(None)
    for loop in made:
        loop.close()
