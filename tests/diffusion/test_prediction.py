"""The conversions between epsilon, clean latent and velocity undo each other."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinyldm.diffusion import prediction
from tinyldm.errors import InputError

TO: dict[str, Callable[..., np.ndarray]] = {
    "epsilon": prediction.to_epsilon,
    "sample": prediction.to_sample,
    "v_prediction": prediction.to_velocity,
}


@given(st.integers(0, 2**32), st.floats(0.01, 0.99), st.sampled_from([np.float32, np.float64]))
@settings(deadline=None, max_examples=40)
def test_every_direction(seed: int, alpha_bar: float, dtype: type) -> None:
    rng = np.random.default_rng(seed)
    x0, epsilon = rng.standard_normal((2, 2, 3, 4)).astype(dtype)
    a = dtype(alpha_bar)
    z = np.sqrt(a) * x0 + np.sqrt(1 - a) * epsilon
    truth = {
        "sample": x0,
        "epsilon": epsilon,
        "v_prediction": np.sqrt(a) * epsilon - np.sqrt(1 - a) * x0,
    }
    tolerance = 1e-12 if dtype is np.float64 else 1e-4
    for source, output in truth.items():
        for target, convert in TO.items():
            got = convert(source, output, z, *prediction.signal_and_noise(a))
            assert got.dtype == dtype
            np.testing.assert_allclose(got, truth[target], atol=tolerance, err_msg=f"{source} to {target}")


def test_velocity_is_defined_where_the_signal_is_gone() -> None:
    z, v = np.ones((1, 2)), np.full((1, 2), 0.5)
    assert np.array_equal(prediction.to_sample("v_prediction", v, z, 0.0, 1.0), -v)
    assert np.array_equal(prediction.to_epsilon("v_prediction", v, z, 0.0, 1.0), z)


@pytest.mark.parametrize("convert", TO.values())
def test_unknown_type(convert: Callable[..., np.ndarray]) -> None:
    with pytest.raises(InputError, match="flow"):
        convert("flow", np.zeros(1), np.zeros(1), 0.6, 0.8)


@given(st.integers(0, 2**32), st.floats(0.1, 1), st.floats(1, 5))
@settings(deadline=None, max_examples=40)
def test_dynamic_threshold(seed: int, ratio: float, largest: float) -> None:
    x0 = np.random.default_rng(seed).standard_normal((3, 2, 4)) * 3
    got = prediction.dynamic_threshold(x0, ratio, largest)
    for before, after in zip(x0, got, strict=True):
        s = min(max(1.0, float(np.quantile(np.abs(before), ratio))), largest)
        np.testing.assert_allclose(after, np.clip(before, -s, s) / s)
    assert np.abs(got).max() <= 1
