"""Encode a picture to a latent file.

example:
  tinyldm encode apple.png -o apple.safetensors
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import TYPE_CHECKING

from tinyldm.commands import options
from tinyldm.commands.first_stages import with_progress
from tinyldm.errors import InputError

if TYPE_CHECKING:
    from PIL import Image


def add_arguments(p: argparse.ArgumentParser) -> None:
    """Its arguments."""
    options.add_model_options(p)
    p.add_argument("image", metavar="IMAGE", type=Path, help="picture file")
    p.add_argument("-o", "--output", metavar="FILE", type=Path, help="safetensors file (default: beside the picture)")
    p.add_argument("--sample", action="store_true", help="draw from the posterior instead of taking its mean")
    options.add_seed_option(p, "the draw")
    options.add_resize_options(p)
    options.add_tiling_options(p)
    options.add_force_option(p)


def run(args: argparse.Namespace) -> None:
    """Picture to latent."""
    from tinyldm.pipelines.latents import write_latent
    from tinyldm.pipelines.pictures import check_writable, fitted

    output = args.output or args.image.with_suffix(".safetensors")
    check_writable(output)
    image = resized_picture(args, args.image)
    seed = options.chosen_seed(args) if args.sample or args.seed is not None else None
    model = options.open_model(args)
    factor = model.vae.config.factor
    image = fitted(image, factor, args.resize)
    h, w, size = image.height // factor, image.width // factor, f"a picture of {image.width}×{image.height}"
    model = options.fitting(args, model, h, w, size, denoises=False)
    latent = with_progress(model).encode(image, seed)
    write_latent(output, latent, parts=model.parts, source=args.image.name, seed=seed)
    drawn = "posterior mean" if seed is None else f"posterior draw, seed {seed}"
    print(f"{output}: latent {'×'.join(map(str, latent.shape))}, {drawn}")


def resized_picture(args: argparse.Namespace, path: Path) -> Image.Image:
    """The picture of a file, resized where `--width` or `--height` ask for it."""
    from tinyldm.pipelines.pictures import read_image

    return resized(args, read_image(path))


def resized(args: argparse.Namespace, image: Image.Image) -> Image.Image:
    """A picture resized where `--width` or `--height` ask for it."""
    from PIL import Image

    from tinyldm.memory import available_bytes

    size = (args.width or image.width, args.height or image.height)
    if min(size) < 1:
        raise InputError(f"--width and --height must be positive, not {size[0]} and {size[1]}")
    if size != image.size and not args.force and 4 * size[0] * size[1] > (available_bytes() or math.inf):
        raise InputError(f"--width and --height: a picture of {size[0]}×{size[1]} is larger than the memory")
    return image if size == image.size else image.resize(size, Image.Resampling.LANCZOS)
