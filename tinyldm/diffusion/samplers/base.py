r"""What all samplers share: the interface, the two ways of writing a noisy latent, and the loop.

A sampler walks from noise to picture in steps; the model is a function. One picture is

    z = sampler.init_noise_sigma * noise
    for i in range(len(sampler)):
        z = sampler.step(predict, i, z, rng)

and `denoise` is this loop. A step asks `predict(z, t)` as often as its method needs,
always by `Sampler.ask`, which notes the call.

Some samplers keep a latent of constant variance, $z = \sqrt{\bar\alpha} x_0 + \sqrt{1 - \bar\alpha} \epsilon$
("variance preserving": DDPM, DDIM, PNDM, LCM); others let the noise stand on top of the signal,
$z = x_0 + \sigma\epsilon$ ("variance exploding": Euler, LMS), and divide by $\sqrt{\sigma^2 + 1}$ before the model sees
it. The two differ by that factor only.

Tables are float32, rounded as in the published code; the coefficients of a step are Python's numbers, so that its
arithmetic on arrays runs in the dtype of `z`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from tinyldm.diffusion import prediction, schedule
from tinyldm.diffusion.config import SchedulerConfig
from tinyldm.diffusion.types import Array, NoiseSource, Predict, Timesteps
from tinyldm.errors import ConfigError, InputError


class Sampler(ABC):
    """One run of a sampler over `steps` steps; make a new one for each run, since solvers keep a history.

    A class says what it is called (`name`, `aliases`), whose `scheduler_config.json` it runs (`scheduler_class` of
    diffusers), what it is in a line (`summary`), and which fields it has (`Config`). `variants` are further names, each
    with the fields that it sets.

    `timesteps` are those of all calls of the model, in order: int64, or float32 where a sampler visits fractional ones.
    `init_noise_sigma` is the standard deviation of the first latent. `clean` is the clean latent that the model saw in
    its latest call, in bounds if the config has any; `asked` are the timesteps of the calls so far.
    """

    name: str
    aliases: ClassVar[tuple[str, ...]] = ()
    scheduler_class: ClassVar[str | None] = None
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    summary: ClassVar[str]
    family: ClassVar[Literal["diffusion", "flow"]] = "diffusion"  # of models that it can run
    Config: ClassVar[type[SchedulerConfig]] = SchedulerConfig
    begins_clean: ClassVar[bool] = False  # with a picture, instead of ending with one

    timesteps: Timesteps
    init_noise_sigma: float = 1.0
    clean: Array | None = None
    variance_exploding: ClassVar[bool] = False  # the latent is scaled before the network sees it

    def __init__(self, config: SchedulerConfig, steps: int):
        if not 1 <= steps <= config.num_train_timesteps:
            raise InputError(f"steps: {steps} is out of range; it must be from 1 to {config.num_train_timesteps}")
        self.config = c = config
        self.steps = steps
        betas = schedule.make_betas(c.beta_schedule, c.beta_start, c.beta_end, c.num_train_timesteps, c.trained_betas)
        if getattr(c, "rescale_betas_zero_snr", False):
            betas = schedule.rescale_zero_terminal_snr(betas)
        self.alpha_bar = schedule.alpha_bar(betas)
        self.asked: list[np.number] = []

    def __len__(self) -> int:
        """The steps of a whole run; rounding in the published spacing may make them one more than was asked for."""
        return len(self.timesteps)

    def calls(self, start: int = 0) -> int:
        """How often a run from step `start` calls the model."""
        return len(self.timesteps) - start

    @abstractmethod
    def step(self, predict: Predict, i: int, z: Array, rng: NoiseSource | None = None) -> Array:
        """The less noisy latent after step `i` for the latent `z` before it, (N, …) both.

        Steps are taken in order, from the first of the run to the last. `predict` is the network; `rng` is asked for
        noise by the samplers that add some.
        """

    @abstractmethod
    def add_noise(self, z0: Array, noise: Array, i: int) -> Array:
        """The clean latent `z0` as it would look before step `i`: where image-to-image begins. All (N, …)."""

    def start(self, strength: float) -> int:
        """The first step for image-to-image of this strength, from 0 (keep the picture) to 1 (all steps)."""
        if not 0 <= strength <= 1:
            raise InputError(f"strength: {strength} is out of range; it must be from 0 to 1")
        taken = int(self.steps * strength)
        if taken < 1:
            raise InputError(f"strength {strength} of {self.steps} steps leaves no step to take; raise one of them")
        return self.steps - taken

    def ask(self, predict: Predict, z: Array, t: np.number, signal: float, noise: float) -> tuple[Array, Array]:
        r"""One call of the model at timestep `t` for $z = \alpha\, x_0 + s\, \epsilon$; (N, …) all.

        Returns its raw output, and the clean latent in bounds. The network takes a latent of unit variance: that of a
        variance-exploding sampler, $z = x_0 + \sigma\epsilon$, is divided by $\sqrt{\sigma^2 + 1}$.
        """
        self.asked.append(t)
        output = predict(z / math.hypot(noise, 1) if self.variance_exploding else z, t)
        self.clean = self.config.bounded(prediction.to_sample(self.config.prediction_type, output, z, signal, noise))
        return output, self.clean

    def draw_noise(self, rng: NoiseSource | None, z: Array) -> Array:
        """Noise of the shape and dtype of `z`; an error if there is nowhere to take it from."""
        if rng is None:
            raise InputError(
                f"the sampler {self.name} adds noise in its steps: pass it a generator, e.g. TorchGenerator(seed)"
            )
        noise: Array = np.asarray(rng.randn(z.shape)).astype(z.dtype, copy=False)
        return noise


class AlphaBarSampler(Sampler):
    r"""A sampler of variance-preserving latents, whose steps go from one $\bar\alpha$ to the next."""

    def __init__(self, config: SchedulerConfig, steps: int):
        super().__init__(config, steps)
        ends_clean = getattr(config, "set_alpha_to_one", True)
        self.final_alpha_bar = np.float32(1) if ends_clean else self.alpha_bar[0]
        self.visited = self.make_timesteps()
        self.timesteps = self.visited
        if self.visited.max() >= config.num_train_timesteps:
            raise ConfigError(
                f"scheduler config: steps_offset {config.steps_offset} with {steps} {config.timestep_spacing} steps "
                f"visits timestep {self.visited.max()}; the model knows 0 to {config.num_train_timesteps - 1}"
            )
        if config.prediction_type == "epsilon" and not self.alpha_bar[self.visited].all():
            raise ConfigError(
                "scheduler config: rescale_betas_zero_snr with prediction_type 'epsilon' begins at pure noise, from "
                "which a noise prediction tells nothing of the picture; prediction_type 'v_prediction' does"
            )

    def make_timesteps(self) -> Timesteps:
        """The timesteps that the steps begin at, int64."""
        c = self.config
        spaced = schedule.spaced_timesteps(c.timestep_spacing, self.steps, c.num_train_timesteps, c.steps_offset)
        return np.round(spaced).astype(np.int64)

    def alpha_bar_at(self, t: int) -> float:
        r"""$\bar\alpha_t$; a negative `t` is past the last step."""
        return float(self.alpha_bar[t] if t >= 0 else self.final_alpha_bar)

    def signal_and_noise(self, t: int) -> tuple[float, float]:
        r"""$(\sqrt{\bar\alpha_t}, \sqrt{1 - \bar\alpha_t})$."""
        alpha_bar = self.alpha_bar_at(t)
        return math.sqrt(alpha_bar), math.sqrt(1 - alpha_bar)

    def predicted(self, predict: Predict, z: Array, t: np.number) -> tuple[Array, Array]:
        """One call of the model at timestep `t`: its raw output and the clean latent in bounds, (N, …) each."""
        return self.ask(predict, z, t, *self.signal_and_noise(int(t)))

    def add_noise(self, z0: Array, noise: Array, i: int) -> Array:
        """The clean latent as noisy as before step `i`, (N, …); here a draw from the forward process (DDPM, eq. 4)."""
        signal, sigma = self.signal_and_noise(int(self.visited[i]))
        return signal * z0 + sigma * noise


# The loop -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Step:
    """One step that has been taken.

    `index` of `count` steps of a whole run, which may have begun in the middle; `timestep` that the step began at;
    `latent` that it led to, in the sampler's own scale, and `clean`, the clean latent that the model saw in its last
    call, both (N, …); `calls` of the model that the run has made so far.
    """

    index: int
    count: int
    timestep: np.number
    latent: Array
    clean: Array | None
    calls: int


Callback = Callable[[Step], Array | None]


def denoise(
    predict: Predict,
    sampler: Sampler,
    z: Array,
    rng: NoiseSource | None = None,
    *,
    start: int = 0,
    callback: Callback | None = None,
) -> Array:  # (N, …) -> (N, …)
    """The latent `z` from before step `start` to the end of the run.

    `predict` is called `sampler.calls(start)` times. `callback` is called after every step: a latent that it returns
    takes the place of the step's; with `Stopped` it ends the run.
    """
    asked = sampler.asked  # the timestep of every call of the model that went through `Sampler.ask`
    first = len(asked)
    for i in range(start, len(sampler)):
        before = len(asked)
        z = sampler.step(predict, i, z, rng)
        if callback is not None:
            t = asked[before] if len(asked) > before else sampler.timesteps[i]
            changed = callback(Step(i, len(sampler), t, z, sampler.clean, len(asked) - first))
            z = z if changed is None else changed
    return z
