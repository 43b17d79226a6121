"""Make the goldens of the embedded checkpoint's sisters with the PyTorch classes that trained them.

    pip install ".[golden]" && python tests/golden/make_sisters.py [name …]

Each sister encodes and decodes the same four synthetic pictures, in float64 from the float16 file. The flow's class is
that of `weights/emoji-flow/flow.py`; the others' are diffusers'. Of what is no first stage, one call is recorded.
"""

from __future__ import annotations

import json
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(HERE.parent), str(ROOT / "weights" / "emoji-flow")]

from golden.make_models import lifted  # noqa: E402
from golden.provenance import save_golden  # noqa: E402
from sister_pictures import HALF_RANGE, digest, pictures  # noqa: E402

AUTOENCODERS = ("emoji-vq", "emoji-asymmetric", "emoji-tiny")
WEIGHTS = "diffusion_pytorch_model.safetensors"


def read(name: str) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    folder = ROOT / "weights" / name
    config = json.loads((folder / "config.json").read_text())
    return config, load_file(folder / WEIGHTS)


def published(name: str) -> Any:
    """A model of diffusers in float64."""
    import diffusers

    config, state = read(name)
    model = getattr(diffusers, config["_class_name"]).from_config(config)
    model.load_state_dict(state)
    return model.double().eval()


def autoencoder(name: str, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
    """`pixels -> mean, decoded`."""
    model = published(name)
    encoded = model.encode(pixels)
    mean = encoded.latent_dist.mean if "latent_dist" in encoded else encoded.latents
    return {"mean": mean, "decoded": model.decode(mean).sample}


def normalizing_flow(name: str, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
    """`pixels -> latents, log_p`, the same way back, and pictures of noise; and the latents that float32 gives."""
    from flow import Flow

    config, state = read(name)
    model = Flow(**{key: value for key, value in config.items() if not key.startswith("_")})
    model.load_state_dict(state)
    in_float32 = model(pixels.float() * HALF_RANGE)[0]
    model.double()
    latents, log_p = model(pixels * HALF_RANGE)
    generator = torch.Generator().manual_seed(0)
    noise = [0.7 * torch.randn(shape, generator=generator, dtype=torch.float64) for shape in model.shapes(2)]
    found = {"log_p": log_p, "decoded": model.inverse(latents) / HALF_RANGE}
    found["sampled"] = model.inverse(noise, given_noise=True) / HALF_RANGE
    for level, (z, n, z32) in enumerate(zip(latents, noise, in_float32, strict=True)):
        found |= {f"z{level}": z, f"noise{level}": n, f"float32/z{level}": z32}
    return found


def inputs(channels: int, side: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A latent, a timestep and a context by NumPy's old generator: `(1, C, side, side)`, `(1,)`, `(1, 16, 128)`."""
    random = np.random.RandomState(0)
    z, context = random.standard_normal((1, channels, side, side)), random.standard_normal((1, 16, 128))
    return torch.from_numpy(z), torch.tensor([500]), torch.from_numpy(context)


def checkpoint() -> Any:
    """The emoji checkpoint in float64."""
    from diffusers import StableDiffusionPipeline

    return StableDiffusionPipeline.from_pretrained(ROOT / "weights" / "emoji", torch_dtype=torch.float64)


def on_pixels(name: str, _: torch.Tensor) -> dict[str, torch.Tensor]:
    """What the UNet on pixels predicts."""
    from diffusers import UNet2DConditionModel

    unet = UNet2DConditionModel.from_pretrained(ROOT / "weights" / name / "unet", torch_dtype=torch.float64)
    return {"epsilon": unet(*inputs(3, 64)).sample}


def with_lora(name: str, _: torch.Tensor) -> dict[str, torch.Tensor]:
    """What the checkpoint's UNet predicts with a LoRA."""
    pipe = checkpoint()
    pipe.load_lora_weights(ROOT / "weights" / name)
    return {"epsilon": pipe.unet.double()(*inputs(4, 16)).sample}


def with_word(name: str, _: torch.Tensor) -> dict[str, torch.Tensor]:
    """What the checkpoint's text encoder says of a prompt with the learned word."""
    pipe = checkpoint()
    pipe.load_textual_inversion(ROOT / "weights" / name / "learned_embeds.safetensors")
    prompt = pipe.maybe_convert_prompt("red <chequered-flag> emoji", pipe.tokenizer)
    ids = pipe.tokenizer(prompt, padding="max_length", truncation=True, return_tensors="pt").input_ids
    return {"ids": ids, "context": pipe.text_encoder.double()(ids).last_hidden_state}


def controlled(name: str, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
    """The first, the last and the middle residual of the ControlNet."""
    from diffusers import ControlNetModel

    control = ControlNetModel.from_pretrained(ROOT / "weights" / name, torch_dtype=torch.float64)
    down, middle = control(*inputs(4, 16), (pixels[:1] + 1) / 2, return_dict=False)
    return {"first": down[0], "last": down[-1], "middle": middle}


OTHERS = {
    "emoji-flow": normalizing_flow,
    "emoji-pixels": on_pixels,
    "emoji-lcm": with_lora,
    "emoji-lines": with_lora,
    "emoji-word": with_word,
    "emoji-edges": controlled,
}


LIFTED = ("emoji-pixels", "emoji-lcm", "emoji-lines", "emoji-edges")  # what has a time, whose embedding is float32


@torch.inference_mode()
def make(name: str) -> None:
    with lifted() if name in LIFTED else nullcontext():
        found = OTHERS.get(name, autoencoder)(name, torch.from_numpy(pictures()))
    path = save_golden(
        f"sisters/{name}",
        {key: value.numpy() for key, value in found.items()},
        ("torch", "diffusers"),
        weights=digest(ROOT / "weights" / name),
    )
    print(f"{path.name}: {path.stat().st_size} bytes", flush=True)


if __name__ == "__main__":
    for sister in sys.argv[1:] or (*AUTOENCODERS, *OTHERS):
        make(sister)
