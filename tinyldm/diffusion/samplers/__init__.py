"""The samplers by name: one file each, all driven by the checkpoint's `scheduler_config.json`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tinyldm.diffusion.config import read_config
from tinyldm.diffusion.samplers.base import NoiseSource, Sampler, denoise
from tinyldm.diffusion.samplers.ddim import DDIM
from tinyldm.diffusion.samplers.ddpm import DDPM
from tinyldm.diffusion.samplers.dpm_solver_pp import DPMSolverPlusPlus
from tinyldm.diffusion.samplers.euler import Euler
from tinyldm.diffusion.samplers.euler_ancestral import EulerAncestral
from tinyldm.diffusion.samplers.lcm import LCM
from tinyldm.diffusion.samplers.lms import LMS
from tinyldm.diffusion.samplers.pndm import PNDM
from tinyldm.errors import ConfigError, InputError

__all__ = ["SAMPLERS", "NoiseSource", "Sampler", "default_sampler", "denoise", "make_sampler", "usual_sampler"]

# The name, its class, and what the name says over the config.
SAMPLERS: dict[str, tuple[type[Sampler], dict[str, Any]]] = {
    "ddpm": (DDPM, {}),
    "ddim": (DDIM, {}),
    "pndm": (PNDM, {}),
    "euler": (Euler, {}),
    "euler_a": (EulerAncestral, {}),
    "dpm++_2m": (DPMSolverPlusPlus, {}),
    "dpm++_2m_karras": (DPMSolverPlusPlus, {"use_karras_sigmas": True}),
    "lms": (LMS, {}),
    "lcm": (LCM, {}),
}


def make_sampler(name: str, scheduler_config: Mapping[str, Any], steps: int, **options: float) -> Sampler:
    """A sampler for one run of `steps` steps, from its name and the checkpoint's `scheduler_config.json`.

    `options` are the sampler's own: `eta` for `ddim`. An unknown name, a field or a value that the sampler cannot
    honour, and a number of steps that it cannot take are errors that say so.
    """
    if name not in SAMPLERS:
        raise InputError(f"sampler {name!r} is unknown; take one of {', '.join(SAMPLERS)}")
    if isinstance(steps, bool) or not isinstance(steps, int):
        raise InputError(f"steps: {steps!r} is not an integer")
    sampler, overrides = SAMPLERS[name]
    if options and name != "ddim":
        raise InputError(f"sampler {name} has no option {', '.join(options)}")
    return sampler(read_config(scheduler_config, sampler.scheduler_class, **overrides), steps, **options)


def default_sampler(scheduler_config: Mapping[str, Any]) -> str:
    """The name of the sampler that a checkpoint was published with, from the `_class_name` of its config."""
    published = scheduler_config.get("_class_name")
    if published == "DPMSolverMultistepScheduler" and scheduler_config.get("use_karras_sigmas"):
        return "dpm++_2m_karras"
    for name, (sampler, _) in SAMPLERS.items():
        if sampler.scheduler_class == published:
            return name
    raise ConfigError(
        f"scheduler config: _class_name {published!r} has no sampler here; name one of {', '.join(SAMPLERS)}"
    )


def usual_sampler(scheduler_config: Mapping[str, Any]) -> str:
    """The sampler for a run that names none: DDIM, except where a schedule is that of a model distilled to few steps.

    Those are published with LCM's, or with an Euler one that begins at the noisiest timestep (`trailing`).
    """
    published = scheduler_config.get("_class_name")
    if published == "LCMScheduler":
        return "lcm"
    if published in ("EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler"):
        return default_sampler(scheduler_config) if scheduler_config.get("timestep_spacing") == "trailing" else "ddim"
    return "ddim"
