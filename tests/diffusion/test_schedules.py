"""Schedules of noise levels by name and by hand, for every sampler that takes levels."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from tinyldm.diffusion.random import TorchGenerator
from tinyldm.diffusion.samplers import SAMPLERS, find_sampler, make_sampler
from tinyldm.diffusion.samplers.base import denoise
from tinyldm.diffusion.samplers.sigma import SigmaSampler
from tinyldm.diffusion.spacing import ALIGNED, SIGMA_SCHEDULES
from tinyldm.errors import ConfigError, InputError

CONFIG = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
OVER_LEVELS = [name for name, entry in SAMPLERS.items() if issubclass(entry.sampler, SigmaSampler)]
TABLE = make_sampler("euler", CONFIG, 10).sigma_table.astype(np.float64)  # type: ignore[attr-defined]


def levels(name: str, steps: int, sampler: str = "euler") -> np.ndarray:
    return make_sampler(sampler, CONFIG, steps, sigma_schedule=name).sigmas.astype(np.float64)  # type: ignore[attr-defined]


def log_linear(t: float) -> float:
    """k-diffusion's `t_to_sigma`."""
    low, w = math.floor(t), t % 1
    return math.exp((1 - w) * math.log(TABLE[low]) + (w * math.log(TABLE[low + 1]) if w else 0.0))


def by_definition(name: str, n: int) -> list[float]:
    """The schedules of the web interface's `sd_schedulers.py`, one level at a time."""
    low, high = TABLE[0], TABLE[-1]
    if name == "uniform":
        return [*(log_linear(999 - 999 * i / (n - 1)) for i in range(n)), 0.0]
    if name == "sgm_uniform":
        return [*(log_linear(999 - 999 * i / n) for i in range(n)), 0.0]
    if name == "simple":
        return [*(TABLE[-(1 + int(i * (1000 / n)))] for i in range(n)), 0.0]
    if name == "kl_optimal":
        return [math.tan(i / n * math.atan(low) + (1 - i / n) * math.atan(high)) for i in range(n + 1)]
    if name == "exponential":
        return [*(high * (low / high) ** (i / (n - 1)) for i in range(n)), 0.0]
    rho = 7
    return [*((high ** (1 / rho) + i / (n - 1) * (low ** (1 / rho) - high ** (1 / rho))) ** rho for i in range(n)), 0.0]


@pytest.mark.parametrize("name", ["uniform", "sgm_uniform", "simple", "kl_optimal", "exponential", "karras"])
@pytest.mark.parametrize("steps", [2, 3, 10, 50])
def test_levels_are_those_of_the_definition(name: str, steps: int) -> None:
    np.testing.assert_allclose(levels(name, steps), by_definition(name, steps), rtol=3e-6, atol=1e-7)


def test_align_your_steps() -> None:
    np.testing.assert_allclose(levels("align_your_steps", 11), [*ALIGNED, 0], rtol=1e-7)
    ten = levels("align_your_steps", 10)
    np.testing.assert_allclose(ten[[0, -2]], [ALIGNED[0], ALIGNED[-1]], rtol=1e-6)
    # u = 1/9 lies 10/9 of a step into the published list.
    between = math.exp(math.log(ALIGNED[1]) + (math.log(ALIGNED[2]) - math.log(ALIGNED[1])) / 9)
    assert ten[1] == pytest.approx(between, rel=1e-6)
    assert levels("align_your_steps_xl", 11)[1] == pytest.approx(6.315)


@pytest.mark.parametrize("sampler", OVER_LEVELS)
@pytest.mark.parametrize("schedule", SIGMA_SCHEDULES)
def test_every_sampler_runs_every_schedule(sampler: str, schedule: str) -> None:
    made: Any = make_sampler(sampler, CONFIG, 6, sigma_schedule=schedule)
    assert len(made.sigmas) == 7
    assert np.all(np.diff(made.sigmas) <= 0)
    z = TorchGenerator(0).randn((1, 4, 2, 2)) * np.float32(made.init_noise_sigma)
    end = denoise(lambda z, t: z / 2, made, z, TorchGenerator(1))
    assert np.isfinite(end).all()
    assert end.dtype == np.float32


@pytest.mark.parametrize("sampler", OVER_LEVELS)
def test_levels_by_hand(sampler: str) -> None:
    made: Any = make_sampler(sampler, CONFIG, 3, sigmas=(10.0, 3.0, 0.5, 0.1))
    assert made.sigmas.tolist() == [np.float32(s) for s in (10, 3, 0.5, 0.1)]
    z = TorchGenerator(0).randn((1, 4, 2, 2)) * np.float32(made.init_noise_sigma)
    assert np.isfinite(denoise(lambda z, t: z / 2, made, z, TorchGenerator(1))).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sigmas": (3.0, 1.0)}, "2 levels for 3 steps"),
        ({"sigmas": (3.0, 1.0, 2.0)}, "go down"),
        ({"sigmas": (3.0, 1.0, 0.0)}, "above 0"),
        ({"sigmas": (3.0, -1.0, 0.0)}, "sigmas"),
        ({"sigma_schedule": "karas"}, "sigma_schedule is 'karas'; it takes 'karras' or"),
        ({"use_karras_sigmas": True, "use_beta_sigmas": True}, "use_karras_sigmas and use_beta_sigmas are both on"),
    ],
)
def test_what_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises((InputError, ConfigError), match=message):
        make_sampler("euler", CONFIG, 3, **options)


@pytest.mark.parametrize(
    ("called", "name"),
    [
        ("Euler Karras", "euler_karras"),
        ("DPM++ 2M SDE Exponential", "dpm++_2m_sde_exponential"),
        ("k_heun_karras", "heun_karras"),
        ("UniPC SGM Uniform", "unipc_sgm_uniform"),
        ("Euler a Align Your Steps", "euler_a_align_your_steps"),
    ],
)
def test_a_name_may_end_in_a_schedule(called: str, name: str) -> None:
    assert find_sampler(called) == name
    made: Any = make_sampler(called, CONFIG, 5)
    assert made.name == name
    assert made.config.chosen_schedule() is not None


def test_what_is_given_by_hand_wins_over_the_file() -> None:
    config = CONFIG | {"use_karras_sigmas": True}
    made: Any = make_sampler("euler", config, 3, sigma_schedule="simple")
    assert made.sigmas.tolist() == np.float32(by_definition("simple", 3)).tolist()
    made = make_sampler("dpm++_2m_karras", config, 3, sigma_schedule="simple", sigmas=(3.0, 2.0, 1.0))
    assert made.sigmas.tolist() == [3, 2, 1, 0]


def test_no_schedule_for_samplers_without_levels() -> None:
    with pytest.raises(InputError, match="ddim_karras"):
        make_sampler("ddim_karras", CONFIG, 5)
