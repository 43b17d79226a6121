"""Make the end-to-end goldens: pictures that diffusers' own pipelines make of the embedded checkpoint.

    pip install ".[golden]" && python tests/golden/make_pipelines.py

Every case is a prompt, a seed and a sampler; stored are the 8-bit pictures `(N, H, W, 3)`. The originals compute in
float32 from the float16 file, as the tests do.
"""

from __future__ import annotations

import argparse
import hashlib
import logging
from pathlib import Path

import numpy as np
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    LMSDiscreteScheduler,
    PNDMScheduler,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionPipeline,
)
from PIL import Image
from provenance import save_golden

logging.getLogger("diffusers").setLevel(logging.ERROR)
EMBEDDED = Path(__file__).parents[2] / "weights" / "emoji"
SCHEDULERS = {
    "ddim": (DDIMScheduler, {}),
    "ddpm": (DDPMScheduler, {}),
    "pndm": (PNDMScheduler, {}),
    "euler": (EulerDiscreteScheduler, {}),
    "euler_a": (EulerAncestralDiscreteScheduler, {}),
    "dpm++_2m": (DPMSolverMultistepScheduler, {}),
    "dpm++_2m_karras": (DPMSolverMultistepScheduler, {"use_karras_sigmas": True}),
    "lms": (LMSDiscreteScheduler, {}),
}
# Each case is the arguments of `LatentDiffusion.text_to_image`, or of `image_to_image` where it has a strength.
CASES = {
    f"text_{sampler}": {"prompt": "red apple", "steps": 10, "guidance_scale": 4.0, "seed": 0, "sampler": sampler}
    for sampler in SCHEDULERS
} | {
    "text_25_steps": {"prompt": "fox", "steps": 25, "guidance_scale": 7.5, "seed": 1, "sampler": "ddim"},
    "text_batch": {
        "prompt": ["owl", "sunflower"],
        "negative_prompt": ["yellow", ""],
        "num_images": 2,
        "steps": 8,
        "guidance_scale": 3.0,
        "seed": 2,
        "sampler": "dpm++_2m",
    },
    "text_unguided": {"prompt": "snowman", "steps": 10, "guidance_scale": 1.0, "seed": 3, "sampler": "euler"},
    "text_other_size": {
        "prompt": "bus",
        "steps": 6,
        "guidance_scale": 4.0,
        "seed": 4,
        "sampler": "ddim",
        "height": 40,
        "width": 88,
    },
    "image_ddim": {
        "prompt": "green apple",
        "strength": 0.6,
        "steps": 10,
        "guidance_scale": 4.0,
        "seed": 5,
        "sampler": "ddim",
    },
    "image_euler_a": {
        "prompt": "lemon",
        "strength": 0.5,
        "steps": 10,
        "guidance_scale": 4.0,
        "seed": 6,
        "sampler": "euler_a",
    },
}


def first_picture() -> Image.Image:
    """The picture that image-to-image begins with: a red disc on white, the same here and in the tests."""
    y, x = np.mgrid[:64, :64]
    inside = ((x - 31.5) ** 2 + (y - 31.5) ** 2 < 24**2)[..., None]
    return Image.fromarray(np.where(inside, [220, 40, 30], 255).astype(np.uint8))


def run(pipe: StableDiffusionPipeline, case: dict) -> np.ndarray:
    """The pictures of one case by the original."""
    case = dict(case)
    kind, options = SCHEDULERS[case.pop("sampler")]
    arguments = {
        "generator": torch.Generator("cpu").manual_seed(case.pop("seed")),
        "num_inference_steps": case.pop("steps"),
        "num_images_per_prompt": case.pop("num_images", 1),
        "output_type": "np",
        **case,
    }
    components = {**pipe.components, "scheduler": kind.from_config(pipe.scheduler.config, **options)}
    if "strength" in case:
        pipeline = StableDiffusionImg2ImgPipeline(**components, requires_safety_checker=False)
        arguments["image"] = first_picture()
    else:
        pipeline = StableDiffusionPipeline(**components, requires_safety_checker=False)
    pipeline.set_progress_bar_config(disable=True)
    return np.round(pipeline(**arguments).images * 255).astype(np.uint8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=EMBEDDED, help="checkpoint folder (default: the embedded one)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    pipe = StableDiffusionPipeline.from_pretrained(args.model, torch_dtype=torch.float32)
    pictures = {name: run(pipe, case) for name, case in CASES.items()}
    path = save_golden(
        "pipelines/emoji",
        pictures,
        ("torch", "diffusers", "transformers"),
        cases=CASES,
        weights={p.parent.name: digest(p) for p in sorted(args.model.glob("*/*.safetensors"))},
        patches=[],
    )
    print(f"{path}: {len(pictures)} cases, {path.stat().st_size} bytes")


def digest(path: Path) -> str:
    """The sha256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


if __name__ == "__main__":
    main()
