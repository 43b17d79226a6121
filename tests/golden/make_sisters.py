"""Make the goldens of the embedded checkpoint's sisters with the PyTorch classes that trained them.

    pip install ".[golden]" && python tests/golden/make_sisters.py [name …]

Each sister encodes and decodes the same four synthetic pictures, in float64 from the float16 file. The flow's class is
that of `weights/emoji-flow/flow.py`; the others' are diffusers'.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(HERE.parent), str(ROOT / "weights" / "emoji-flow")]

from golden.provenance import save_golden  # noqa: E402
from sister_pictures import HALF_RANGE, pictures  # noqa: E402

SISTERS = ("emoji-vq", "emoji-asymmetric", "emoji-tiny", "emoji-flow")
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


@torch.inference_mode()
def make(name: str) -> None:
    run = normalizing_flow if name == "emoji-flow" else autoencoder
    found = run(name, torch.from_numpy(pictures()))
    path = save_golden(
        f"sisters/{name}",
        {key: value.numpy() for key, value in found.items()},
        ("torch", "diffusers"),
        weights=hashlib.sha256((ROOT / "weights" / name / WEIGHTS).read_bytes()).hexdigest(),
    )
    print(f"{path.name}: {path.stat().st_size} bytes", flush=True)


if __name__ == "__main__":
    for sister in sys.argv[1:] or SISTERS:
        make(sister)
