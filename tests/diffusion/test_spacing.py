"""Which timesteps and noise levels are visited."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinyldm.diffusion import schedule
from tinyldm.diffusion.schedule import spaced_timesteps
from tinyldm.diffusion.spacing import karras_sigmas, sigma_to_timestep

TABLE = schedule.sigmas(schedule.alpha_bar(schedule.make_betas("scaled_linear", 0.00085, 0.012, 1000)))


@given(st.sampled_from(["leading", "linspace", "trailing"]), st.integers(1, 1000))
@settings(deadline=None, max_examples=60)
def test_timesteps_descend_within_range(spacing: str, steps: int) -> None:
    t = spaced_timesteps(spacing, steps, 1000, 0)
    assert len(t) - steps in (0, 1)
    assert np.all(np.diff(t) < 0)
    assert t[-1] >= -1
    assert t[0] <= 999


def test_table_2_of_the_paper() -> None:
    assert spaced_timesteps("linspace", 10, 1000, 0).round().tolist() == [
        999,
        888,
        777,
        666,
        555,
        444,
        333,
        222,
        111,
        0,
    ]
    assert spaced_timesteps("leading", 10, 1000, 1).tolist() == [901, 801, 701, 601, 501, 401, 301, 201, 101, 1]
    assert spaced_timesteps("trailing", 10, 1000, 1).tolist() == [999, 899, 799, 699, 599, 499, 399, 299, 199, 99]


@given(st.floats(0.5, 100), st.floats(0.01, 0.4), st.integers(2, 60))
@settings(deadline=None, max_examples=40)
def test_karras(largest: float, smallest: float, steps: int) -> None:
    sigmas = karras_sigmas(largest, smallest, steps)
    assert sigmas[0] == pytest.approx(largest)
    assert sigmas[-1] == pytest.approx(smallest)
    assert np.all(np.diff(sigmas) < 0)
    np.testing.assert_allclose(np.diff(sigmas ** (1 / 7), 2), 0, atol=1e-9)


@given(st.floats(0, 999))
@settings(deadline=None, max_examples=60)
def test_sigma_to_timestep_inverts_the_table(t: float) -> None:
    sigma = np.exp(np.interp(t, np.arange(1000), np.log(TABLE.astype(np.float64))))
    assert sigma_to_timestep(np.array([sigma]), TABLE)[0] == pytest.approx(t, abs=2e-3)


def test_sigma_outside_the_table() -> None:
    assert sigma_to_timestep(np.array([0.0, 1e-3, 1e3]), TABLE).tolist() == [0, 0, 999]
