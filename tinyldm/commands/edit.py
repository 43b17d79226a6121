"""`tinyldm edit`: a picture changed by an instruction."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from tinyldm.commands import sampling
from tinyldm.commands.options import add_model_options, add_size_options
from tinyldm.commands.pictures import read_picture_and_mask
from tinyldm.commands.prompts import PROMPT_HELP
from tinyldm.commands.repeat import resized_to, said_by

SUMMARY = "change a picture by an instruction (models such as instruct-pix2pix)"
EXAMPLE = """examples:
  tinyldm edit "make it a green apple" --model timbrooks/instruct-pix2pix --image apple.png -o green.png
  tinyldm edit "turn the sky red" --model instruct-pix2pix --image street.png --image-guidance-scale 1.2
"""


def add_arguments(p: argparse.ArgumentParser) -> None:
    """Its arguments."""
    add_model_options(p)
    p.add_argument("prompt", metavar="PROMPT", nargs="*", help="what to change" + PROMPT_HELP)
    p.add_argument("--image", metavar="FILE", type=Path, required=True, help="picture to change")
    p.add_argument("--mask", metavar="FILE", type=Path, help="change only what is white in this picture")
    p.add_argument("--image-guidance-scale", metavar="G", type=float, help="pull of the picture, from 1 (default 1.5)")
    sampling.add_options(p)
    add_size_options(p, "resize the picture to this first")
    how = "a picture whose sides do not fit: crop (default), pad, stretch, or none: refuse it"
    p.add_argument("--resize", metavar="HOW", help=how)


def run(args: argparse.Namespace) -> None:
    """Editing by an instruction."""
    from tinyldm.pipelines.files import began_with

    if args.repeat is not None and (args.width, args.height) == (None, None):
        args.width, args.height = resized_to(said_by(args).settings)
    args.resize = args.resize or ("crop" if args.repeat is None else said_by(args).settings.get("resize", "crop"))
    image, mask = read_picture_and_mask(args, optional=True)
    settings: dict[str, Any] = {"image": image, "resize": args.resize}
    settings |= {} if mask is None else {"mask": mask}
    if args.image_guidance_scale is not None:
        settings["image_guidance_scale"] = args.image_guidance_scale
    sampling.make(args, began_with(args.image, image, bool(args.width or args.height)), **settings)
