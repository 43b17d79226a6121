"""The tables against diffusers', and their properties."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from golden.provenance import load_golden
from hypothesis import given, settings
from hypothesis import strategies as st

from tinyldm.diffusion import schedule
from tinyldm.errors import ConfigError, InputError

TENSORS, PROVENANCE = load_golden("diffusion/tables")


def tables(config: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    betas = schedule.make_betas(
        config.get("beta_schedule", "linear"),
        config.get("beta_start", 0.0001),
        config.get("beta_end", 0.02),
        config.get("num_train_timesteps", 1000),
    )
    if config.get("rescale_betas_zero_snr"):
        betas = schedule.rescale_zero_terminal_snr(betas)
    return betas, schedule.alpha_bar(betas)


@pytest.mark.parametrize("name", [n for n in PROVENANCE["cases"] if n != "zero_snr"])
def test_tables_have_the_bits_of_diffusers(name: str) -> None:
    betas, alpha_bar = tables(PROVENANCE["cases"][name])
    assert betas.tobytes() == TENSORS[f"{name}.betas"].tobytes()
    assert alpha_bar.tobytes() == TENSORS[f"{name}.alpha_bar"].tobytes()


def test_zero_snr_tables() -> None:
    # PyTorch's float32 square root (Intel's library) is not always the nearest, and the difference of two follows.
    betas, alpha_bar = tables(PROVENANCE["cases"]["zero_snr"])
    np.testing.assert_allclose(betas, TENSORS["zero_snr.betas"], rtol=0, atol=3e-4)
    np.testing.assert_allclose(alpha_bar, TENSORS["zero_snr.alpha_bar"], rtol=0, atol=5e-7)


SCHEDULES = st.tuples(
    st.sampled_from(["linear", "scaled_linear", "squaredcos_cap_v2"]), st.floats(1e-5, 1e-3), st.floats(2e-3, 0.05)
)


@given(SCHEDULES, st.integers(1, 300))
@settings(deadline=None, max_examples=50)
def test_schedule_is_monotone(kind: tuple[str, float, float], count: int) -> None:
    betas = schedule.make_betas(*kind, count)
    alpha_bar = schedule.alpha_bar(betas)
    sigmas, snr = schedule.sigmas(alpha_bar), schedule.snr(alpha_bar)
    assert betas.shape == alpha_bar.shape == (count,)
    assert {a.dtype for a in (betas, alpha_bar, sigmas, snr)} == {np.dtype(np.float32)}
    assert np.all(np.diff(alpha_bar) < 0)
    assert np.all(np.diff(sigmas) > 0)
    assert np.all((alpha_bar > 0) & (alpha_bar < 1))
    np.testing.assert_allclose(sigmas.astype(np.float64) ** 2 * snr, 1, rtol=1e-5)
    naive = [math.prod(1 - float(b) for b in betas[: t + 1]) for t in range(count)]
    np.testing.assert_allclose(alpha_bar, naive, rtol=1e-5)


@given(st.floats(-10, 10), st.floats(-10, 10), st.integers(1, 200))
@settings(deadline=None, max_examples=50)
def test_linspace(start: float, stop: float, count: int) -> None:
    got = schedule.linspace_f32(start, stop, count)
    np.testing.assert_allclose(got, np.linspace(start, stop, count), rtol=0, atol=1e-5)
    assert got[0] == np.float32(start)
    assert count == 1 or got[-1] == np.float32(stop)


@given(SCHEDULES, st.integers(3, 300))
@settings(deadline=None, max_examples=30)
def test_zero_terminal_snr(kind: tuple[str, float, float], count: int) -> None:
    before = schedule.alpha_bar(schedule.make_betas(*kind, count))
    betas = schedule.rescale_zero_terminal_snr(schedule.make_betas(*kind, count))
    after = schedule.alpha_bar(betas)
    assert betas[-1] == 1
    assert after[-1] == 0
    assert after[0] == pytest.approx(before[0], rel=1e-5)
    assert np.all(np.diff(after) < 0)
    assert np.all(after <= before * (1 + 1e-5))


def test_trained_betas_and_unknown_schedule() -> None:
    assert schedule.make_betas("linear", 0, 0, 2, [0.1, 0.2]).tolist() == [np.float32(0.1), np.float32(0.2)]
    with pytest.raises(ConfigError, match="trained_betas has 2 values"):
        schedule.make_betas("linear", 0, 0, 3, [0.1, 0.2])
    with pytest.raises(InputError, match="sigmoid"):
        schedule.make_betas("sigmoid", 0.1, 0.2, 10)
