"""Make the goldens of pictures that tile: circular padding, PyTorch's own, in the originals of a tiny UNet and VAE.

    pip install ".[golden]" && python tests/golden/make_seamless.py

Every convolution has `padding_mode="circular"`, and the encoder's downsampling pads its one row and column so, too.
Along one axis alone, the other is padded with zeros. Stored are outputs in float64.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.models import downsampling
from make_models import lifted, patches
from provenance import save_golden
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).parents[1]))
from tiny_checkpoints import UNET, VAE

from tinyldm.golden.seeded import seeded_input, seeded_weight

INPUTS = {"z": (1, 4, 8, 12), "context": (1, 5, 16), "pixels": (2, 3, 16, 24)}


def padded(x: torch.Tensor, sides: tuple[int, ...], axes: str) -> torch.Tensor:
    """Pad (left, right, top, bottom) by the other side along these axes, by zeros along the other."""
    left, right, top, bottom = sides
    x = functional.pad(x, (left, right, 0, 0), "circular" if axes != "y" else "constant")
    return functional.pad(x, (0, 0, top, bottom), "circular" if axes != "x" else "constant")


def seamless(model: torch.nn.Module, axes: str) -> torch.nn.Module:
    """The model with seeded weights, its convolutions padded so: both ways by PyTorch's own mode."""
    with torch.no_grad():
        for name, parameter in model.state_dict().items():
            parameter.copy_(torch.from_numpy(seeded_weight(name, tuple(parameter.shape))))
    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d) and axes == "both":
            module.padding_mode = "circular"
        elif isinstance(module, torch.nn.Conv2d):

            def forward(x: torch.Tensor, conv: torch.nn.Conv2d = module) -> torch.Tensor:
                sides = tuple(conv._reversed_padding_repeated_twice)
                return functional.conv2d(padded(x, sides, axes), conv.weight, conv.bias, conv.stride)

            module.forward = forward
    return model.eval()


class Functional:
    """`torch.nn.functional` with a padding of its own, for the encoder's downsampling."""

    def __init__(self, axes: str) -> None:
        self.axes = axes

    def pad(self, x: torch.Tensor, sides: tuple[int, ...], mode: str, value: float) -> torch.Tensor:
        return padded(x, sides, self.axes)

    def __getattr__(self, name: str) -> Any:
        return getattr(functional, name)


def main() -> None:
    torch.set_default_dtype(torch.float64)
    given = {name: torch.from_numpy(seeded_input(name, shape)).double() for name, shape in INPUTS.items()}
    tensors: dict[str, np.ndarray] = {}
    for axes in ("x", "y", "both"):
        with lifted(), torch.no_grad():
            unet = seamless(UNet2DConditionModel.from_config(UNET), axes)
            vae = seamless(AutoencoderKL.from_config(VAE), axes)
            downsampling.F = Functional(axes)
            tensors[f"{axes}/epsilon"] = unet(given["z"], 500, given["context"]).sample.numpy()
            tensors[f"{axes}/pixels"] = vae.decode(given["z"]).sample.numpy()
            tensors[f"{axes}/mean"] = vae.encode(given["pixels"]).latent_dist.mean.numpy()
            downsampling.F = functional
    path = save_golden("models/seamless", tensors, ("torch", "diffusers"), inputs=INPUTS, seed=0, patches=patches())
    print(f"{path}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
