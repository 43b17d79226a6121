"""Make the end-to-end goldens: pictures that diffusers' own pipelines make of the embedded checkpoint.

    pip install ".[golden]" && python tests/golden/make_pipelines.py

Every case is a prompt, a seed and a sampler; stored are the 8-bit pictures `(N, H, W, 3)`. The originals compute in
float32 from the float16 file, as the tests do.
"""

from __future__ import annotations

import argparse
import hashlib
import logging
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    LatentConsistencyModelPipeline,
    LDMPipeline,
    LDMTextToImagePipeline,
    LMSDiscreteScheduler,
    PNDMScheduler,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from diffusers.pipelines.latent_diffusion.pipeline_latent_diffusion import LDMBertConfig, LDMBertModel
from PIL import Image
from provenance import save_golden
from safetensors.torch import load_file
from transformers import BertTokenizer

sys.path.insert(0, str(Path(__file__).parents[1]))
from tiny_checkpoints import (
    BERT,
    TURBO_SCHEDULER,
    ZERO_SNR_SCHEDULER,
    write_lcm,
    write_ldm,
    write_ldm_text,
    write_refiner,
    write_sd2,
    write_sdxs,
    write_xl,
    write_xl_turbo,
)

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
    "text_one_stream": {
        "prompt": ["owl", "sunflower"],
        "steps": 8,
        "guidance_scale": 3.0,
        "seed": 2,
        "sampler": "dpm++_2m",
        "one_stream": True,
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
    "image_batch": {
        "prompt": ["lemon", "tomato"],
        "strength": 0.6,
        "steps": 10,
        "guidance_scale": 4.0,
        "seed": 7,
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


# The XL models, tiny and with seeded weights; latents are compared, since an untrained decoder makes no picture.
XL_CASES = {
    "xl": {"prompt": "a", "steps": 4, "guidance_scale": 5.0, "seed": 0, "sampler": "euler"},
    "xl_negative": {
        "prompt": ["a", "b"],
        "negative_prompt": ["c", ""],
        "steps": 3,
        "guidance_scale": 5.0,
        "seed": 1,
        "sampler": "euler",
        "height": 24,
        "width": 16,
    },
    "xl_unguided": {"prompt": "a", "steps": 1, "guidance_scale": 0.0, "seed": 2, "sampler": "euler"},
}
REFINER_CASES = {
    "refiner": {"prompt": "a", "strength": 0.5, "steps": 6, "guidance_scale": 5.0, "seed": 3, "sampler": "euler"}
}


def xl_latents(pipe: StableDiffusionXLPipeline, case: dict) -> np.ndarray:
    """The final latents of one case by the original, with the model's own scheduler."""
    case = dict(case)
    case.pop("sampler")
    if "strength" in case:
        case["image"] = first_picture().resize((16, 16))
    pipe.set_progress_bar_config(disable=True)
    generator = torch.Generator("cpu").manual_seed(case.pop("seed"))
    steps = case.pop("steps")
    return pipe(**case, generator=generator, num_inference_steps=steps, output_type="latent").images.numpy()


def make_xl() -> dict[str, np.ndarray]:
    """All cases of the XL models."""
    latents = {}
    for kind, write, cases in (
        (StableDiffusionXLPipeline, write_xl, XL_CASES),
        (StableDiffusionXLImg2ImgPipeline, write_refiner, REFINER_CASES),
    ):
        with tempfile.TemporaryDirectory() as folder:
            pipe = kind.from_pretrained(write(Path(folder) / "tiny"), torch_dtype=torch.float32, add_watermarker=False)
        latents |= {name: xl_latents(pipe, case) for name, case in cases.items()}
    return latents


# The few-step models and the other text models, tiny: (which checkpoint, arguments). Latents, as above.
FEW_STEP_CASES = {
    "sd_turbo": {"prompt": "a", "steps": 1, "guidance_scale": 0.0, "seed": 0, "sampler": "euler"},
    "sd_turbo_2": {"prompt": ["a", "b"], "steps": 2, "guidance_scale": 0.0, "seed": 1, "sampler": "euler"},
    "xl_turbo": {"prompt": "a", "steps": 1, "guidance_scale": 0.0, "seed": 2, "sampler": "euler_a"},
    "xl_turbo_4": {"prompt": "b", "steps": 4, "guidance_scale": 0.0, "seed": 3, "sampler": "euler_a"},
    "lcm": {"prompt": "a", "steps": 4, "guidance_scale": 8.0, "seed": 4, "sampler": "lcm"},
    "lcm_1": {"prompt": ["a", "b"], "steps": 1, "guidance_scale": 7.5, "seed": 5, "sampler": "lcm"},
    "sdxs": {"prompt": "a", "steps": 1, "guidance_scale": 0.0, "seed": 6, "sampler": "euler"},
    "zero_snr": {"prompt": "a", "steps": 4, "guidance_scale": 5.0, "seed": 7, "sampler": "ddim"},
    "ldm_text": {"prompt": "a bad cafe!", "steps": 4, "guidance_scale": 5.0, "seed": 8, "sampler": "ddim"},
    "ldm_text_unguided": {"prompt": ["a", "b"], "steps": 3, "guidance_scale": 1.0, "seed": 9, "sampler": "ddim"},
}


def make_few_step() -> dict[str, np.ndarray]:
    """The final latents of all cases of the few-step and the other text models."""
    kinds = {
        "sd_turbo": (StableDiffusionPipeline, lambda folder: write_sd2(folder, TURBO_SCHEDULER)),
        "xl_turbo": (StableDiffusionXLPipeline, write_xl_turbo),
        "lcm": (LatentConsistencyModelPipeline, write_lcm),
        "sdxs": (StableDiffusionPipeline, write_sdxs),
        "zero_snr": (StableDiffusionPipeline, lambda folder: write_sd2(folder, ZERO_SNR_SCHEDULER)),
    }
    latents = {}
    for name, (kind, write) in kinds.items():
        with tempfile.TemporaryDirectory() as folder:
            pipe = kind.from_pretrained(write(Path(folder) / "tiny"), torch_dtype=torch.float32)
        cases = {key: case for key, case in FEW_STEP_CASES.items() if key.startswith(name)}
        latents |= {key: xl_latents(pipe, case) for key, case in cases.items()}
    return latents | make_ldm_text()


def make_ldm_text() -> dict[str, np.ndarray]:
    """The latents that the first text model's pipeline gives to its decoder."""
    found = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = write_ldm_text(Path(scratch) / "tiny")
        bert = LDMBertModel(LDMBertConfig(**BERT))
        bert.load_state_dict(load_file(folder / "bert" / "model.safetensors"), strict=False)
        pipe = LDMTextToImagePipeline(
            vqvae=AutoencoderKL.from_pretrained(folder / "vqvae"),
            bert=bert.eval(),
            tokenizer=BertTokenizer.from_pretrained(folder / "tokenizer"),
            unet=UNet2DConditionModel.from_pretrained(folder / "unet"),
            scheduler=DDIMScheduler.from_pretrained(folder / "scheduler"),
        )
    pipe.set_progress_bar_config(disable=True)
    decode, factor = pipe.vqvae.decode, pipe.vqvae.config.scaling_factor
    for name, case in ((n, c) for n, c in FEW_STEP_CASES.items() if n.startswith("ldm_text")):
        kept = []
        pipe.vqvae.decode = lambda z, kept=kept: (kept.append(z * factor), decode(z))[1]
        generator = torch.Generator("cpu").manual_seed(case["seed"])
        size = {"height": 64, "width": 64}  # the pipeline takes the autoencoder to make one latent of eight pixels
        steps, guidance = case["steps"], case["guidance_scale"]
        pipe(case["prompt"], num_inference_steps=steps, guidance_scale=guidance, generator=generator, **size)
        found[name] = kept[0].detach().numpy()
    return found


LDM_CASE = {"count": 2, "steps": 5, "seed": 4}


def make_ldm() -> dict[str, np.ndarray]:
    """Pictures of an unconditional model, `(N, H, W, 3)` in [0, 1]."""
    with tempfile.TemporaryDirectory() as folder:
        pipe = LDMPipeline.from_pretrained(write_ldm(Path(folder) / "tiny"), torch_dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    generator = torch.Generator("cpu").manual_seed(LDM_CASE["seed"])
    steps, count = LDM_CASE["steps"], LDM_CASE["count"]
    return {"pictures": pipe(count, generator, num_inference_steps=steps, output_type="np").images}


def first_picture() -> Image.Image:
    """The picture that image-to-image begins with: a red disc on white, the same here and in the tests."""
    y, x = np.mgrid[:64, :64]
    inside = ((x - 31.5) ** 2 + (y - 31.5) ** 2 < 24**2)[..., None]
    return Image.fromarray(np.where(inside, [220, 40, 30], 255).astype(np.uint8))


def generators(case: dict) -> torch.Generator | list[torch.Generator]:
    """A generator for each picture, with seeds that count up; with `one_stream` the one of the seed. Takes them out."""
    seed, one_stream = case.pop("seed"), case.pop("one_stream", False)
    prompts = [case["prompt"]] if isinstance(case["prompt"], str) else case["prompt"]
    count = 1 if one_stream else len(prompts) * case.get("num_images", 1)
    every = [torch.Generator("cpu").manual_seed(seed + k) for k in range(count)]
    return every[0] if count == 1 else every


def run(pipe: StableDiffusionPipeline, case: dict) -> np.ndarray:
    """The pictures of one case by the original."""
    case = dict(case)
    kind, options = SCHEDULERS[case.pop("sampler")]
    arguments = {
        "generator": generators(case),
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
    parser.add_argument("--tiny-only", action="store_true", help="make the goldens of the tiny models alone")
    args = parser.parse_args()
    torch.set_num_threads(1)
    packages = ("torch", "diffusers", "transformers")
    path = save_golden("pipelines/xl", make_xl(), packages, cases=XL_CASES | REFINER_CASES, seed=0, patches=[])
    print(f"{path}: {path.stat().st_size} bytes")
    few = make_few_step()
    path = save_golden("pipelines/few_step", few, packages, cases=FEW_STEP_CASES, seed=0, patches=[])
    print(f"{path}: {path.stat().st_size} bytes")
    path = save_golden("pipelines/ldm", make_ldm(), packages, case=LDM_CASE, seed=0, patches=[])
    print(f"{path}: {path.stat().st_size} bytes")
    if args.tiny_only:
        return
    pipe = StableDiffusionPipeline.from_pretrained(args.model, torch_dtype=torch.float32)
    pictures = {name: run(pipe, case) for name, case in CASES.items()}
    path = save_golden(
        "pipelines/emoji",
        pictures,
        packages,
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
