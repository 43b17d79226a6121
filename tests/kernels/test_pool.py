"""Helpers: they take part, wake up and end; callers at the same time, and more threads than processors, do no harm."""

import threading
import time

import numpy as np
import pytest

from tinyldm import kernels
from tinyldm.kernels import pool
from tinyldm.kernels.fork import FINISHED, JOINED, OPEN, STATE
from tinyldm.kernels.pool import Crew

RNG = np.random.default_rng(0)
X = RNG.standard_normal((300, 512)).astype(np.float32)
WEIGHT = kernels.prepare_linear(RNG.standard_normal((512, 512)).astype(np.float32))


@pytest.fixture
def alone():
    """The product as one thread computes it."""
    with kernels.using_threads(1):
        return kernels.linear(X, WEIGHT).tobytes()


def join(crew, helpers):
    """Multiply until so many helpers took part in one product, for ten seconds at most."""
    end = time.monotonic() + 10
    while time.monotonic() < end:
        kernels.linear(X, WEIGHT)
        if crew.board[JOINED] == helpers:
            return True
    return False


@pytest.mark.parametrize("helpers", [1, 3])
def test_helpers_take_part(alone, helpers):
    with kernels.using_threads(1 + helpers):
        assert kernels.linear(X, WEIGHT).tobytes() == alone
        assert join(pool._State.crew, helpers)
        assert pool._State.crew.board[FINISHED] == helpers
        assert not pool._State.crew.board[STATE] & OPEN


def test_a_helper_that_sleeps_wakes_up():
    with kernels.using_threads(2):
        kernels.linear(X, WEIGHT)
        crew, end = pool._State.crew, time.monotonic() + 10
        while crew._asleep < crew.helpers and time.monotonic() < end:
            time.sleep(0.01)
        assert crew._asleep == crew.helpers >= 1
        assert join(crew, 1)


def test_several_callers_at_once(alone):
    def call(i):
        for _ in range(40):
            results[i] |= {kernels.linear(X, WEIGHT).tobytes()}

    results = [set() for _ in range(4)]
    with kernels.using_threads(3):
        callers = [threading.Thread(target=call, args=(i,)) for i in range(4)]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()
    assert results == [{alone}] * 4


def test_many_small_jobs_and_many_helpers():
    x = RNG.standard_normal((64, 512)).astype(np.float32)
    with kernels.using_threads(9):
        assert len({kernels.linear(x, WEIGHT).tobytes() for _ in range(300)}) == 1


def test_dismissed_helpers_end():
    before = set(threading.enumerate())
    crew = Crew(3)
    helpers = set(threading.enumerate()) - before
    assert len(helpers) == 3
    crew.dismiss()
    for helper in helpers:
        helper.join(10)
        assert not helper.is_alive()


def test_another_number_of_threads():
    before = pool.threads()
    try:
        pool.set_threads(3)
        assert pool.threads() == 3
        crew = pool._crew(2)
        pool.set_threads(2)
        assert pool._State.crew is not crew
    finally:
        pool.set_threads(before)


def test_the_crew_grows_with_what_is_asked_for_and_is_kept_for_less():
    crew = pool._crew(2)
    larger = pool._crew(crew.helpers + 1)
    assert larger is not crew
    assert larger.helpers == crew.helpers + 1
    assert pool._crew(1) is larger


def test_the_number_of_threads_is_that_of_the_block_and_of_no_other_thread():
    """Two callers at once, each within a block of its own: neither sees the other's, nor does a third."""
    found, meet = {}, threading.Barrier(2)

    def call(count):
        with pool.using_threads(count):
            meet.wait(10)
            found[count] = [pool.threads(), pool.on_threads(count + 10, pool.threads)(), pool.threads()]
            meet.wait(10)
        found[-count] = pool.threads()

    before = pool.threads()
    callers = [threading.Thread(target=call, args=(count,)) for count in (5, 7)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert found == {5: [5, 15, 5], 7: [7, 17, 7], -5: before, -7: before}
    assert pool.threads() == before
