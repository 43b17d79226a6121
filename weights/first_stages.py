"""What the recipes of the sisters share: the emoji checkpoint's pictures and autoencoder, the loop, the figures."""

import argparse
import math
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE / "emoji"))

from evaluate import psnr, to_bytes  # noqa: E402
from train_autoencoder import absolute_loss, load_pictures, logarithmic_loss, shift  # noqa: E402, F401
from training import add_training_arguments, load_average, step_generator, train  # noqa: E402, F401

WEIGHTS = "diffusion_pytorch_model.safetensors"


def arguments_of(description: str, folder: Path, *, start: bool = False, **defaults: float) -> argparse.Namespace:
    """The arguments of a recipe; without `--work` it only prints the figures of what is in its folder."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_training_arguments(parser, **defaults)
    parser.set_defaults(work=None)
    for action in parser._actions:
        if action.dest == "work":
            action.required = False
    parser.add_argument("--export", type=Path, help="write the latest averaged weights to this folder, do not train")
    parser.add_argument("--model", type=Path, default=folder, help="whose figures to print (%(default)s)")
    if start:
        parser.add_argument("--start", type=Path, help="a folder of weights to go on from")
    return parser.parse_args()


def autoencoder(device: str) -> AutoencoderKL:
    """The emoji checkpoint's, frozen."""
    vae = AutoencoderKL.from_pretrained(HERE / "emoji" / "vae", torch_dtype=torch.float32)
    return vae.to(device).eval().requires_grad_(False)


@torch.no_grad()
def encoded(vae: AutoencoderKL, pictures: Tensor) -> tuple[Tensor, Tensor]:
    """Means and standard deviations of the pictures' latents, unscaled, (N, 4, 16, 16) each."""
    posteriors = [vae.encode(part.to(vae.device)).latent_dist for part in pictures.split(32)]
    return torch.cat([p.mean for p in posteriors]).cpu(), torch.cat([p.std for p in posteriors]).cpu()


def averaged(name: str, model: nn.Module, work: Path) -> nn.Module:
    """The model with the averaged weights of a run."""
    load_average(model, torch.load(work / f"{name}.pt", map_location="cpu", weights_only=True)["average"])
    return model.cpu()


@torch.inference_mode()
def reconstruction(
    pictures: Tensor, through: Callable[[Tensor], Tensor], device: str, what: str = "reconstruction"
) -> None:
    """Print the PSNR of all pictures through a model, 8-bit RGB."""
    figures = [psnr(to_bytes(through(part.to(device))), to_bytes(part)) for part in pictures.split(32)]
    every = np.concatenate(figures)
    print(f"{what}: {every.mean():.2f} dB, mean over {len(every)} pictures (least {every.min():.2f} dB)", flush=True)


def decibels(logarithm: Tensor) -> Tensor:
    """The PSNR that a mean logarithm of squared errors in [-1, 1] stands for."""
    return -10 / math.log(10) * (logarithm - math.log(4))
