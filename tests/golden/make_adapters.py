"""Make the goldens of ControlNets and adapters: the latents of diffusers' pipelines on miniatures, in float64.

    pip install ".[golden]" && python tests/golden/make_adapters.py [control …]

The tables of the noise schedule are those that the original has in float32; what it computes of them, and with all
else, is in float64, the casts to float32 inside lifted (`make_models.lifted`).
"""

from __future__ import annotations

import logging
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
from diffusers import ControlNetModel, DDIMScheduler, MultiAdapter, PNDMScheduler, T2IAdapter
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE.parents[1])]

from golden.adapter_cases import CONTROL, IP, PIXELS, T2I, photo, picture  # noqa: E402
from golden.family_cases import VISION  # noqa: E402
from golden.make_models import lifted, patches  # noqa: E402
from golden.provenance import save_golden  # noqa: E402
from tiny_checkpoints import (  # noqa: E402
    T2I_ADAPTER,
    XL_T2I_ADAPTER,
    XL_UNET_3,
    write_component,
    write_controlnet,
    write_image_encoder,
    write_ip_adapter,
    write_sd,
    write_xl,
    write_xl_controlnet,
)

from tinyldm.golden.seeded import seeded_input, seeded_weight  # noqa: E402

logging.getLogger("diffusers").setLevel(logging.ERROR)
torch.set_num_threads(1)
SCHEDULERS = {"ddim": DDIMScheduler, "pndm": PNDMScheduler}


def in_float64(pipe: Any, sampler: str) -> Any:
    """A pipeline in float64, with a scheduler whose tables are not rounded again."""
    pipe.scheduler = SCHEDULERS[sampler].from_config(pipe.scheduler.config)
    for name in ("alphas_cumprod", "final_alpha_cumprod", "betas"):
        setattr(pipe.scheduler, name, getattr(pipe.scheduler, name).double())
    pipe.vae.register_to_config(force_upcast=False)  # which is to float32
    pipe.set_progress_bar_config(disable=True)
    return pipe.to(torch.float64)


def arguments(case: dict[str, Any], size: tuple[int, int]) -> dict[str, Any]:
    """The arguments that every pipeline takes."""
    given: dict[str, Any] = {"num_inference_steps": case["steps"], "guidance_scale": case["guidance_scale"]}
    if "strength" in case:
        given |= {
            "image": picture("start"),
            "strength": case["strength"],
            "generator": torch.Generator().manual_seed(case["seed"]),
        }
    else:
        given["latents"] = torch.from_numpy(seeded_input("latents", (1, 4, *size))).double()
    return given | {"prompt": case["prompt"], "output_type": "latent"}


def control(case: dict[str, Any]) -> np.ndarray:
    """The final latents of a case with ControlNets."""
    xl = case["family"] == "xl"
    kind = "XL" if xl else ""
    kind += "ControlNetImg2Img" if "strength" in case else "ControlNet"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (write_xl if xl else write_sd)(folder / "model")
        count = len(case["scales"])
        for i in range(count):
            (write_xl_controlnet if xl else write_controlnet)(folder / f"control{i}", start=i)
        nets = [ControlNetModel.from_pretrained(folder / f"control{i}") for i in range(count)]
        pipe = getattr(diffusers, f"StableDiffusion{kind}Pipeline").from_pretrained(folder / "model", controlnet=nets)
    images = [picture(name) for name in ("disc", "stripes")[:count]]
    given: dict[str, Any] = arguments(case, (8, 12))
    given["control_image" if "strength" in case else "image"] = images
    return in_float64(pipe, case["sampler"])(
        **given,
        controlnet_conditioning_scale=[float(scale) for scale in case["scales"]],
        control_guidance_start=case["start"],
        control_guidance_end=case["end"],
    ).images.numpy()


def t2i(case: dict[str, Any]) -> np.ndarray:
    """The final latents of a case with T2I-Adapters."""
    xl = case["family"] == "xl3"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_xl(folder / "model", XL_UNET_3) if xl else write_sd(folder / "model")
        count = len(case["scales"])
        for i in range(count):
            write_component(folder / f"adapter{i}", XL_T2I_ADAPTER if xl else T2I_ADAPTER, start=i)
        nets = [T2IAdapter.from_pretrained(folder / f"adapter{i}") for i in range(count)]
        kind = diffusers.StableDiffusionXLAdapterPipeline if xl else diffusers.StableDiffusionAdapterPipeline
        more = {} if xl else {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
        pipe = kind.from_pretrained(folder / "model", adapter=nets[0] if count == 1 else MultiAdapter(nets), **more)
    images = [picture(name).convert("RGB" if xl else "L") for name in ("disc", "stripes")[:count]]
    return in_float64(pipe, case["sampler"])(
        **arguments(case, (8, 12)),
        image=images[0] if count == 1 else images,
        adapter_conditioning_scale=case["scales"][0] if count == 1 else case["scales"],
        **({"adapter_conditioning_factor": case["end"]} if xl else {}),
    ).images.numpy()


def ip(case: dict[str, Any]) -> np.ndarray:
    """The final latents of a case with IP-Adapters."""
    xl, kinds = case["family"] == "xl", case["kinds"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (write_xl if xl else write_sd)(folder / "model")
        write_image_encoder(folder / "image_encoder")
        files = [f"adapter{i}.safetensors" for i in range(len(kinds))]
        for i, (file, kind) in enumerate(zip(files, kinds, strict=True)):
            write_ip_adapter(folder / file, case["family"], kind, start=i)
        encoder = CLIPVisionModelWithProjection.from_pretrained(folder / "image_encoder", attn_implementation="eager")
        family = f"StableDiffusion{'XL' if xl else ''}{'Img2Img' if 'strength' in case else ''}Pipeline"
        pipe = getattr(diffusers, family).from_pretrained(folder / "model", image_encoder=encoder)
        pipe.load_ip_adapter(folder, subfolder="", weight_name=files)
    pipe.set_ip_adapter_scale(case["scales"])
    images = [photo((40, 23)), photo((17, 60))][: len(kinds)]
    return in_float64(pipe, case["sampler"])(**arguments(case, (8, 12)), ip_adapter_image=images).images.numpy()


def make_image_encoders() -> None:
    """`pixels -> embeds, tokens` of CLIP's image encoder, and the pixels that its processor makes of pictures."""
    found: dict[str, np.ndarray] = {}
    for name, config in VISION.items():
        model = CLIPVisionModelWithProjection._from_config(CLIPVisionConfig(**config), attn_implementation="eager")
        model.double().eval()
        with torch.no_grad():
            for key, tensor in model.state_dict().items():
                if not key.endswith("position_ids"):
                    values = seeded_weight(key.removeprefix("vision_model."), tuple(tensor.shape))
                    tensor.copy_(torch.from_numpy(values))
            side = config["image_size"]
            pixels = torch.from_numpy(seeded_input("pixels", (2, 3, side, side))).double()
            with lifted():
                out = model(pixels, output_hidden_states=True)
        found |= {f"{name} embeds": out.image_embeds.numpy()}
        found |= {f"{name} tokens {i}": tokens.numpy() for i, tokens in enumerate(out.hidden_states)}
    for side in (14, 224):
        processor = CLIPImageProcessor(size=side, crop_size=side)
        for name, size in PIXELS.items():
            made = np.asarray(processor(photo(size), return_tensors="np").pixel_values)
            found[f"pixels {side} {name}"] = made if side == 14 else made[:, :, ::31, ::29]
    packages = ("torch", "transformers", "pillow", "numpy")
    path = save_golden("pipelines/image-encoder", found, packages, configs=VISION, patches=patches())
    print(f"{path.name}: {path.stat().st_size} bytes")


KINDS: dict[str, tuple[dict[str, Any], Callable[[dict[str, Any]], np.ndarray]]] = {
    "control": (CONTROL, control),
    "t2i": (T2I, t2i),
    "ip": (IP, ip),
}


def main() -> None:
    """Make what the command line names, or all; noise is drawn in float32, as it is for a model that is not widened."""
    randn = torch.randn
    torch.randn = lambda *size, dtype=None, **more: randn(*size, dtype=torch.float32, **more).to(dtype)
    if not sys.argv[1:] or "image_encoder" in sys.argv[1:]:
        make_image_encoders()
    for name in [name for name in KINDS if name in sys.argv[1:]] or ([] if sys.argv[1:] else KINDS):
        cases, run = KINDS[name]
        with lifted(), torch.no_grad():
            latents = {case: run(arguments) for case, arguments in cases.items()}
        for case, array in latents.items():
            assert array.dtype == np.float64, f"{case} is {array.dtype}"
            assert 0.1 < array.std() < 10, f"{case} has std {array.std()}"
        packages = ("torch", "diffusers", "transformers", "numpy")
        path = save_golden(f"pipelines/adapters-{name}", latents, packages, cases=cases, patches=patches())
        print(f"{path.name}: {', '.join(latents)}, {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
