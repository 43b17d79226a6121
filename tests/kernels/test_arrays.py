"""What arrays every operator takes: any strides, read-only; and numbers that are none come out again, never hidden."""

from __future__ import annotations

import numpy as np
import pytest
from golden.kernels.cases import CASES, arrays, call, prepared

from tinyldm import kernels, ops


def every_second(a):
    """The same values, with a gap behind each, read-only."""
    wide = np.repeat(a, 2, axis=-1)
    wide[..., 1::2] = np.nan
    wide.flags.writeable = False
    return wide[..., ::2]


def backwards(a):
    """The same values, the last one first in memory."""
    return np.ascontiguousarray(np.flip(a))[(slice(None, None, -1),) * a.ndim]


def axes_reversed(a):
    """The same values, in Fortran's order."""
    return np.asfortranarray(a)


@pytest.mark.parametrize("view", [every_second, backwards, axes_reversed])
@pytest.mark.parametrize("case", CASES)
def test_strides(case, view):
    inputs = arrays(case)
    views = [view(a) for a in inputs]
    for a, b in zip(inputs, views, strict=True):
        np.testing.assert_array_equal(a, b)
    before = [a.tobytes() for a in views]
    for precision in ("fast", "strict"):
        wanted = call(kernels, case, prepared(case, inputs, precision))
        assert call(kernels, case, prepared(case, views, precision)).tobytes() == wanted.tobytes()
    assert [a.tobytes() for a in views] == before


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("precision", ["fast", "strict"])
def test_what_is_no_number_is_not_hidden(case, precision, value):
    """Wherever the math has no finite result, the kernel has none: a model that overflows must be seen to."""
    _, shapes, _ = CASES[case]
    for i, name in enumerate(shapes):
        if "." in name:  # a weight
            continue
        inputs = arrays(case)
        inputs[i].reshape(-1)[inputs[i].size // 3] = value
        with np.errstate(all="ignore"):
            wanted = call(ops, case, [a.astype(np.float64) for a in inputs])
            found = call(kernels, case, prepared(case, inputs, precision))
        assert not np.isfinite(found[~np.isfinite(wanted)]).any()
