r"""The schedule's curves: how much of a latent is signal at each timestep, and where a sampler's steps are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tinyldm.diffusion import schedule
from tinyldm.diffusion.samplers import Sampler, find_sampler, make_sampler
from tinyldm.diffusion.samplers.flow import FlowSampler
from tinyldm.diffusion.samplers.registry import takes_schedules
from tinyldm.server.refusals import Refusal
from tinyldm.typing import Array

POINTS = 251  # of a curve


@dataclass(frozen=True)
class Curve:
    """A schedule at some timesteps `(P,)`: alpha-bar, the signal-to-noise ratio and sigma, `(P,)` each.

    Where nothing but noise or nothing but signal is left, one of the latter two is infinite.
    """

    timesteps: Array
    alpha_bar: Array
    snr: Array
    sigma: Array


@dataclass(frozen=True)
class Schedule:
    """The curve of a whole schedule, and the same at the timesteps that a sampler's calls of the network are at."""

    curve: Curve
    visited: Curve
    sampler: Sampler


def scheduled(
    config: Mapping[str, Any],
    sampler: str,
    steps: int,
    *,
    betas: str | None = None,
    zero_snr: bool = False,
    spacing: str | None = None,
    levels: str | None = None,
) -> Schedule:
    """The schedule of a published config and the steps of a sampler in it, either of them changed.

    `betas` is a schedule of `schedule.make_betas` between the config's first and last; `zero_snr` brings its end to
    pure noise; `spacing` is one of `schedule.spaced_timesteps`, `levels` one of `spacing.SIGMA_SCHEDULES`. Raises
    `InputError` and `Refusal` for what the sampler can't honour.
    """
    options: dict[str, Any] = {} if betas is None else {"beta_schedule": betas, "trained_betas": None}
    options |= {"rescale_betas_zero_snr": True} if zero_snr else {}
    options |= {} if spacing is None else {"timestep_spacing": spacing}
    if levels is not None:
        if not takes_schedules(find_sampler(sampler).removesuffix(f"_{levels}")):
            raise Refusal(f"levels: {sampler} goes by timesteps; noise levels are chosen for such as euler", "levels")
        options["sigma_schedule"] = levels
    made = make_sampler(sampler, config, steps, **options)
    whole = np.linspace(0, made.config.num_train_timesteps - 1, POINTS)
    return Schedule(curve_at(made, np.round(whole)), curve_at(made, np.asarray(made.timesteps, np.float64)), made)


def curve_at(sampler: Sampler, timesteps: Array) -> Curve:
    """The schedule of a sampler at these timesteps, between two of them linear."""
    share = signal_share(sampler, timesteps)
    with np.errstate(divide="ignore"):
        return Curve(timesteps, share, schedule.snr(share), schedule.sigmas(share))


def signal_share(sampler: Sampler, timesteps: Array) -> Array:  # (P,) -> (P,)
    r"""$\bar\alpha$ at these timesteps, the signal's share of the latent's power.

    Of flow matching, whose latent is $(1 - \sigma)\,x_0 + \sigma\,\epsilon$ with $\sigma = t / T$, it is that of a
    latent brought to unit variance.
    """
    if isinstance(sampler, FlowSampler):
        sigma = timesteps / sampler.config.num_train_timesteps
        return (1 - sigma) ** 2 / ((1 - sigma) ** 2 + sigma**2)
    return np.interp(timesteps, np.arange(len(sampler.alpha_bar)), sampler.alpha_bar.astype(np.float64))
