"""The loop: a sampler walks from noise to picture, and who watches sees every step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tinyldm.diffusion.samplers.base import Sampler
from tinyldm.diffusion.types import Array, NoiseSource, Predict


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
