"""Memory for results: used again, never shared, bounded."""

import gc
import mmap
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinyldm.kernels import buffers


@pytest.fixture(autouse=True)
def reserve(monkeypatch):
    monkeypatch.setattr(buffers, "_reserve", buffers._Reserve())
    return buffers._reserve


LARGE = (1 << 16,)  # 256 kB
SIZE = 1 << 27  # bytes
STATISTICS = Path("/proc/self/statm")


def test_an_ordinary_array():
    y = buffers.empty((3, 100, 200))
    assert y.shape == (3, 100, 200)
    assert y.dtype == np.float32
    assert y.flags.c_contiguous
    assert y.flags.writeable
    assert y.ctypes.data % buffers.ALIGNMENT == 0


def test_memory_is_used_again():
    first = buffers.empty(LARGE)
    place = first.ctypes.data
    del first
    assert buffers.empty(LARGE).ctypes.data == place


def test_a_view_keeps_the_memory():
    first = buffers.empty(LARGE)
    view = first.reshape(2, -1)[1, ::2]
    place = first.ctypes.data
    view[:] = 7
    del first
    second = buffers.empty(LARGE)
    second[:] = 0
    assert second.ctypes.data != place
    assert (view == 7).all()


def test_small_arrays_are_left_to_numpy(reserve):
    kept = buffers.empty((10,))
    assert kept.base is None
    assert reserve.lent == 0


def test_where_memory_is_short_little_of_it_lies_idle(reserve):
    def idle():
        reserve.collect()
        return sum(piece.size for piece in reserve.idle)

    small = (buffers.LITTLE // 8,)  # half of what may lie idle
    held = [buffers.empty(small) for _ in range(5)]
    held.clear()
    assert idle() > 2 * buffers.LITTLE
    with buffers.frugal():
        assert idle() <= buffers.LITTLE
        places = {piece.start for piece in reserve.idle}
        assert buffers.empty((small[0] // 2 + 1,)).ctypes.data in places
        assert buffers.empty((small[0] // 2,)).ctypes.data not in places  # a half would hold the whole
        held = [buffers.empty(small) for _ in range(5)]
        held.clear()
        held = [buffers.empty((2 * small[0],))]
        assert idle() <= buffers.LITTLE
    assert reserve.frugal == 0


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.integers(1 << 15, 1 << 20), st.integers(0, 5)), max_size=60))
def test_arrays_never_overlap_and_memory_is_bounded(requests):
    reserve = buffers._reserve = buffers._Reserve()
    held = []
    for i, (size, dropped) in enumerate(requests):
        del held[:dropped]
        gc.collect(0)
        y = buffers.empty((size,))
        y[:] = i
        held.append((i, y))
        assert reserve.lent + sum(piece.size for piece in reserve.idle) <= buffers.SPARE * reserve.most_lent + size
    for i, y in held:
        assert (y == i).all()


@pytest.mark.skipif(not STATISTICS.exists(), reason="needs Linux")
def test_large_memory_comes_from_the_system_and_goes_back():
    def resident():
        return int(STATISTICS.read_text().split()[1]) * mmap.PAGESIZE

    before = resident()
    memory = buffers.fresh(SIZE)
    memory[:] = 1
    assert resident() - before > 0.9 * SIZE
    del memory
    assert resident() - before < 0.1 * SIZE


def test_more_than_there_is():
    with pytest.raises(MemoryError):
        buffers.fresh(1 << 60)
