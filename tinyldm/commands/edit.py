"""Change a picture by an instruction (models such as instruct-pix2pix).

examples:
  tinyldm edit "make it a green apple" --model timbrooks/instruct-pix2pix --image apple.png -o green.png
  tinyldm edit "turn the sky red" --model instruct-pix2pix --image street.png --image-guidance-scale 1.2
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from tinyldm.commands import sampling
from tinyldm.commands.options import add_model_options, add_resize_options
from tinyldm.commands.pictures import read_picture_and_mask
from tinyldm.commands.prompts import PROMPT_HELP
from tinyldm.commands.repeat import begun_as_before


def add_arguments(p: argparse.ArgumentParser) -> None:
    """Its arguments."""
    add_model_options(p)
    p.add_argument("prompt", metavar="PROMPT", nargs="*", help="what to change" + PROMPT_HELP)
    p.add_argument("--image", metavar="FILE", type=Path, required=True, help="picture to change")
    p.add_argument("--mask", metavar="FILE", type=Path, help="change only what is white in this picture")
    p.add_argument("--image-guidance-scale", metavar="G", type=float, help="pull of the picture, from 1 (default 1.5)")
    sampling.add_options(p)
    add_resize_options(p)
    p.set_defaults(resize=None)  # the request's own, or that of the picture which is repeated


def run(args: argparse.Namespace) -> None:
    """Editing by an instruction."""
    from tinyldm.pipelines.files import began_with

    before = begun_as_before(args)
    args.resize = args.resize or before.get("resize", "crop")
    image, mask = read_picture_and_mask(args, optional=True)
    settings: dict[str, Any] = {"image": image, "resize": args.resize}
    settings |= {} if mask is None else {"mask": mask}
    if args.image_guidance_scale is not None:
        settings["image_guidance_scale"] = args.image_guidance_scale
    sampling.make(args, began_with(args.image, image, bool(args.width or args.height)), **settings)
