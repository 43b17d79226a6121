"""`tinyldm.ops.embedding` and `timestep_embedding` against a lookup and a formula, entry by entry."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ops.strategies import assert_close, dtypes, few, fewer, normal, seeds, size

from tinyldm.errors import InputError
from tinyldm.ops import embedding, timestep_embedding


@fewer
@given(seeds, dtypes, st.lists(size(3), min_size=0, max_size=3), size(5, 1), size(4), st.sampled_from("iu"))
def test_embedding_looks_up_rows(seed, dtype, batch, rows, channels, kind):
    table = normal(seed, (rows, channels), dtype)
    ids = np.random.default_rng(seed).integers(0, rows, batch).astype(f"{kind}4")
    wanted = np.zeros((*batch, channels))
    for at in np.ndindex(*batch):
        wanted[at] = table[int(ids[at])]
    assert_close(embedding(ids, table), wanted, dtype)


@pytest.mark.parametrize(("ids", "message"), [([-1], "do not fit a table"), ([0, 5], "of 5 rows"), ([0.0], "integer")])
def test_embedding_refuses(ids, message):
    with pytest.raises(InputError, match=message):
        embedding(np.array(ids), np.zeros((5, 2)))


def naive_timestep_embedding(t, dim, flip, shift, period):
    half, rows = dim // 2, []
    for value in t:
        omega = [period ** (-k / (half - shift)) for k in range(half)]
        sines, cosines = [math.sin(float(value) * w) for w in omega], [math.cos(float(value) * w) for w in omega]
        rows.append((cosines + sines if flip else sines + cosines) + [0.0] * (dim % 2))
    return np.array(rows).reshape(len(t), dim)


@few
@given(
    st.lists(st.floats(0, 1000) | st.integers(0, 999), max_size=4),
    size(9),
    dtypes,
    st.booleans(),
    st.sampled_from([0.0, 0.5, 1.0]),
    st.sampled_from([10_000.0, 100.0]),
)
def test_timestep_embedding_is_the_formula(t, dim, dtype, flip, shift, period):
    if dim // 2 <= shift:
        shift = 0.0
    found = timestep_embedding(np.array(t), dim, flip_sin_to_cos=flip, freq_shift=shift, max_period=period, dtype=dtype)
    assert_close(found, naive_timestep_embedding(t, dim, flip, shift, period), dtype)


def test_timestep_embedding_refuses_a_shift_that_leaves_no_frequencies():
    with pytest.raises(InputError, match="below dim / 2 = 1"):
        timestep_embedding(np.array([1.0]), 2, freq_shift=1.0)
