"""Count what a picture costs, and what the latent space saves.

example:
  tinyldm cost
  tinyldm cost --architecture sd15 --steps 20
  tinyldm cost --architecture sdxl --width 1024 --height 768
"""

from __future__ import annotations

import argparse

from tinyldm.commands.options import add_measured_options, open_measured
from tinyldm.errors import InputError


def add_arguments(p: argparse.ArgumentParser) -> None:
    """Its arguments."""
    add_measured_options(p)
    p.add_argument("--steps", metavar="N", type=int, default=25, help="steps of the sampler (default 25)")


def run(args: argparse.Namespace) -> None:
    """Count multiply-adds."""
    from tinyldm.descriptions import describe_cost

    if args.steps < 1:
        raise InputError(f"--steps must be 1 or more, not {args.steps}")
    print(describe_cost(open_measured(args), args.height, args.width, args.steps))
