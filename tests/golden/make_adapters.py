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

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE.parents[1])]

from golden.adapter_cases import CONTROL, T2I, picture  # noqa: E402
from golden.make_models import lifted, patches  # noqa: E402
from golden.provenance import save_golden  # noqa: E402
from tiny_checkpoints import (  # noqa: E402
    T2I_ADAPTER,
    XL_T2I_ADAPTER,
    XL_UNET_3,
    write_component,
    write_controlnet,
    write_sd,
    write_xl,
    write_xl_controlnet,
)

from tinyldm.golden.seeded import seeded_input  # noqa: E402

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


KINDS: dict[str, tuple[dict[str, Any], Callable[[dict[str, Any]], np.ndarray]]] = {
    "control": (CONTROL, control),
    "t2i": (T2I, t2i),
}


def main() -> None:
    """Make what the command line names, or all; noise is drawn in float32, as it is for a model that is not widened."""
    randn = torch.randn
    torch.randn = lambda *size, dtype=None, **more: randn(*size, dtype=torch.float32, **more).to(dtype)
    for name in sys.argv[1:] or KINDS:
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
