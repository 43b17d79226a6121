"""`tinyldm img2img`: a picture changed towards a prompt."""

from __future__ import annotations

import argparse
from pathlib import Path

from tinyldm.commands import sampling
from tinyldm.commands.encode import resized_picture
from tinyldm.commands.options import add_model_options, add_resize_options
from tinyldm.commands.pictures import add_map_options, map_settings
from tinyldm.commands.prompts import PROMPT_HELP

SUMMARY = "change a picture towards a prompt"
EXAMPLE = """example:
  tinyldm img2img "green apple" --image apple.png --strength 0.6 -o green.png
"""


def add_arguments(p: argparse.ArgumentParser) -> None:
    """Its arguments."""
    add_model_options(p)
    p.add_argument("prompt", metavar="PROMPT", nargs="+", help="what the picture should become" + PROMPT_HELP)
    p.add_argument("--image", metavar="FILE", type=Path, required=True, help="picture, or latent file of `encode`")
    p.add_argument("--strength", metavar="X", type=float, default=0.8, help="0 keeps, 1 replaces (default 0.8)")
    sampling.add_options(p)
    add_resize_options(p)
    add_map_options(p)


def run(args: argparse.Namespace) -> None:
    """Image to image."""
    from tinyldm.pipelines.latents import is_latent_file, read_latent

    image = read_latent(args.image) if is_latent_file(args.image) else resized_picture(args, args.image)
    sampling.make(args, image=image, strength=args.strength, resize=args.resize, **map_settings(args))
