"""Write a checkpoint in another layout or type.

example:
  tinyldm convert v1-5-pruned-emaonly.ckpt stable-diffusion-v1-5 --dtype float16
"""

from __future__ import annotations

import argparse
from pathlib import Path

from tinyldm.commands.options import add_checkpoint_options, checkpoint_options
from tinyldm.commands.streams import note
from tinyldm.errors import InputError

# What other programs name files of weights.
OTHER_FILES = ".bin .ckpt .pt .pth .pkl .gguf .onnx .msgpack .npz .h5 .safetensor .zip".split()


def add_arguments(p: argparse.ArgumentParser) -> None:
    """Its arguments."""
    p.add_argument("source", metavar="IN", help="a file or folder of weights, in any layout")
    p.add_argument("destination", metavar="OUT", help="a new folder, or a new file that ends in .safetensors")
    p.add_argument("--dtype", metavar="D", help="float32, float16 or bfloat16 (default: as they are)")
    add_checkpoint_options(p)


def run(args: argparse.Namespace) -> None:
    """Write a checkpoint anew."""
    from tinyldm.checkpoint_tools import convert

    check_destination(args.destination)
    found = convert(args.source, args.destination, args.dtype, **checkpoint_options(args))
    for text in found.notes:
        note(text)
    print(f"{args.destination}: {found.title}")


def check_destination(destination: str) -> None:
    """Raise `InputError` for the name of a file of a kind that is not written: it would become a folder's."""
    suffix = Path(destination).suffix.lower()
    if suffix in OTHER_FILES:
        raise InputError(
            f"{destination}: {suffix} files are not written; end the name in .safetensors, or name a folder"
        )
