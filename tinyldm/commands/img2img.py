"""Change a picture towards a prompt.

example:
  tinyldm img2img "green apple" --image apple.png --strength 0.6 -o green.png
  tinyldm img2img --from green.png --image apple.png -n 4 -o more.webp
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from tinyldm.commands import sampling
from tinyldm.commands.encode import resized_picture
from tinyldm.commands.options import add_model_options, add_resize_options
from tinyldm.commands.pictures import add_map_options, map_settings
from tinyldm.commands.prompts import PROMPT_HELP
from tinyldm.commands.repeat import STRENGTH, begun_as_before
from tinyldm.errors import InputError


def add_arguments(p: argparse.ArgumentParser) -> None:
    """Its arguments."""
    add_model_options(p)
    p.add_argument("prompt", metavar="PROMPT", nargs="*", help="what the picture should become" + PROMPT_HELP)
    p.add_argument("--image", metavar="FILE", type=Path, required=True, help="picture, or latent file of `encode`")
    p.add_argument("--strength", metavar="X", type=float, help="0 keeps, 1 replaces (default 0.8)")
    sampling.add_options(p)
    add_resize_options(p)
    add_map_options(p)
    p.set_defaults(resize=None)  # the request's own, or that of the picture which is repeated


def run(args: argparse.Namespace) -> None:
    """Image to image."""
    from tinyldm.pipelines.files import began_with
    from tinyldm.pipelines.latents import is_latent_file, read_latent

    begun_as_before(args)
    if is_latent_file(args.image) and (args.width or args.height or args.resize):
        raise InputError(f"{args.image}: is a latent, which has its size; leave out --width, --height and --resize")
    image: Any = read_latent(args.image) if is_latent_file(args.image) else resized_picture(args, args.image)
    is_resized = bool(args.width or args.height) and not is_latent_file(args.image)
    began = began_with(args.image, image, is_resized)
    strength = args.strength if args.strength is not None or args.repeat is not None else STRENGTH
    sampling.make(args, began, image=image, strength=strength, resize=args.resize, **map_settings(args))
