"""Repeat a recorded run and compare.

example:
  tinyldm golden check apple.safetensors --threads 1
"""

from __future__ import annotations

import argparse
from pathlib import Path

from tinyldm.commands.golden.judging import add_judging_options, show, tolerance
from tinyldm.commands.options import add_runtime_options, runtime_options


def add_arguments(p: argparse.ArgumentParser) -> None:
    """Its arguments."""
    p.add_argument("golden", metavar="GOLDEN", type=Path, help="golden file that `golden record` wrote")
    p.add_argument("--model", metavar="PATH", help="checkpoint folder (default: the recorded one)")
    add_runtime_options(p, "float32 or float64 (default: the recorded one)")
    add_judging_options(p)


def run(args: argparse.Namespace) -> int:
    """Repeat a recorded run."""
    from tinyldm.golden.check import check
    from tinyldm.golden.store import Golden

    with Golden(args.golden) as golden:
        recorded = golden.metadata.get("runtime")
        dtype = args.dtype or (recorded.get("dtype") if isinstance(recorded, dict) else None)
        arithmetic = "bfloat16" if args.precision == "bf16" else None if dtype == "float64" else dtype
        return show(args, check(golden, args.model, tolerance(args, golden, arithmetic), **runtime_options(args)))
