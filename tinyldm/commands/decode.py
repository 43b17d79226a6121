"""Decode a latent file to a picture.

example:
  tinyldm decode apple.safetensors -o apple-again.png
  tinyldm decode large.safetensors --vae-tiling
"""

from __future__ import annotations

import argparse
from pathlib import Path

from tinyldm.commands.first_stages import with_progress
from tinyldm.commands.options import add_force_option, add_model_options, add_tiling_options, fitting, open_model
from tinyldm.version import __version__


def add_arguments(p: argparse.ArgumentParser) -> None:
    """Its arguments."""
    add_model_options(p)
    p.add_argument("latent", metavar="LATENT", type=Path, help="safetensors file that `encode` wrote")
    p.add_argument(
        "-o", "--output", metavar="FILE", type=Path, help="PNG, JPEG or WebP to write (default: beside the latent)"
    )
    add_tiling_options(p)
    add_force_option(p)


def run(args: argparse.Namespace) -> None:
    """Latent to picture."""
    from tinyldm.pipelines.files import numbered
    from tinyldm.pipelines.latents import read_latent
    from tinyldm.pipelines.picture_text import format_of, write_picture
    from tinyldm.pipelines.pictures import check_writable

    output = args.output or args.latent.with_suffix(".png")
    format_of(output)
    check_writable(output)
    latent = read_latent(args.latent)
    model = open_model(args)
    h, w = latent.shape[2:]
    model = fitting(args, model, h, w, f"a latent of {h}×{w}", denoises=False)
    images = with_progress(model).decode(latent)
    for file, image in zip(numbered(output, len(images)), images, strict=True):
        write_picture(file, image, {"Software": f"tinyldm {__version__}", "latent": args.latent.name})
        args.written.append(file)
        print(file)
