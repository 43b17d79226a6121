"""The samplers: one file each, which says all there is to say of it, and a line here that enters it in the registry."""

from tinyldm.diffusion.samplers import (  # noqa: F401
    ddim,
    ddim_inverse,
    ddpm,
    deis,
    dpm2,
    dpm_multistep,
    dpm_sde,
    dpm_singlestep,
    euler,
    flow,
    heun,
    lcm,
    lms,
    pndm,
    sa_solver,
    tcd,
    unipc,
)
from tinyldm.diffusion.samplers.base import Sampler
from tinyldm.diffusion.samplers.registry import (
    SAMPLERS,
    default_sampler,
    find_sampler,
    list_samplers,
    make_sampler,
    register,
)

__all__ = [
    "SAMPLERS",
    "Sampler",
    "default_sampler",
    "find_sampler",
    "list_samplers",
    "make_sampler",
    "register",
]
