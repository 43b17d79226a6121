"""Make the goldens of ControlNet end to end: pictures that diffusers' pipeline makes of a miniature.

    pip install ".[golden]" && python tests/golden/make_controlnet.py

Stored are the pictures `(N, H, W, 3)` in [0, 1]; the originals compute in float32.
"""

from __future__ import annotations

import logging
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from diffusers import ControlNetModel, DDIMScheduler, EulerDiscreteScheduler, StableDiffusionControlNetPipeline
from PIL import Image
from provenance import save_golden

sys.path.insert(0, str(Path(__file__).parents[1]))
from tiny_checkpoints import write_controlnet, write_sd

logging.getLogger("diffusers").setLevel(logging.ERROR)
SCHEDULERS = {"ddim": DDIMScheduler, "euler": EulerDiscreteScheduler}
# Arguments of `text_to_image`, and the scale of each ControlNet.
CASES = {
    "guided": {"prompt": "a", "steps": 4, "guidance_scale": 5.0, "seed": 3, "sampler": "ddim", "scales": [0.7]},
    "unguided": {"prompt": ["a", "b"], "steps": 3, "guidance_scale": 1.0, "seed": 1, "sampler": "euler", "scales": [1]},
    "two": {"prompt": "a", "steps": 4, "guidance_scale": 3.0, "seed": 3, "sampler": "ddim", "scales": [0.5, 0.25]},
}


def control_images() -> list[np.ndarray]:
    """A disc and stripes, `(H, W, 3)` 8-bit, not square: the same here and in the tests."""
    y, x = np.mgrid[:16, :24]
    disc = ((x - 11.5) ** 2 + (y - 7.5) ** 2 < 30)[..., None] * np.array([255, 128, 0])
    stripes = np.stack([(x % 6) * 50, (y % 5) * 60, np.full_like(x, 90)], axis=-1)
    return [disc.astype(np.uint8), stripes.astype(np.uint8)]


def run(folder: Path, case: dict) -> np.ndarray:
    """The pictures of a case."""
    nets = [ControlNetModel.from_pretrained(folder / f"control{i}") for i in range(len(case["scales"]))]
    images = [Image.fromarray(image) for image in control_images()[: len(nets)]]
    one = len(nets) == 1
    pipe = StableDiffusionControlNetPipeline.from_pretrained(folder / "sd", controlnet=nets[0] if one else nets)
    pipe.scheduler = SCHEDULERS[case["sampler"]].from_config(pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    scales = [float(scale) for scale in case["scales"]]
    count = 1 if isinstance(case["prompt"], str) else len(case["prompt"])
    return pipe(
        case["prompt"],
        image=(images[0] if count == 1 else images * count) if one else images,
        num_inference_steps=case["steps"],
        guidance_scale=case["guidance_scale"],
        generator=torch.Generator("cpu").manual_seed(case["seed"]),
        controlnet_conditioning_scale=scales[0] if one else scales,
        output_type="np",
    ).images


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_sd(folder / "sd")
        for i in range(2):
            write_controlnet(folder / f"control{i}", start=i)
        pictures = {case: run(folder, arguments) for case, arguments in CASES.items()}
    packages = ("torch", "diffusers", "transformers", "numpy")
    path = save_golden("pipelines/controlnet", pictures, packages, cases=CASES, seed=[1, 3], patches=[])
    print(f"{path}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
