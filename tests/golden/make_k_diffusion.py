"""Goldens of what diffusers does not have, from k-diffusion, torchsde and SciPy.

    python tests/golden/make_k_diffusion.py K_DIFFUSION

K_DIFFUSION is a checkout of github.com/crowsonkb/k-diffusion; its `sampling.py` is run, and `torchdiffeq`, which is
needed for another function, left out. Samplers run in float64 over the levels of diffusers' Euler scheduler, with the
toy model of `diffusion/toy_model.py`; the timestep of a level is that scheduler's. Stored are the latent before every
step and at the end, and the timesteps that the model was asked for. Noise of a Brownian path is seeded, and drawn in
float32.
"""

from __future__ import annotations

import importlib.util
import sys
import types
import warnings
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import scipy.stats
import torch
import torchsde

sys.path.insert(0, str(Path(__file__).parents[1]))
from golden.diffusion.toy_model import toy_model
from golden.make_diffusion import SEED, SHAPE, STABLE_DIFFUSION
from golden.provenance import save_golden

SEEDS = {"brownian": [11]}
CHURN = {
    "s_churn": 5.0,
    "s_noise": 1.01,
}  # at every level: within limits, the original draws where it adds nothing, too
# The function, its options, those of our sampler (where they differ), the steps.
CASES: dict[str, dict[str, Any]] = {
    f"dpm++_2s_a_{steps}": {"function": "sample_dpmpp_2s_ancestral", "sampler": "dpm++_2s_a", "steps": steps}
    for steps in (1, 2, 10, 25, 50)
}
CASES |= {
    f"dpm++_3m_sde_{steps}": {"function": "sample_dpmpp_3m_sde", "sampler": "dpm++_3m_sde", "steps": steps}
    for steps in (2, 10, 25, 50)  # its function fails for one
}
CASES |= {
    "dpm++_2s_a_eta_10": {
        "function": "sample_dpmpp_2s_ancestral",
        "sampler": "dpm++_2s_a",
        "steps": 10,
        "options": {"eta": 0.6, "s_noise": 1.02},
    },
    "dpm++_3m_sde_eta_10": {
        "function": "sample_dpmpp_3m_sde",
        "sampler": "dpm++_3m_sde",
        "steps": 10,
        "options": {"eta": 0.6, "s_noise": 1.02},
    },
    "dpm++_2m_sde_eta_10": {
        "function": "sample_dpmpp_2m_sde",
        "sampler": "dpm++_2m_sde",
        "steps": 10,
        "options": {"eta": 0.6, "s_noise": 1.02},
    },
    "dpm++_2m_sde_brownian_10": {
        "function": "sample_dpmpp_2m_sde",
        "sampler": "dpm++_2m_sde",
        "steps": 10,
        "brownian": True,
        "ours": {"brownian": True},
    },
    "dpm++_3m_sde_brownian_10": {
        "function": "sample_dpmpp_3m_sde",
        "sampler": "dpm++_3m_sde",
        "steps": 10,
        "brownian": True,
        "ours": {"brownian": True},
    },
    "dpm++_sde_eta_10": {
        "function": "sample_dpmpp_sde",
        "sampler": "dpm++_sde",
        "steps": 10,
        "brownian": True,
        "options": {"eta": 0.6, "s_noise": 1.02},
    },
    "euler_a_eta_10": {
        "function": "sample_euler_ancestral",
        "sampler": "euler_a",
        "steps": 10,
        "options": {"eta": 0.6, "s_noise": 1.02},
    },
    "dpm2_a_eta_10": {
        "function": "sample_dpm_2_ancestral",
        "sampler": "dpm2_a",
        "steps": 10,
        "options": {"eta": 0.6, "s_noise": 1.02},
    },
    "euler_churn_10": {"function": "sample_euler", "sampler": "euler", "steps": 10, "options": CHURN},
    "heun_churn_10": {"function": "sample_heun", "sampler": "heun", "steps": 10, "options": CHURN},
    "dpm2_churn_10": {"function": "sample_dpm_2", "sampler": "dpm2", "steps": 10, "options": CHURN},
}


def load_sampling(checkout: Path) -> Any:
    """k-diffusion's `sampling.py` as a module of a package that has nothing else."""
    for name in ("torchdiffeq", "k_diffusion", "k_diffusion.utils"):
        sys.modules[name] = types.ModuleType(name)
    sys.modules["torchdiffeq"].odeint = None
    sys.modules["k_diffusion"].utils = sys.modules["k_diffusion.utils"]
    sys.modules["k_diffusion.utils"].append_dims = lambda x, n: x[(...,) + (None,) * (n - x.ndim)]
    spec = importlib.util.spec_from_file_location("k_diffusion.sampling", checkout / "k_diffusion" / "sampling.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(sampling: Any, case: dict[str, Any]) -> dict[str, np.ndarray]:
    """The states and timesteps of one case."""
    scheduler = diffusers.EulerDiscreteScheduler.from_config(STABLE_DIFFUSION | {"timestep_spacing": "linspace"})
    scheduler.set_timesteps(case["steps"])
    log_sigmas = np.log(np.array(((1 - scheduler.alphas_cumprod) / scheduler.alphas_cumprod) ** 0.5))
    sigmas = scheduler.sigmas.double()
    at_level = dict(zip(sigmas.tolist(), scheduler.timesteps.tolist(), strict=False))
    generator = torch.Generator().manual_seed(SEED)
    z = torch.randn(SHAPE, generator=generator).double() * sigmas.max()
    states, asked = [], []

    def model(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        level = float(sigma[0])
        t = at_level[level] if level in at_level else float(scheduler._sigma_to_t(np.array(level), log_sigmas))
        asked.append(t)
        epsilon = toy_model((x / (sigma[0] ** 2 + 1) ** 0.5).numpy(), t)
        return x - sigma[0] * torch.from_numpy(epsilon)

    randn_like = torch.randn_like
    torch.randn_like = lambda x: torch.randn(x.shape, generator=generator).double()
    randn = torch.randn
    options = dict(case.get("options", {}))
    if case.get("brownian"):
        torch.randn = lambda *a, dtype=None, **k: randn(*a, dtype=torch.float32, **k).double()
        levels = sigmas[sigmas > 0]
        seed = SEEDS["brownian"][0]
        options["noise_sampler"] = sampling.BrownianTreeNoiseSampler(z, levels.min(), levels.max(), seed=seed)
    elif "sde" in case["function"]:
        options["noise_sampler"] = sampling.default_noise_sampler(z)
    try:
        function = getattr(sampling, case["function"])
        end = function(
            model, z, sigmas, callback=lambda info: states.append(info["x"].numpy()), disable=True, **options
        )
    finally:
        torch.randn_like, torch.randn = randn_like, randn
    return {
        "states": np.stack([*states, end.numpy()]),
        "timesteps": np.array(asked),
        "sigmas": scheduler.sigmas.numpy(),
    }


def make_brownian() -> None:
    """Increments of torchsde's Brownian path, in float32 and in the order of a sampler, and out of order."""
    start, end, seed = 0.0291675, 14.6146, 123
    questions = [[14.6146, 6.1], [6.1, 3.000001], [3.000001, 0.5], [0.5, 0.0291675], [10.0, 2.0], [6.1, 3.000001]]
    tree = torchsde.BrownianTree(t0=start, w0=torch.zeros(2, 3, 5), t1=end, entropy=seed)
    tensors = {str(k): tree(low, high).numpy() for k, (high, low) in enumerate(questions)}
    save_golden(
        "diffusion/brownian", tensors, ("torch", "torchsde"), start=start, end=end, seed=seed, questions=questions
    )


def make_beta() -> None:
    """Quantiles of the Beta(0.6, 0.6) distribution."""
    p = np.linspace(0, 1, 101)
    save_golden("diffusion/beta", {"p": p, "quantile": scipy.stats.beta.ppf(p, 0.6, 0.6)}, ("scipy",))


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    diffusers.utils.logging.set_verbosity_error()
    sampling = load_sampling(Path(sys.argv[1]))
    tensors = {f"{name}.{k}": v for name, case in CASES.items() for k, v in run(sampling, case).items()}
    save_golden(
        "diffusion/k_diffusion", tensors, ("torch", "diffusers", "torchsde"), cases=CASES, seed=SEED, seeds=SEEDS
    )
    make_brownian()
    make_beta()
