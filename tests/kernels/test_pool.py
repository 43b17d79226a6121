"""Helpers: every task is done once or called off, errors come back to the caller, threads end."""

import threading
import time

import pytest

from tinyldm.kernels import pool
from tinyldm.kernels.pool import Crew, Task


def test_a_task_is_done_by_a_helper():
    crew, done = Crew(1), threading.Event()
    task = Task(done.set)
    crew.post(task)
    assert done.wait(10)
    task.finish()
    crew.dismiss()


def test_a_task_that_has_not_begun_is_called_off():
    task = Task(lambda: pytest.fail("was called off"))
    task.finish()
    task.run()


def test_an_error_comes_back():
    def fail():
        raise MemoryError("too much")

    crew, task = Crew(1), Task(fail)
    crew.post(task)
    while task.error is None:
        time.sleep(0.001)
    with pytest.raises(MemoryError, match="too much"):
        task.finish()
    crew.dismiss()


def test_dismissed_helpers_end():
    before = set(threading.enumerate())
    crew = Crew(3)
    helpers = set(threading.enumerate()) - before
    assert len(helpers) == 3
    crew.dismiss()
    for helper in helpers:
        helper.join(10)
        assert not helper.is_alive()


def test_a_helper_that_sleeps_wakes_up():
    crew = Crew(1)
    time.sleep(0.05)  # far longer than it watches
    done = threading.Event()
    crew.post(Task(done.set))
    assert done.wait(10)
    crew.dismiss()


def test_another_number_of_threads():
    with pool.using_threads(3):
        assert pool.threads() == 3
        crew = pool._crew(2)
    assert pool._State.crew is not crew
