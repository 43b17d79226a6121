"""Goldens for `tinyldm/diffusion/` from PyTorch and diffusers: the random stream, the tables, every sampler.

    python tests/golden/make_diffusion.py [SAMPLER …]

Each sampler's file holds trajectories: the latent before the first step and after every step, with a toy model in the
place of the network (`diffusion/toy_model.py`). A case's configuration is in the provenance. Cases of the
original that raise an error, or end in values that are not finite, are recorded as such, without tensors.

The float64 runs lift the original's float32: its tables (which stay float32-valued) are cast to float64 before the
first step, casts to float32 inside a step are passed over, LCM's timesteps are given as Python integers (as tensors,
they make float32 coefficients), and noise is drawn in float32, then cast.
"""

from __future__ import annotations

import inspect
import math
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
from diffusers.utils.torch_utils import randn_tensor

sys.path.insert(0, str(Path(__file__).parents[1]))
from golden.diffusion.toy_model import toy_model
from golden.provenance import save_golden

PATCHES = [
    "float64: alphas_cumprod, final_alpha_cumprod, one and sigmas of the scheduler cast to float64 after set_timesteps",
    "float64: Tensor.to(torch.float32) inside step passed over",
    "float64: noise drawn in float32, then cast",
    "float64: LCMScheduler.step gets its timestep as int",
    "float64: the tables that KDPM2's schedulers derive from their sigmas are made of those",
    "DPMSolverSDEScheduler: sigmas cast to float64, also in the float32 run: its Brownian path is asked for six digits",
]
SEED = 3
SHAPE = (1, 4, 2, 2)

CLASSES = {
    "ddpm": "DDPMScheduler",
    "ddim": "DDIMScheduler",
    "pndm": "PNDMScheduler",
    "euler": "EulerDiscreteScheduler",
    "euler_a": "EulerAncestralDiscreteScheduler",
    "dpm++_2m": "DPMSolverMultistepScheduler",
    "dpm++_2m_karras": "DPMSolverMultistepScheduler",
    "lms": "LMSDiscreteScheduler",
    "lcm": "LCMScheduler",
    "heun": "HeunDiscreteScheduler",
    "dpm2": "KDPM2DiscreteScheduler",
    "dpm2_a": "KDPM2AncestralDiscreteScheduler",
    "dpm++_sde": "DPMSolverSDEScheduler",
    "dpm++_2m_sde": "DPMSolverMultistepScheduler",
    "dpm_2m": "DPMSolverMultistepScheduler",
    "dpm_2m_sde": "DPMSolverMultistepScheduler",
    "dpm++_2s": "DPMSolverSinglestepScheduler",
    "dpm++_2s_sde": "DPMSolverSinglestepScheduler",
    "dpm_2s": "DPMSolverSinglestepScheduler",
    "deis": "DEISMultistepScheduler",
    "unipc": "UniPCMultistepScheduler",
    "sa_solver": "SASolverScheduler",
    "tcd": "TCDScheduler",
    "ddim_inverse": "DDIMInverseScheduler",
    "flow_euler": "FlowMatchEulerDiscreteScheduler",
    "flow_heun": "FlowMatchHeunDiscreteScheduler",
}
# What a sampler's name says over the config.
SAYS: dict[str, dict[str, Any]] = {
    "dpm++_2m_karras": {"use_karras_sigmas": True},
    "dpm++_2m_sde": {"algorithm_type": "sde-dpmsolver++"},
    "dpm_2m": {"algorithm_type": "dpmsolver", "final_sigmas_type": "sigma_min"},
    "dpm_2m_sde": {"algorithm_type": "sde-dpmsolver", "final_sigmas_type": "sigma_min"},
    "dpm++_2s_sde": {"algorithm_type": "sde-dpmsolver++"},
    "dpm_2s": {"algorithm_type": "dpmsolver", "final_sigmas_type": "sigma_min"},
}
FIRST = tuple(CLASSES)[: tuple(CLASSES).index("lcm") + 1]  # those whose files have more cases
NOISES = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "trained_betas": None,
}
STABLE_DIFFUSION = NOISES | {
    "_class_name": "PNDMScheduler",
    "_diffusers_version": "0.6.0",
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "clip_sample": False,
}
EMBEDDED = NOISES | {
    "_class_name": "DDIMScheduler",
    "_diffusers_version": "0.42.1",
    "clip_sample": False,
    "clip_sample_range": 1.0,
    "dynamic_thresholding_ratio": 0.995,
    "prediction_type": "epsilon",
    "rescale_betas_zero_snr": False,
    "sample_max_value": 1.0,
    "set_alpha_to_one": False,
    "steps_offset": 1,
    "thresholding": False,
    "timestep_spacing": "leading",
}
ZERO_SNR = STABLE_DIFFUSION | {
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True,
    "timestep_spacing": "trailing",
}
KARRAS = STABLE_DIFFUSION | {"use_karras_sigmas": True}

# Configurations that every sampler runs: with all step counts, or with ten steps.
ALL_STEPS = {"sd": STABLE_DIFFUSION, "embedded": EMBEDDED, "zero_snr": ZERO_SNR}
TEN_STEPS = {
    "defaults": {},
    "v": STABLE_DIFFUSION | {"prediction_type": "v_prediction"},
    "sample": STABLE_DIFFUSION | {"prediction_type": "sample"},
    "linspace": STABLE_DIFFUSION | {"timestep_spacing": "linspace"},
    "trailing": STABLE_DIFFUSION | {"timestep_spacing": "trailing"},
    "cosine": STABLE_DIFFUSION | {"beta_schedule": "squaredcos_cap_v2"},
    "alpha_one": STABLE_DIFFUSION | {"set_alpha_to_one": True},
    "zero_snr_epsilon": ZERO_SNR | {"prediction_type": "epsilon"},
    "trained_betas": STABLE_DIFFUSION | {"trained_betas": [0.001, 0.01, 0.02, 0.03] * 4, "num_train_timesteps": 16},
}
# Configurations with what only some samplers have.
CLIP = STABLE_DIFFUSION | {"clip_sample": True, "clip_sample_range": 0.7}
THRESHOLD = STABLE_DIFFUSION | {"thresholding": True, "sample_max_value": 1.5, "dynamic_thresholding_ratio": 0.8}
OWN: dict[str, dict[str, dict[str, Any]]] = {
    "ddpm": {
        "clip": CLIP,
        "threshold": THRESHOLD,
        "fixed_large": STABLE_DIFFUSION | {"variance_type": "fixed_large"},
        "fixed_small_log": STABLE_DIFFUSION | {"variance_type": "fixed_small_log"},
    },
    "ddim": {"clip": CLIP, "threshold": THRESHOLD},
    "pndm": {"runge_kutta": STABLE_DIFFUSION | {"skip_prk_steps": False}},
    "euler": {
        "karras": KARRAS,
        "karras_range": KARRAS | {"sigma_min": 0.1, "sigma_max": 8.0},
        "sigma_min": STABLE_DIFFUSION | {"final_sigmas_type": "sigma_min"},
    },
    "euler_a": {},
    "lms": {"karras": KARRAS},
    "lcm": {"clip": CLIP, "threshold": THRESHOLD, "original_20": STABLE_DIFFUSION | {"original_inference_steps": 20}},
    "dpm++_2m": {
        "threshold": THRESHOLD,
        "order_1": STABLE_DIFFUSION | {"solver_order": 1},
        "order_3": STABLE_DIFFUSION | {"solver_order": 3, "final_sigmas_type": "sigma_min"},
        "order_3_to_the_end": STABLE_DIFFUSION
        | {"solver_order": 3, "final_sigmas_type": "sigma_min", "lower_order_final": False},
        "heun": STABLE_DIFFUSION | {"solver_type": "heun", "final_sigmas_type": "sigma_min"},
        "euler_at_final": STABLE_DIFFUSION
        | {"euler_at_final": True, "lower_order_final": False, "final_sigmas_type": "sigma_min"},
    },
    "dpm++_2m_karras": {"karras_range": KARRAS | {"sigma_min": 0.1, "sigma_max": 8.0}},
}
SCHEDULES = {
    "karras": KARRAS,
    "exponential": STABLE_DIFFUSION | {"use_exponential_sigmas": True},
    "beta": STABLE_DIFFUSION | {"use_beta_sigmas": True},
}
SIGMA_MIN = STABLE_DIFFUSION | {"final_sigmas_type": "sigma_min"}
ORDERS = {
    "order_1": STABLE_DIFFUSION | {"solver_order": 1},
    "order_3": STABLE_DIFFUSION | {"solver_order": 3},
    "threshold": THRESHOLD,
}
MULTISTEP = SCHEDULES | {
    "threshold": THRESHOLD,
    "order_1": STABLE_DIFFUSION | {"solver_order": 1},
    "heun": SIGMA_MIN | {"solver_type": "heun"},
    "lu": STABLE_DIFFUSION | {"use_lu_lambdas": True},
    "clipped": STABLE_DIFFUSION | {"beta_schedule": "squaredcos_cap_v2", "lambda_min_clipped": -5.1},
}
FLOW = {"num_train_timesteps": 1000, "shift": 3.0}
OWN |= {
    "heun": SCHEDULES | {"clip": CLIP},
    "dpm2": SCHEDULES,
    "dpm2_a": SCHEDULES,
    "dpm++_sde": SCHEDULES,
    "dpm++_2m_sde": MULTISTEP,
    "dpm_2m": MULTISTEP | {"order_3": SIGMA_MIN | {"solver_order": 3}},
    "dpm_2m_sde": MULTISTEP,
    "dpm++_2s": SCHEDULES
    | ORDERS
    | {
        "order_3_heun": STABLE_DIFFUSION | {"solver_order": 3, "solver_type": "heun"},
        "heun": STABLE_DIFFUSION | {"solver_type": "heun"},
        "to_the_end": SIGMA_MIN | {"lower_order_final": False},
    },
    "dpm++_2s_sde": {"heun": STABLE_DIFFUSION | {"solver_type": "heun"}},
    "dpm_2s": SCHEDULES
    | {"order_3": ORDERS["order_3"], "heun": SIGMA_MIN | {"solver_type": "heun", "solver_order": 3}},
    "deis": SCHEDULES
    | ORDERS
    | {"order_3_to_the_end": STABLE_DIFFUSION | {"solver_order": 3, "lower_order_final": False}},
    "unipc": SCHEDULES
    | ORDERS
    | {
        "bh1": SIGMA_MIN | {"solver_type": "bh1", "solver_order": 3},
        "noise": SIGMA_MIN | {"predict_x0": False},
        "uncorrected": STABLE_DIFFUSION | {"disable_corrector": [0, 3]},
        "karras_range": KARRAS | {"sigma_min": 0.1, "sigma_max": 8.0, "final_sigmas_type": "sigma_min"},
        "zero_snr": ZERO_SNR,
    },
    "sa_solver": SCHEDULES
    | {
        "threshold": THRESHOLD,
        "order_1": STABLE_DIFFUSION | {"predictor_order": 1, "corrector_order": 1},
        "order_3_4": STABLE_DIFFUSION | {"predictor_order": 3, "corrector_order": 4},
        "order_4_to_the_end": STABLE_DIFFUSION
        | {"predictor_order": 4, "corrector_order": 3, "lower_order_final": False},
        "noise": STABLE_DIFFUSION | {"algorithm_type": "noise_prediction"},
    },
    "tcd": {"original_20": STABLE_DIFFUSION | {"original_inference_steps": 20}, "zero_snr": ZERO_SNR},
    "ddim_inverse": {"clip": CLIP, "zero_snr": ZERO_SNR},
    "flow_euler": {
        "unshifted": {"num_train_timesteps": 1000},
        "karras": FLOW | {"use_karras_sigmas": True},
        "exponential": FLOW | {"use_exponential_sigmas": True},
        "beta": FLOW | {"use_beta_sigmas": True},
        "terminal": FLOW | {"shift_terminal": 0.1},
        "stochastic": FLOW | {"stochastic_sampling": True},
        "dynamic": {"use_dynamic_shifting": True},
        "dynamic_linear": {"use_dynamic_shifting": True, "time_shift_type": "linear"},
    },
    "flow_heun": {"unshifted": {"num_train_timesteps": 1000}},
}
MU = 0.8  # the dynamic shift of flow matching


def cases(sampler: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Name and settings of every case of a sampler."""
    if sampler.startswith("flow"):
        yield from flow_cases(sampler)
        return
    if sampler not in FIRST:
        yield from later_cases(sampler)
        return
    for name, config in ALL_STEPS.items():
        for steps in (1, 2, 10, 25, 50):
            yield f"{name}_{steps}", {"config": config, "steps": steps}
    for name, config in (TEN_STEPS | OWN[sampler]).items():
        yield f"{name}_10", {"config": config, "steps": 10}
    yield "img2img_10", {"config": STABLE_DIFFUSION, "steps": 10, "strength": 0.65}
    if sampler == "ddim":
        yield "eta_10", {"config": STABLE_DIFFUSION, "steps": 10, "options": {"eta": 0.7}}
    if sampler == "pndm":
        for steps in (1, 2):
            yield f"runge_kutta_{steps}", {"config": OWN["pndm"]["runge_kutta"], "steps": steps}
    if sampler == "lcm":
        yield "original_20_25", {"config": OWN["lcm"]["original_20"], "steps": 25}


def later_cases(sampler: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Those of a sampler that came later: all step counts of one configuration, ten steps of the others."""
    seeded = {"noise_sampler_seed": 5} if sampler == "dpm++_sde" else {}
    for steps in (1, 2, 10, 25, 50):
        yield f"sd_{steps}", {"config": STABLE_DIFFUSION | seeded, "steps": steps}
    # The original's DPM2 ancestral is not finite for the cosine schedule, whose first steps are very long.
    usual = [k for k in ("defaults", "v", "sample", "trailing", "cosine") if (sampler, k) != ("dpm2_a", "cosine")]
    for name, config in ({k: TEN_STEPS[k] for k in usual} | OWN[sampler]).items():
        yield f"{name}_10", {"config": config | seeded, "steps": 10}
    if "order_3" in OWN[sampler]:
        for steps in (20, 21, 22):
            yield f"order_3_{steps}", {"config": OWN[sampler]["order_3"], "steps": steps}
    if sampler != "ddim_inverse":
        yield "img2img_10", {"config": STABLE_DIFFUSION | seeded, "steps": 10, "strength": 0.65}
    if sampler == "tcd":
        for eta in (0.0, 1.0):
            yield f"eta_{eta:g}_10", {"config": STABLE_DIFFUSION, "steps": 10, "options": {"eta": eta}}


def flow_cases(sampler: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Those of a sampler of flow matching."""
    for steps in (1, 2, 10, 25, 50):
        yield f"shift_{steps}", {"config": FLOW, "steps": steps}
    for name, config in OWN[sampler].items():
        mu = {"make": {"mu": MU}} if name.startswith("dynamic") else {}
        yield f"{name}_10", {"config": config, "steps": 10} | mu
    yield "img2img_10", {"config": FLOW, "steps": 10, "strength": 0.65}


@contextmanager
def float32_lifted(active: bool) -> Iterator[None]:
    """While active, `.to(torch.float32)` does nothing and `torch.randn` casts float32 draws to float64."""
    to, randn = torch.Tensor.to, torch.randn
    if active:
        torch.Tensor.to = lambda self, *a, **k: self if a[:1] == (torch.float32,) else to(self, *a, **k)
        torch.randn = lambda *a, dtype=None, **k: randn(*a, dtype=torch.float32, **k).double()
    try:
        yield
    finally:
        torch.Tensor.to, torch.randn = to, randn


def trajectory(sampler: str, case: dict[str, Any], dtype: torch.dtype) -> tuple[Any, np.ndarray]:
    """The original scheduler after its run, and the latents (S + 1, …) that it went through."""
    config = dict(case["config"]) | SAYS.get(sampler, {})
    scheduler = getattr(diffusers, CLASSES[sampler]).from_config(config)
    scheduler.set_timesteps(case["steps"], **case.get("make", {}))
    wide = dtype == torch.float64
    if wide:
        for table in ("alphas_cumprod", "final_alpha_cumprod", "initial_alpha_cumprod", "one", "sigmas"):
            if hasattr(scheduler, table):
                setattr(scheduler, table, getattr(scheduler, table).double())
        if hasattr(scheduler, "sigmas_interpol"):
            widen_levels_between(scheduler)
    if sampler == "dpm++_sde":
        scheduler.sigmas = scheduler.sigmas.double()
    start = (case["steps"] - int(case["steps"] * case.get("strength", 1))) * scheduler.order
    timesteps = scheduler.timesteps[start:]
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(start)
    generator = torch.Generator().manual_seed(SEED)
    z = torch.randn(SHAPE, generator=generator).to(dtype)
    if "strength" in case:
        noise = torch.randn(SHAPE, generator=generator).to(dtype)
        add_noise = getattr(scheduler, "add_noise", None) or (lambda z, noise, t: noised_flow(scheduler, z, noise))
        z = add_noise(z / 2, noise, timesteps[:1])
    else:
        z = z * getattr(scheduler, "init_noise_sigma", 1.0)
    options = dict(case.get("options", {}))
    if "generator" in inspect.signature(scheduler.step).parameters:
        options["generator"] = generator
    states = [z.numpy()]
    for t in timesteps:
        taken = scheduler.scale_model_input(z, t) if hasattr(scheduler, "scale_model_input") else z
        output = torch.from_numpy(toy_model(taken.numpy(), float(t)))
        with float32_lifted(wide):
            z = scheduler.step(output, int(t) if wide and sampler == "lcm" else t, z, **options).prev_sample
        states.append(z.numpy())
    return scheduler, np.stack(states)


def noised_flow(scheduler: Any, z: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """A latent on the straight path of flow matching, where the run begins."""
    sigma = scheduler.sigmas[scheduler.begin_index]
    return sigma * noise + (1.0 - sigma) * z


def steps_levels(scheduler: Any, steps: int) -> torch.Tensor:
    """The noise levels of the steps, and the last, of a scheduler that repeats those between."""
    levels = scheduler.sigmas[::2] if scheduler.order == 2 else scheduler.sigmas
    return torch.cat([levels, levels.new_zeros(1)]) if len(levels) == steps else levels


def widen_levels_between(scheduler: Any) -> None:
    """Make the tables that KDPM2 derives from its levels anew, in float64."""
    levels = steps_levels(scheduler, scheduler.num_inference_steps)

    def repeated(x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x[:1], x[1:].repeat_interleave(2), x[-1:]])

    if hasattr(scheduler, "sigmas_up"):
        after = levels.roll(-1)
        after[-1] = 0
        up = (after**2 * (levels**2 - after**2) / levels**2) ** 0.5
        down = (after**2 - up**2) ** 0.5
        down[-1] = 0
        between = levels.log().lerp(down.log(), 0.5).exp()
        between[-2:] = 0
        scheduler.sigmas_up, scheduler.sigmas_down = repeated(up), repeated(down)
    else:
        between = levels.log().lerp(levels.roll(1).log(), 0.5).exp()
    scheduler.sigmas_interpol = repeated(between)


def make_sampler_golden(sampler: str) -> None:
    tensors: dict[str, np.ndarray] = {}
    settings: dict[str, Any] = {}
    for name, case in cases(sampler):
        settings[name] = case
        try:
            _, narrow = trajectory(sampler, case, torch.float32)
            scheduler, wide = trajectory(sampler, case, torch.float64)
        except (ValueError, NotImplementedError, IndexError, AttributeError) as error:
            settings[name] = case | {"raises": f"{type(error).__name__}: {str(error)[:80]}"}
            continue
        if not (np.isfinite(narrow).all() and np.isfinite(wide).all()):
            settings[name] = case | {"raises": "values that are not finite"}
            continue
        tensors[f"{name}.float32"] = narrow
        # Float64 runs are compared as a whole, so of the long ones a few states are enough.
        kept = range(len(wide)) if case["steps"] <= 2 else sorted({*range(6), len(wide) // 2, len(wide) - 1})
        tensors[f"{name}.float64"] = wide[list(kept)]
        tensors[f"{name}.kept"] = np.array(list(kept), np.int32)
        tensors[f"{name}.timesteps"] = scheduler.timesteps.numpy()
        if hasattr(scheduler, "sigmas"):
            tensors[f"{name}.sigmas"] = steps_levels(scheduler, case["steps"]).numpy().astype(np.float32)
    path = save_golden(
        f"diffusion/{sampler.replace('++', 'pp')}",
        tensors,
        packages=("torch", "diffusers", "numpy"),
        cases=settings,
        seed=SEED,
        patches=PATCHES,
    )
    print(path.name, path.stat().st_size)


def make_tables_golden() -> None:
    """Betas and alpha-bar of each schedule, and with zero terminal SNR; small schedules of odd lengths."""
    tensors = {}
    schedules = {
        "linear": {},
        "scaled_linear": NOISES,
        "squaredcos_cap_v2": {"beta_schedule": "squaredcos_cap_v2"},
        "zero_snr": NOISES | {"rescale_betas_zero_snr": True},
        "linear_59": {"num_train_timesteps": 59},
        "scaled_linear_16": NOISES | {"num_train_timesteps": 16},
    }
    for name, config in schedules.items():
        scheduler = diffusers.DDIMScheduler.from_config(config)
        tensors[f"{name}.betas"] = scheduler.betas.numpy()
        tensors[f"{name}.alpha_bar"] = scheduler.alphas_cumprod.numpy()
    save_golden("diffusion/tables", tensors, packages=("torch", "diffusers"), cases=schedules)


# Calls to one generator in order: the function, the size, the dtype. Sizes below 16 keep half a pair for later.
CALLS = [
    ("randn", 1, "float32"),
    ("randn", 3, "float32"),
    ("randn", 16, "float32"),
    ("randn", 15, "float64"),
    ("rand", 5, "float32"),
    ("randn", 17, "float32"),
    ("randn", 2, "float32"),
    ("randn", 33, "float32"),
    ("rand", 4, "float64"),
    ("randn", 40, "float64"),
    ("randn", 7, "float32"),
    ("randn", 1000, "float32"),
    ("randn", 0, "float32"),
    ("randn", 5, "float32"),
]


def make_random_golden() -> None:
    tensors = {}
    seeds = [0, 1, 42, 2**31, 2**32 - 1, 2**32 + 7, 2**64 - 1, -1]
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        for k, (function, size, dtype) in enumerate(CALLS):
            draw = getattr(torch, function)(size, generator=generator, dtype=getattr(torch, dtype))
            tensors[f"{seed}.{k:02d}"] = draw.numpy()
    save_golden("diffusion/random", tensors, packages=("torch",), calls=CALLS, seeds=seeds)


def make_picture_streams_golden() -> None:
    """What diffusers draws for a batch with a list of generators, one for each picture."""
    seed, shapes = 41, [(3, 4, 2, 2), (3, 5), (3, 4, 8, 8), (3, 1)]
    generators = [torch.Generator().manual_seed(seed + k) for k in range(3)]
    tensors = {str(k): randn_tensor(shape, generator=generators).numpy() for k, shape in enumerate(shapes)}
    save_golden("diffusion/picture_streams", tensors, packages=("torch", "diffusers"), seed=seed, shapes=shapes)


def make_defaults_golden() -> None:
    """The fields of every scheduler class and their defaults; infinity as text, which JSON has not."""
    defaults = {}
    for name in dict.fromkeys(CLASSES.values()):
        parameters = inspect.signature(getattr(diffusers, name).__init__).parameters
        values = {k: p.default for k, p in parameters.items() if k not in ("self", "kwargs")}
        defaults[name] = {k: str(v) if isinstance(v, float) and math.isinf(v) else v for k, v in values.items()}
    save_golden("diffusion/defaults", {"none": np.zeros(0, np.float32)}, packages=("diffusers",), defaults=defaults)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    diffusers.utils.logging.set_verbosity_error()
    torch.set_num_threads(1)
    if not sys.argv[1:]:
        make_random_golden()
        make_picture_streams_golden()
        make_tables_golden()
    make_defaults_golden()
    for sampler in sys.argv[1:] or CLASSES:
        make_sampler_golden(sampler)
