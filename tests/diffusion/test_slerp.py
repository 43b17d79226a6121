"""Between two noises: the ends, the length, the naive loop, and the web interface's columns."""

from __future__ import annotations

import math

import numpy as np
from golden.provenance import load_golden
from hypothesis import given
from hypothesis import strategies as st

from tinyldm.diffusion.random import torch_randn
from tinyldm.diffusion.slerp import slerp

GOLDEN, PROVENANCE = load_golden("pipelines/editing")


@given(st.integers(0, 2**32 - 1), st.floats(0, 1))
def test_a_loop_says_the_same(seed: int, amount: float) -> None:
    a, b = np.random.default_rng(seed).standard_normal((2, 3, 5, 4))
    found = slerp(a, b, amount, axis=1)
    for n in range(3):
        for c in range(4):
            u, v = a[n, :, c], b[n, :, c]
            omega = math.acos(sum(u * v) / math.sqrt(sum(u * u) * sum(v * v)))
            wanted = (math.sin((1 - amount) * omega) * u + math.sin(amount * omega) * v) / math.sin(omega)
            np.testing.assert_allclose(found[n, :, c], wanted, rtol=0, atol=1e-9)


@given(st.integers(0, 2**32 - 1), st.floats(0, 1))
def test_unit_vectors_stay_on_the_sphere(seed: int, amount: float) -> None:
    a, b = np.random.default_rng(seed).standard_normal((2, 40))
    a, b = a / np.linalg.norm(a), b / np.linalg.norm(b)
    assert abs(np.linalg.norm(slerp(a, b, amount, axis=0)) - 1) < 1e-9


def test_the_ends_and_what_has_no_arc() -> None:
    a, b = np.random.default_rng(0).standard_normal((2, 6)).astype(np.float32)
    np.testing.assert_allclose(slerp(a, b, 0.0, axis=0), a, rtol=1e-6)
    np.testing.assert_allclose(slerp(a, b, 1.0, axis=0), b, rtol=1e-6)
    assert slerp(a, b, 0.5, axis=0).dtype == np.float32
    np.testing.assert_allclose(slerp(a, a, 0.3, axis=0), a, rtol=1e-6)
    np.testing.assert_allclose(slerp(a, -a, 0.25, axis=0), a / 2, rtol=1e-5)
    several = slerp(a, b, np.array([[0.0], [0.5], [1.0]]), axis=0)
    np.testing.assert_allclose(several[1], slerp(a, b, 0.5, axis=0), rtol=1e-6)


def test_columns_as_the_web_interface_does() -> None:
    case = PROVENANCE["variation"]
    a, b = (torch_randn(tuple(case["shape"]), seed=case[name]) for name in ("seed", "variation_seed"))
    np.testing.assert_allclose(slerp(a, b, case["variation_strength"], axis=1), GOLDEN["noise"], rtol=0, atol=2e-6)
