"""Say what a checkpoint is and what it holds.

example:
  tinyldm inspect v1-5-pruned-emaonly.safetensors
"""

from __future__ import annotations

import argparse

from tinyldm.commands.options import add_checkpoint_options, checkpoint_options


def add_arguments(p: argparse.ArgumentParser) -> None:
    """Its arguments."""
    p.add_argument("file", metavar="PATH", help="a file or folder of weights, in any layout")
    p.add_argument("--summary", action="store_true", help="leave out the list of tensors")
    add_checkpoint_options(p)


def run(args: argparse.Namespace) -> None:
    """Report on a checkpoint."""
    from tinyldm.checkpoint_tools import inspect

    print(inspect(args.file, tensors=not args.summary, **checkpoint_options(args)))
