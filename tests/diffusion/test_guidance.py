"""Guidance against its equations."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tinyldm.diffusion.prediction import classifier_free_guidance, rescale_guidance


@given(st.integers(0, 2**32), st.floats(-2, 20), st.sampled_from([np.float32, np.float64]))
@settings(deadline=None, max_examples=30)
def test_guidance(seed: int, scale: float, dtype: type) -> None:
    e, c = np.random.default_rng(seed).standard_normal((2, 2, 3, 4)).astype(dtype)
    got = classifier_free_guidance(e, c, scale)
    assert got.dtype == dtype
    np.testing.assert_allclose(got, (1 - scale) * e + scale * c, rtol=1e-4, atol=1e-4)


@given(st.integers(0, 2**32), st.floats(0, 1))
@settings(deadline=None, max_examples=30)
def test_rescale(seed: int, amount: float) -> None:
    guided, c = np.random.default_rng(seed).standard_normal((2, 3, 2, 4, 4))
    guided *= 5
    got = rescale_guidance(guided, c, amount)
    for g, w, r in zip(guided, c, got, strict=True):
        np.testing.assert_allclose(r, (1 - amount + amount * np.std(w, ddof=1) / np.std(g, ddof=1)) * g)
