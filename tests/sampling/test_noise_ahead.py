"""Noise drawn one step ahead in a thread: the same numbers, a bounded number of them, and nothing left behind."""

import threading

import pytest
import torch

from holdfast.sampling import noise
from holdfast.sampling.noise_ahead import MAX_AHEAD, NoiseAhead, NoiseKey

LIKE = torch.zeros(1, 4, 3, 5, 6)


def make_key(step, repeat=0, seed=7):
    return NoiseKey(tuple(LIKE.shape), seed, step, repeat)


class Drawn:
    """Draws noise, and remembers in which thread."""

    def __init__(self):
        self.threads = {}

    def __call__(self, key):
        self.threads[key] = threading.current_thread()
        return noise._draw_noise(key)


def noise_threads():
    return [t for t in threading.enumerate() if t.name.startswith("noise")]


def test_the_next_steps_noise_is_drawn_in_a_thread_and_has_the_same_numbers():
    draw = Drawn()
    ahead = NoiseAhead(draw)
    with ahead.run():
        for step in range(4):
            for repeat in range(2):
                found = ahead.take(make_key(step, repeat))
                assert torch.equal(found, noise.keyed_noise(LIKE, 7, step, repeat))
            ahead._pool.submit(int).result()  # the step takes its time: the thread is done
    own = {key.step for key, thread in draw.threads.items() if thread is threading.main_thread()}
    assert own == {0}
    assert not noise_threads()


def test_outside_the_block_and_on_a_cpu_no_thread_draws():
    draw = Drawn()
    ahead = NoiseAhead(draw)
    ahead.take(make_key(0))
    assert draw.threads.keys() == {make_key(0)}
    with noise.draw_ahead(torch.device("cpu")):
        noise.keyed_noise(LIKE, 7, 0)
        assert not noise_threads()
    with noise.draw_ahead(torch.device("cuda")):
        drawn = [noise.keyed_noise(LIKE, 7, step) for step in range(3)]
        assert noise_threads()
    assert not noise_threads()
    for step, found in enumerate(drawn):
        assert torch.equal(found, noise.keyed_noise(LIKE, 7, step))


def test_the_noise_that_waits_is_bounded_and_belongs_to_the_last_series():
    ahead = NoiseAhead(Drawn())
    with ahead.run():
        for repeat in range(3 * MAX_AHEAD):
            ahead.take(make_key(0, repeat))
        assert len(ahead._ahead) == MAX_AHEAD
        ahead.take(make_key(5))
        assert ahead._ahead.keys() == {make_key(6)}
        ahead.take(make_key(0, seed=8))
        assert ahead._ahead.keys() == {make_key(1, seed=8)}
    assert not ahead._ahead


def test_what_drawing_raises_is_raised_where_the_noise_is_asked_for():
    def draw(key):
        if key.step == 1:
            raise MemoryError("no room")
        return LIKE

    ahead = NoiseAhead(draw)
    with ahead.run():
        ahead.take(make_key(0))
        with pytest.raises(MemoryError, match="no room"):
            ahead.take(make_key(1))
        assert ahead.take(make_key(2)) is LIKE
