"""`tinyldm golden diff`: the first tensor that is out of tolerance."""

from __future__ import annotations

import argparse
from contextlib import ExitStack

from tinyldm.commands.golden.judging import add_comparing_options, judged, show

SUMMARY = "find the first tensor that is out of tolerance"
EXAMPLE = """examples:
  tinyldm golden diff apple.safetensors mine.safetensors --tolerance auto
  tinyldm golden diff apple.safetensors mine.safetensors --tolerance 1e-4 --select "0000/unet*" --json
"""


def add_arguments(p: argparse.ArgumentParser) -> None:
    """Its arguments."""
    add_comparing_options(p)


def run(args: argparse.Namespace) -> int:
    """Compare two files."""
    from tinyldm.golden.store import Golden

    with ExitStack() as stack:
        golden, candidate = stack.enter_context(Golden(args.golden)), stack.enter_context(Golden(args.candidate))
        return show(args, judged(args, golden, candidate))
