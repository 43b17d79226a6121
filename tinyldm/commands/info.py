"""Describe a checkpoint and what will compute it.

example:
  tinyldm info
  tinyldm info --model stable-diffusion-v1-5 --shapes --width 512 --height 512
"""

from __future__ import annotations

import argparse

from tinyldm.commands.options import add_model_options, add_size_options, open_model


def add_arguments(p: argparse.ArgumentParser) -> None:
    """Its arguments."""
    add_model_options(p)
    p.add_argument("--shapes", action="store_true", help="the shape of every intermediate")
    add_size_options(p, "of the picture for --shapes (default: the model's own)")


def run(args: argparse.Namespace) -> None:
    """Describe a checkpoint."""
    from tinyldm.descriptions import describe, describe_shapes

    model = open_model(args)
    print(describe(model))
    if args.shapes:
        print()
        print(describe_shapes(model, args.height, args.width))
