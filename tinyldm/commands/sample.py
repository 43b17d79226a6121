"""Make pictures from prompts.

example:
  tinyldm sample "red apple" -o apple.png
  tinyldm sample "fox" "owl" --steps 50 --seed 7 -n 4 -o animals.png
  tinyldm sample @prompts.txt
  tinyldm sample "a (red:1.3) [apple:tomato:0.5], [blurry]" --negative-prompt "(dark:1.2)"
  tinyldm sample "green leaves" --seamless both
  tinyldm sample "bird" --model sd15 --controlnet sd-controlnet-canny --control-image photo.png --preprocess canny
  tinyldm sample "a bear" --depth depth.png --model stabilityai/stable-diffusion-2-depth
  tinyldm sample "red apple" --rows steps=4,25 --columns sampler=euler,ddim,unipc
  tinyldm sample --from animals-0002.png --steps 100 -o again.jpg
"""

from __future__ import annotations

import argparse
from pathlib import Path

from tinyldm.commands import sampling
from tinyldm.commands.options import add_model_options, add_size_options
from tinyldm.commands.pictures import add_map_options, map_settings, read_layout_file
from tinyldm.commands.prompts import PROMPT_HELP
from tinyldm.errors import InputError


def add_arguments(p: argparse.ArgumentParser) -> None:
    """Its arguments."""
    add_model_options(p)
    meaning = "what to show (a class-conditional model: its number)"
    p.add_argument("prompt", metavar="PROMPT", nargs="*", help=meaning + PROMPT_HELP)
    sampling.add_options(p)
    add_size_options(p)
    add_map_options(p)
    p.add_argument("--segments", metavar="FILE", type=Path, help="map whose grey is the class (semantic synthesis)")
    p.add_argument(
        "--layout", metavar="FILE", type=Path, help="JSON: [[class, left, top, right, bottom], …] from 0 to 1"
    )
    p.add_argument("--grid", metavar="COLUMNS", type=int, help="write all pictures as one, in so many columns")


def run(args: argparse.Namespace) -> None:
    """Text to image, or whatever the model makes pictures of."""
    if args.grid is not None and args.grid < 1:
        raise InputError(f"--grid must be 1 or more columns, not {args.grid}")
    if args.layout is not None:
        args.prompt, args.prompt_syntax = [*args.prompt, read_layout_file(args.layout)], "plain"
    sampling.make(args, height=args.height, width=args.width, **map_settings(args))
