"""The forward process and the training loss."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinyldm.diffusion import forward, prediction, schedule
from tinyldm.errors import InputError

ALPHA_BAR = schedule.alpha_bar(schedule.make_betas("scaled_linear", 0.00085, 0.012, 1000))


@given(st.integers(0, 2**32), st.lists(st.integers(0, 999), min_size=1, max_size=4))
@settings(deadline=None, max_examples=40)
def test_each_sample_has_its_own_timestep(seed: int, timesteps: list[int]) -> None:
    z0, noise = np.random.default_rng(seed).standard_normal((2, len(timesteps), 2, 3, 3))
    t = np.array(timesteps)
    noisy, v = forward.add_noise(z0, noise, t, ALPHA_BAR), forward.velocity(z0, noise, t, ALPHA_BAR)
    for i, a in enumerate(ALPHA_BAR[t].astype(np.float64)):
        np.testing.assert_allclose(noisy[i], np.sqrt(a) * z0[i] + np.sqrt(1 - a) * noise[i], atol=1e-12)
        np.testing.assert_allclose(v[i], np.sqrt(a) * noise[i] - np.sqrt(1 - a) * z0[i], atol=1e-12)
        np.testing.assert_allclose(
            prediction.to_sample("v_prediction", v[i], noisy[i], np.sqrt(a), np.sqrt(1 - a)), z0[i], atol=1e-9
        )


@pytest.mark.parametrize("t", [0, 200, 999])
def test_marginal_statistics(t: int) -> None:
    rng = np.random.default_rng(t)
    z = forward.add_noise(np.full((1, 400_000), 2.0), rng.standard_normal((1, 400_000)), t, ALPHA_BAR)
    assert z.mean() == pytest.approx(2 * np.sqrt(ALPHA_BAR[t]), abs=1e-2)
    assert z.var() == pytest.approx(1 - ALPHA_BAR[t], abs=1e-2)


def test_one_step_at_a_time_is_the_closed_form() -> None:
    rng = np.random.default_rng(0)
    betas = schedule.make_betas("linear", 0.01, 0.2, 20)
    z = np.full((1, 200_000), 3.0)
    for beta in betas.astype(np.float64):
        z = np.sqrt(1 - beta) * z + np.sqrt(beta) * rng.standard_normal(z.shape)
    alpha_bar = schedule.alpha_bar(betas)[-1]
    assert z.mean() == pytest.approx(3 * np.sqrt(alpha_bar), abs=1e-2)
    assert z.var() == pytest.approx(1 - alpha_bar, abs=1e-2)


def test_dtype_is_kept() -> None:
    z = np.ones((2, 3), np.float32)
    assert forward.add_noise(z, z, 5, ALPHA_BAR).dtype == np.float32
    assert forward.velocity(z, z, np.array([5, 6]), ALPHA_BAR).dtype == np.float32


@pytest.mark.parametrize("kind", prediction.PREDICTION_TYPES)
def test_training_loss_of_a_perfect_and_a_zero_model(kind: str) -> None:
    z0, noise = np.random.default_rng(3).standard_normal((2, 4, 2, 3, 3))
    t = np.array([0, 10, 500, 999])
    targets = {"epsilon": noise, "sample": z0, "v_prediction": forward.velocity(z0, noise, t, ALPHA_BAR)}

    def zero(z: np.ndarray, t: np.ndarray) -> np.ndarray:
        assert np.array_equal(z, forward.add_noise(z0, noise, t, ALPHA_BAR))
        return np.zeros_like(z)

    assert forward.training_loss(lambda z, t: targets[kind], z0, noise, t, ALPHA_BAR, kind) == 0
    loss = forward.training_loss(zero, z0, noise, t, ALPHA_BAR, kind)
    assert loss == pytest.approx(np.mean(targets[kind] ** 2))


@pytest.mark.parametrize("t", [-1, 1000, 0.5, [0, 1, 2], [[0, 1]], []])
def test_bad_timesteps(t: object) -> None:
    with pytest.raises(InputError, match="timestep"):
        forward.add_noise(np.ones((2, 3)), np.ones((2, 3)), t, ALPHA_BAR)  # type: ignore[arg-type]


def test_bad_prediction_type() -> None:
    with pytest.raises(InputError, match="flow"):
        forward.training_loss(lambda z, t: z, np.ones((2, 3)), np.ones((2, 3)), np.array([1, 2]), ALPHA_BAR, "flow")
