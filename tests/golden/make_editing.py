"""Make the goldens of editing: the latents that diffusers' inpainting, instruction and depth pipelines end with.

    pip install ".[golden]" && python tests/golden/make_editing.py

The models are tiny, with seeded weights, and compute in float64: the casts to float32 inside are lifted, the schedule's
table is float64 (its values stay those of float32), and noise is drawn in float32 as `torch.randn` draws it for a user.
"""

from __future__ import annotations

import inspect
import logging
import sys
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    StableDiffusionDepth2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionInstructPix2PixPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLInpaintPipeline,
    StableDiffusionXLInstructPix2PixPipeline,
    StableDiffusionXLPipeline,
)
from diffusers.models.autoencoders import vae
from diffusers.pipelines.stable_diffusion import (
    pipeline_stable_diffusion_depth2img,
    pipeline_stable_diffusion_inpaint,
    pipeline_stable_diffusion_instruct_pix2pix,
)
from diffusers.pipelines.stable_diffusion_xl import (
    pipeline_stable_diffusion_xl_inpaint,
    pipeline_stable_diffusion_xl_instruct_pix2pix,
)
from diffusers.schedulers import scheduling_euler_ancestral_discrete
from diffusers.utils.torch_utils import randn_tensor
from PIL import Image
from provenance import save_golden

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE.parents[1])]

from golden.make_models import lifted, patches  # noqa: E402
from tiny_checkpoints import (  # noqa: E402
    write_depth,
    write_inpainting,
    write_pix2pix,
    write_sd,
    write_xl,
    write_xl_pix2pix,
)

logging.getLogger("diffusers").setLevel(logging.ERROR)
SCHEDULERS = {
    "ddim": DDIMScheduler,
    "euler": EulerDiscreteScheduler,
    "euler_a": EulerAncestralDiscreteScheduler,
    "dpm++_2m": DPMSolverMultistepScheduler,
}
# kind of pipeline: (the original, how its checkpoint is written)
KINDS: dict[str, tuple[Any, Any]] = {
    "told": (StableDiffusionInpaintPipeline, write_inpainting),
    "blended": (StableDiffusionInpaintPipeline, write_sd),
    "xl": (StableDiffusionXLInpaintPipeline, write_xl),
    "edit": (StableDiffusionInstructPix2PixPipeline, write_pix2pix),
    "editxl": (StableDiffusionXLInstructPix2PixPipeline, write_xl_pix2pix),
    "depth": (StableDiffusionDepth2ImgPipeline, write_depth),
}
MODULES: list[ModuleType] = [
    pipeline_stable_diffusion_inpaint,
    pipeline_stable_diffusion_xl_inpaint,
    pipeline_stable_diffusion_instruct_pix2pix,
    pipeline_stable_diffusion_xl_instruct_pix2pix,
    pipeline_stable_diffusion_depth2img,
    scheduling_euler_ancestral_discrete,
    vae,
]
USUAL = {"prompt": "a", "steps": 5, "guidance_scale": 4.0, "sampler": "ddim"}
# Each is the fields of a request, without the pictures: those are `picture`, `mask` and `depth` below.
CASES: dict[str, dict[str, Any]] = {
    "told": {**USUAL, "seed": 0},
    "told_part": {**USUAL, "seed": 1, "strength": 0.6, "negative_prompt": "b"},
    "told_unguided": {**USUAL, "seed": 2, "guidance_scale": 1.0, "sampler": "euler_a"},
    "told_two": {**USUAL, "prompt": ["a", "b"], "seed": 3, "sampler": "dpm++_2m"},
    "blended": {**USUAL, "seed": 4, "strength": 1.0},
    "blended_part": {**USUAL, "seed": 5, "strength": 0.6},
    "blended_unguided": {**USUAL, "seed": 6, "strength": 1.0, "guidance_scale": 1.0},
    "blended_two": {**USUAL, "prompt": ["a", "b"], "seed": 7, "strength": 0.8},
    "blended_euler": {**USUAL, "seed": 8, "strength": 1.0, "sampler": "euler"},
    "blended_euler_a": {**USUAL, "seed": 9, "strength": 0.8, "sampler": "euler_a"},
    "blended_dpm": {**USUAL, "seed": 10, "strength": 1.0, "sampler": "dpm++_2m"},
    "xl": {**USUAL, "seed": 11, "strength": 1.0, "sampler": "euler"},
    "xl_part": {**USUAL, "seed": 12, "strength": 0.6, "sampler": "euler_a"},
    "edit": {**USUAL, "seed": 13, "image_guidance_scale": 1.5},
    "edit_negative": {**USUAL, "seed": 14, "image_guidance_scale": 1.0, "negative_prompt": "b"},
    "edit_two": {**USUAL, "prompt": ["a", "b"], "seed": 15, "image_guidance_scale": 2.0, "sampler": "euler_a"},
    "edit_unguided": {**USUAL, "seed": 16, "guidance_scale": 1.0},
    "editxl": {**USUAL, "seed": 19, "image_guidance_scale": 1.5, "sampler": "euler"},
    "depth": {**USUAL, "seed": 17, "strength": 0.6},
    "depth_two": {**USUAL, "prompt": ["a", "b"], "seed": 18, "strength": 1.0, "guidance_scale": 1.0},
}


def picture() -> Image.Image:
    """The picture to edit: waves of colour, the same here and in the tests."""
    y, x = np.mgrid[:16, :16]
    waves = [np.sin(0.4 * x + 0.1 * y), np.cos(0.3 * y), np.sin(0.2 * (x - y))]
    return Image.fromarray(np.round(127.5 + 127.5 * np.stack(waves, -1)).astype(np.uint8))


def mask(kind: str) -> Image.Image:
    """The mask: for a model that is told of it any, for blending one whose edges are those of latents."""
    levels = np.zeros((16, 16), np.uint8)
    if kind == "told":
        levels[3:9, 5:14] = 255
        levels[12, 12] = 128
    else:
        levels[4:10, 6:14] = 255
    return Image.fromarray(levels)


def depth() -> np.ndarray:  # -> (1, 24, 24)
    """A map of depth of another size than the picture."""
    y, x = np.mgrid[:24, :24]
    return (3.0 + np.sin(0.3 * x) * y + 0.02 * x * x)[None]


def float32_noise(shape: Any, generator: Any = None, device: Any = None, dtype: Any = None, layout: Any = None) -> Any:
    """Noise as it is drawn in float32, in the dtype that is asked for."""
    return randn_tensor(shape, generator=generator, device=device, dtype=torch.float32, layout=layout).to(dtype)


def pipeline(kind: str, folder: Path) -> Any:
    """The original of a kind in float64."""
    original, write = KINDS[kind]
    base = StableDiffusionXLPipeline if "xl" in kind else StableDiffusionPipeline
    components = base.from_pretrained(write(folder / kind), torch_dtype=torch.float64).components
    wanted = inspect.signature(original.__init__).parameters
    more: dict[str, Any] = {"requires_safety_checker": False, "add_watermarker": False} | components
    more |= {"depth_estimator": None, "feature_extractor": None}
    pipe = original(**{name: value for name, value in more.items() if name in wanted})
    pipe.set_progress_bar_config(disable=True)
    return pipe


def final_latents(pipe: Any, kind: str, case: dict[str, Any]) -> np.ndarray:
    """The latents that a case ends with, by one generator over the batch."""
    case = dict(case)
    pipe.scheduler = SCHEDULERS[case.pop("sampler")].from_config(pipe.scheduler.config)
    for name in ("alphas_cumprod", "final_alpha_cumprod"):
        if isinstance(getattr(pipe.scheduler, name, None), torch.Tensor) and isinstance(pipe.scheduler, DDIMScheduler):
            setattr(pipe.scheduler, name, getattr(pipe.scheduler, name).double())
    count = len(case["prompt"]) if isinstance(case["prompt"], list) else 1
    if "negative_prompt" in case:
        case["negative_prompt"] = [case["negative_prompt"]] * count
    case["prompt"] = case["prompt"] if count > 1 else [case["prompt"]]
    case["image"] = picture()
    if kind in ("told", "blended", "xl"):
        case |= {"mask_image": mask(kind), "strength": case.get("strength", 1.0), "height": 16, "width": 16}
    if kind == "depth":
        case["depth_map"] = torch.from_numpy(depth())
    steps, seed = case.pop("steps"), case.pop("seed")
    generator = torch.Generator("cpu").manual_seed(seed)
    return pipe(**case, num_inference_steps=steps, generator=generator, output_type="latent").images.numpy()


VARIATION: dict[str, Any] = {"seed": 5, "variation_seed": 7, "variation_strength": 0.3, "shape": [4, 8, 6]}


def web_interface_noise() -> np.ndarray:
    """The noise of a variation as the web interface makes it: along the arc in every column of every channel."""
    a, b = (
        torch.randn(VARIATION["shape"], generator=torch.manual_seed(int(VARIATION[s])))
        for s in ("seed", "variation_seed")
    )
    t = VARIATION["variation_strength"]
    angle = torch.acos(torch.nn.functional.cosine_similarity(a, b, dim=1)).unsqueeze(1)
    return ((torch.sin((1 - t) * angle) * a + torch.sin(t * angle) * b) / torch.sin(angle)).numpy()


def main() -> None:
    torch.set_num_threads(1)
    for module in MODULES:
        module.randn_tensor = float32_noise  # type: ignore[attr-defined]
    found = {}
    with tempfile.TemporaryDirectory() as folder, lifted():
        for kind in KINDS:
            pipe = pipeline(kind, Path(folder))
            for name, case in CASES.items():
                if name.split("_")[0] == kind:
                    found[name] = final_latents(pipe, kind, case)
                    print(name, found[name].dtype, found[name].shape, found[name].std())
    found["noise"] = web_interface_noise()
    packages = ("torch", "diffusers", "transformers")
    notes = [*patches(), "randn_tensor draws in float32", "DDIMScheduler: the table of alpha-bar in float64"]
    path = save_golden("pipelines/editing", found, packages, cases=CASES, variation=VARIATION, seed=0, patches=notes)
    print(f"{path}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
