r"""What all samplers share: the interface, the two ways of writing a noisy latent, and the loop.

A sampler walks a list of timesteps from noise to picture; the model is a black box. One picture is

    z = sampler.init_noise_sigma * noise
    for i, t in enumerate(sampler.timesteps):
        output = model(sampler.scale_input(z, i), t)
        z = sampler.step(output, i, z, rng)

Some samplers keep a latent of constant variance, $z = \sqrt{\bar\alpha} x_0 + \sqrt{1 - \bar\alpha} \epsilon$
("variance preserving": DDPM, DDIM, PNDM, LCM); others let the noise stand on top of the signal,
$z = x_0 + \sigma\epsilon$ ("variance exploding": Euler, LMS), and divide by $\sqrt{\sigma^2 + 1}$ before the model sees
it. The two differ by that factor only.

Tables are float32, rounded as in the published code; the arithmetic of a step runs in the dtype of `z`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar, Protocol

import numpy as np

from tinyldm.diffusion import prediction, schedule
from tinyldm.diffusion.config import SchedulerConfig
from tinyldm.diffusion.spacing import karras_sigmas, sigma_to_timestep, spaced_timesteps
from tinyldm.errors import ConfigError, InputError


class NoiseSource(Protocol):
    """Where a sampler takes noise from: a `TorchGenerator`, or anything with its `randn`."""

    def randn(self, shape: tuple[int, ...]) -> np.ndarray:
        """Standard normals of the shape, in the axis order of the latent."""
        ...


class Sampler(ABC):
    """One run of a sampler over `steps` steps; make a new one for each picture, since solvers keep a history.

    `timesteps` are what the model is given, in order: int64, or float32 where a sampler visits fractional ones. There
    may be a few more than `steps`. `init_noise_sigma` is the standard deviation of the first latent.
    """

    scheduler_class: ClassVar[str]
    timesteps: np.ndarray
    init_noise_sigma: float = 1.0

    def __init__(self, config: SchedulerConfig, steps: int):
        if not 1 <= steps <= config.num_train_timesteps:
            raise InputError(f"steps: {steps} is out of range; it must be from 1 to {config.num_train_timesteps}")
        self.config = config
        self.steps = steps
        betas = schedule.make_betas(
            config.beta_schedule, config.beta_start, config.beta_end, config.num_train_timesteps, config.trained_betas
        )
        if config.rescale_betas_zero_snr:
            betas = schedule.rescale_zero_terminal_snr(betas)
        self.alpha_bar = schedule.alpha_bar(betas)

    def scale_input(self, z: np.ndarray, i: int) -> np.ndarray:
        """The latent as the model takes it at step `i`: of unit variance."""
        return z

    @abstractmethod
    def step(self, output: np.ndarray, i: int, z: np.ndarray, rng: NoiseSource | None = None) -> np.ndarray:
        """The next, less noisy latent, from the model's `output` at step `i` for the latent `z`; both (N, …).

        Steps are taken in order, from `start` to the last. `rng` is asked for noise by the samplers that add some.
        """

    @abstractmethod
    def add_noise(self, z0: np.ndarray, noise: np.ndarray, i: int) -> np.ndarray:
        """The clean latent `z0` as it would look before step `i`: where image-to-image begins. All (N, …)."""

    def start(self, strength: float) -> int:
        """The first step for image-to-image of this strength, from 0 (keep the picture) to 1 (all steps)."""
        if not 0 <= strength <= 1:
            raise InputError(f"strength: {strength} is out of range; it must be from 0 to 1")
        taken = int(self.steps * strength)
        if taken < 1:
            raise InputError(f"strength {strength} of {self.steps} steps leaves no step to take; raise one of them")
        return self.steps - taken

    def spaced_timesteps(self, steps: int) -> np.ndarray:
        """Descending timesteps in the spacing of the config, float64."""
        c = self.config
        return spaced_timesteps(c.timestep_spacing, steps, c.num_train_timesteps, c.steps_offset)


class AlphaBarSampler(Sampler):
    r"""A sampler of variance-preserving latents, whose steps go from one $\bar\alpha$ to the next."""

    def __init__(self, config: SchedulerConfig, steps: int):
        super().__init__(config, steps)
        self.final_alpha_bar = np.float32(1) if config.set_alpha_to_one else self.alpha_bar[0]
        self.timesteps = self.make_timesteps()
        if self.timesteps.max() >= config.num_train_timesteps:
            raise ConfigError(
                f"scheduler config: steps_offset {config.steps_offset} with {steps} {config.timestep_spacing} steps "
                f"visits timestep {self.timesteps.max()}; the model knows 0 to {config.num_train_timesteps - 1}"
            )
        if config.prediction_type == "epsilon" and not self.alpha_bar[self.timesteps].all():
            raise ConfigError(
                "scheduler config: rescale_betas_zero_snr with prediction_type 'epsilon' begins at pure noise, from "
                "which a noise prediction tells nothing of the picture; prediction_type 'v_prediction' does"
            )

    def make_timesteps(self) -> np.ndarray:
        """The timesteps of the run, int64."""
        return np.round(self.spaced_timesteps(self.steps)).astype(np.int64)

    def alpha_bar_at(self, t: int, z: np.ndarray) -> np.floating:
        r"""$\bar\alpha_t$ as a number of the dtype of `z`; a negative `t` is past the last step."""
        return z.dtype.type(self.alpha_bar[t] if t >= 0 else self.final_alpha_bar)

    def bounded(self, x0: np.ndarray) -> np.ndarray:
        """The predicted clean latent, held in bounds as the config says."""
        c = self.config
        if c.thresholding:
            return prediction.dynamic_threshold(x0, c.dynamic_thresholding_ratio, c.sample_max_value)
        if c.clip_sample:
            return np.clip(x0, -c.clip_sample_range, c.clip_sample_range)
        return x0

    def add_noise(self, z0: np.ndarray, noise: np.ndarray, i: int) -> np.ndarray:
        """See `Sampler.add_noise`; here a draw from the forward process (DDPM, eq. 4)."""
        signal, sigma = prediction.signal_and_noise(self.alpha_bar_at(int(self.timesteps[i]), z0))
        return signal * z0 + sigma * noise


# Zero terminal SNR would put the first sigma at infinity; the smallest float16 stands in for an alpha-bar of 0.
TINY_ALPHA_BAR = np.float32(2**-24)


class SigmaSampler(Sampler):
    r"""A sampler that goes down a list of noise levels $\sigma_0 > \sigma_1 > \dots$, one longer than the timesteps."""

    sigmas: np.ndarray  # (S + 1,) float32; the last is what is left at the end, mostly 0

    def __init__(self, config: SchedulerConfig, steps: int):
        super().__init__(config, steps)
        if config.rescale_betas_zero_snr:
            self.alpha_bar[-1] = TINY_ALPHA_BAR
        self.sigma_table = schedule.sigmas(self.alpha_bar)  # (T,), rising
        levels, self.timesteps = self.make_levels()
        final = self.sigma_table[0] if config.final_sigmas_type == "sigma_min" else 0.0
        self.sigmas = np.append(levels, final).astype(np.float32)

    def make_levels(self) -> tuple[np.ndarray, np.ndarray]:
        """The noise levels of the run without the final one, and their timesteps: float64 (S,), float32 (S,)."""
        timesteps = self.spaced_timesteps(self.steps).astype(np.float32)
        levels = self.levels_at(timesteps)
        if self.config.use_karras_sigmas:
            levels, timesteps = self.karras_levels(levels)
        return levels, timesteps.astype(np.float32)

    def levels_at(self, timesteps: np.ndarray) -> np.ndarray:
        r"""$\sigma$ at these timesteps, linear between the entries of the table; (S,) -> (S,) float64."""
        return np.interp(timesteps, np.arange(len(self.sigma_table)), self.sigma_table)

    def karras_levels(self, levels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """As many Karras levels as `steps`, from the first of `levels` to their last, and their timesteps."""
        largest = float(levels[0]) if self.config.sigma_max is None else self.config.sigma_max
        smallest = float(levels[-1]) if self.config.sigma_min is None else self.config.sigma_min
        levels = karras_sigmas(largest, smallest, self.steps)
        return levels, sigma_to_timestep(levels, self.sigma_table)


class VarianceExplodingSampler(SigmaSampler):
    r"""A sampler of latents $z = x_0 + \sigma\epsilon$ (k-diffusion's form)."""

    def __init__(self, config: SchedulerConfig, steps: int):
        super().__init__(config, steps)
        largest = self.sigmas.max()
        # With leading spacing the first level is not the noisiest one, and its signal's variance counts too.
        leading = config.timestep_spacing == "leading"
        self.init_noise_sigma = float(np.sqrt(largest**2 + 1) if leading else largest)

    def scale_input(self, z: np.ndarray, i: int) -> np.ndarray:
        r"""See `Sampler.scale_input`: $z / \sqrt{\sigma_i^2 + 1}$."""
        return z / np.sqrt(self.sigma_at(i, z) ** 2 + 1)

    def add_noise(self, z0: np.ndarray, noise: np.ndarray, i: int) -> np.ndarray:
        r"""See `Sampler.add_noise`; here $z_0 + \sigma_i\epsilon$."""
        return z0 + noise * self.sigma_at(i, z0)

    def sigma_at(self, i: int, z: np.ndarray) -> np.floating:
        r"""$\sigma_i$ as a number of the dtype of `z`."""
        return z.dtype.type(self.sigmas[i])

    def denoised(self, output: np.ndarray, i: int, z: np.ndarray) -> np.ndarray:
        r"""The clean latent that the model sees in `z`.

        From a velocity: $x_0 = z / (\sigma^2 + 1) - v\,\sigma / \sqrt{\sigma^2 + 1}$, since $z / \sqrt{\sigma^2 + 1}$
        is the variance-preserving latent.
        """
        sigma = self.sigma_at(i, z)
        if self.config.prediction_type == "epsilon":
            return z - sigma * output
        if self.config.prediction_type == "v_prediction":
            return output * (-sigma / np.sqrt(sigma**2 + 1)) + z / (sigma**2 + 1)
        return output


def draw_noise(rng: NoiseSource | None, z: np.ndarray, name: str) -> np.ndarray:
    """Noise of the shape and dtype of `z`; an error if there is nowhere to take it from."""
    if rng is None:
        raise InputError(f"the sampler {name} adds noise in its steps: pass it a generator, e.g. TorchGenerator(seed)")
    return np.asarray(rng.randn(z.shape)).astype(z.dtype, copy=False)


def denoise(
    model: Callable[[np.ndarray, np.ndarray], np.ndarray],
    z: np.ndarray,
    sampler: Sampler,
    rng: NoiseSource | None = None,
    start: int = 0,
    callback: Callable[[int, np.ndarray], None] | None = None,
) -> np.ndarray:  # model: (N, …), () -> (N, …); z: (N, …) -> (N, …)
    """The loop: `z` from step `start` to the end; `callback(i, z)` after each step, for progress."""
    for i in range(start, len(sampler.timesteps)):
        output = model(sampler.scale_input(z, i), sampler.timesteps[i])
        z = sampler.step(output, i, z, rng)
        if callback is not None:
            callback(i, z)
    return z
