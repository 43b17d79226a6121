"""Make the goldens of the upscalers end to end: what diffusers' pipelines make of miniatures, in float64.

    pip install ".[golden]" && python tests/golden/make_upscale.py

Stored are the final latents and the pictures `(1, 3, H, W)`, not rounded. The casts to float32 inside the originals are
lifted, as `make_models.py` says; noise is drawn in float32, as it is elsewhere, and the table of the schedule is that
of float32.
"""

from __future__ import annotations

import logging
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import LDMSuperResolutionPipeline, StableDiffusionUpscalePipeline
from diffusers.pipelines.latent_diffusion import pipeline_latent_diffusion_superresolution as superresolution
from diffusers.pipelines.stable_diffusion import pipeline_stable_diffusion_upscale as upscale
from diffusers.schedulers import scheduling_ddim
from make_models import lifted, patches
from PIL import Image
from provenance import save_golden

sys.path.insert(0, str(Path(__file__).parents[1]))
from tiny_checkpoints import write_super_resolution, write_x4

logging.getLogger("diffusers").setLevel(logging.ERROR)
# Arguments of `LatentDiffusion.upscale`, and width and height of the picture.
CASES: dict[str, dict[str, Any]] = {
    "x4_usual": {"size": [10, 8], "prompt": "a", "negative_prompt": "b", "steps": 4, "seed": 3},
    "x4_unguided": {"size": [8, 8], "prompt": "a", "steps": 3, "guidance_scale": 1.0, "noise_level": 200, "seed": 4},
    "x4_eta": {"size": [8, 12], "prompt": "", "steps": 4, "seed": 5, "noise_level": 0, "sampler_options": {"eta": 0.5}},
    "super_resolution": {"size": [32, 32], "steps": 4, "seed": 6},
    "super_resolution_not_square": {"size": [32, 64], "steps": 3, "seed": 7},
}


def small_picture(width: int, height: int) -> Image.Image:
    """A disc on stripes: the same here and in the tests."""
    y, x = np.mgrid[:height, :width]
    disc = (x - width / 2) ** 2 + (y - height / 2) ** 2 < 9
    colours = np.stack([np.where(disc, 250, 10 * x), np.where(disc, 30, 9 * y), 40 + 0 * x + 60 * (x % 3)], axis=-1)
    return Image.fromarray(np.clip(colours, 0, 255).astype(np.uint8))


def drawn_in_float32(shape: Any, generator: Any = None, device: Any = None, dtype: Any = None) -> torch.Tensor:
    """What stands in for the pipelines' `randn_tensor`."""
    return torch.randn(shape, generator=generator).to(dtype)


def run(folder: Path, case: dict[str, Any]) -> dict[str, np.ndarray]:
    """Latent and picture of a case."""
    image, generator = small_picture(*case["size"]), torch.Generator("cpu").manual_seed(case["seed"])
    published = StableDiffusionUpscalePipeline if "prompt" in case else LDMSuperResolutionPipeline
    pipe = published.from_pretrained(folder).to(torch.float64)
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler.alphas_cumprod = pipe.scheduler.alphas_cumprod.double()
    pipe.scheduler.final_alpha_cumprod = pipe.scheduler.final_alpha_cumprod.double()
    seen: dict[str, np.ndarray] = {}
    vae = pipe.vqvae if "prompt" not in case else pipe.vae
    decode, scale = vae.decode, 1.0 if "prompt" not in case else vae.config.scaling_factor

    def watched(z: torch.Tensor, **more: Any) -> Any:
        seen["latent"] = (z * scale).detach().numpy()
        result = decode(z, **more)
        seen["picture"] = (result[0] if isinstance(result, tuple) else result.sample).detach().numpy()
        return result

    vae.decode = watched
    given = {"num_inference_steps": case["steps"], "eta": case.get("sampler_options", {}).get("eta", 0.0)}
    given |= {
        name: case[name] for name in ("prompt", "negative_prompt", "guidance_scale", "noise_level") if name in case
    }
    # The original makes float32 of pixels; they are made anew from their levels.
    exact = torch.from_numpy(np.moveaxis(np.asarray(image, np.float64) / 255, -1, 0)[None])
    pipe(image=exact if "prompt" in case else 2 * exact - 1, generator=generator, output_type="np", **given)
    return seen


def main() -> None:
    for module in (upscale, superresolution, scheduling_ddim):
        module.randn_tensor = drawn_in_float32
    tensors: dict[str, np.ndarray] = {}
    with tempfile.TemporaryDirectory() as name, lifted(), torch.no_grad():
        folders = {"x4": write_x4(Path(name) / "x4"), "super": write_super_resolution(Path(name) / "super")}
        for case, arguments in CASES.items():
            found = run(folders[case.split("_")[0]], arguments)
            tensors |= {f"{case}/{part}": array for part, array in found.items()}
    changed = [*patches(), "randn_tensor: float32, then cast", "alphas_cumprod: cast to float64"]
    packages = ("torch", "diffusers", "transformers", "numpy")
    path = save_golden("pipelines/upscale", tensors, packages, cases=CASES, seed=[3, 7], patches=changed)
    print(f"{path}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
