"""`tinyldm bench`: time each model and operator on this machine."""

from __future__ import annotations

import argparse
import json
import sys

from tinyldm.commands.options import add_measured_options, open_measured
from tinyldm.errors import InputError

SUMMARY = "time each model and operator on this machine"
EXAMPLE = """example:
  tinyldm bench
  tinyldm bench --architecture sd15 --repeat 3 --json
"""


def add_arguments(p: argparse.ArgumentParser) -> None:
    """Its arguments."""
    add_measured_options(p)
    p.add_argument("--repeat", metavar="N", type=int, default=5, help="runs of which the median counts (default 5)")
    p.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> None:
    """Time the models."""
    from tinyldm.bench import bench

    if args.repeat < 1:
        raise InputError(f"--repeat must be 1 or more, not {args.repeat}")
    model = open_measured(args)
    h, w = model.parts.latent_size(args.height, args.width)
    factor = model.vae.config.factor
    report = bench(model, h * factor, w * factor, args.repeat, progress=lambda name: print(name, file=sys.stderr))
    print(json.dumps(report.as_json(), indent=2) if args.json else report.as_text())
