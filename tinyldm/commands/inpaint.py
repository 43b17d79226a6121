"""Paint a part of a picture anew, or go on beyond its edges.

examples:
  tinyldm inpaint "green apple" --image apple.png --mask mask.png -o changed.png
  tinyldm inpaint "red apple" --image erased.png --mask-blur 2
  tinyldm inpaint "apple tree" --image apple.png --outpaint left=32,right=32,top=16
  tinyldm inpaint --from changed.png --image apple.png --mask mask.png -n 4 -o more.png
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from tinyldm.commands import sampling
from tinyldm.commands.options import add_model_options, add_size_options
from tinyldm.commands.pictures import read_picture_and_mask
from tinyldm.commands.prompts import PROMPT_HELP
from tinyldm.commands.repeat import begun_as_before
from tinyldm.errors import InputError

if TYPE_CHECKING:
    from tinyldm.pipelines.masks import Margins


def add_arguments(p: argparse.ArgumentParser) -> None:
    """Its arguments."""
    add_model_options(p)
    meaning = "what the picture should show (a class-conditional model: its number)"
    p.add_argument("prompt", metavar="PROMPT", nargs="*", help=meaning + PROMPT_HELP)
    p.add_argument(
        "--image", metavar="FILE", type=Path, required=True, help="picture; its other pixels stay as they are"
    )
    p.add_argument("--mask", metavar="FILE", type=Path, help="white: paint (default: where the picture is transparent)")
    p.add_argument("--mask-blur", metavar="N", type=float, help="fade out over N pixels around it (default 0)")
    p.add_argument(
        "--outpaint", metavar="SIDE=N,…", help="extend the picture first: left, top, right, bottom, in pixels"
    )
    p.add_argument("--strength", metavar="X", type=float, help="below 1, keeps some of what was there (default 1)")
    sampling.add_options(p)
    add_size_options(p, "resize the picture to this first")


def run(args: argparse.Namespace) -> None:
    """Inpainting."""
    from tinyldm.pipelines.files import began_with
    from tinyldm.pipelines.masks import outpainted

    settings = begun_as_before(args)
    outpaint = settings.get("outpaint") if args.outpaint is None else args.outpaint
    margins = None if outpaint is None else read_margins(outpaint)
    image, mask = read_picture_and_mask(args, optional=margins is not None)
    began = began_with(args.image, image, bool(args.width or args.height))
    began |= {"mask": args.image.name} if mask is not None and args.mask is None else {}
    if margins is not None:
        image, mask = outpainted(image, margins, mask)
        began["outpaint"] = ",".join(f"{side}={n}" for side, n in margins._asdict().items() if n)
    strength = 1.0 if args.strength is None and "strength" not in settings else args.strength
    sampling.make(args, began, image=image, mask=mask, mask_blur=args.mask_blur, strength=strength)


def read_margins(text: str) -> Margins:
    """The margins of `left=64,top=32`. Raises `InputError` for another form."""
    from tinyldm.pipelines.masks import Margins

    sides: dict[str, int] = {}
    for part in text.split(","):
        side, _, pixels = part.strip().partition("=")
        if side not in Margins._fields or side in sides or not (pixels.isascii() and pixels.isdigit()):
            raise InputError(
                f"--outpaint wants sides with pixels, such as left=64,right=64,top=0,bottom=32, not {text!r}"
            )
        sides[side] = int(pixels)
    return Margins(**sides)
