"""Find the first tensor that is out of tolerance.

examples:
  tinyldm golden diff apple.safetensors mine.safetensors --tolerance auto
  tinyldm golden diff apple.safetensors mine.safetensors --tolerance 1e-4 --select "0000/unet*" --json
"""

from __future__ import annotations

import argparse

from tinyldm.commands.golden.judging import add_comparing_options, compared, show


def add_arguments(p: argparse.ArgumentParser) -> None:
    """Its arguments."""
    add_comparing_options(p)


def run(args: argparse.Namespace) -> int:
    """Compare two files."""
    with compared(args) as (_, _, comparison):
        return show(args, comparison)
