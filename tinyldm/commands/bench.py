"""Time each model and operator on this machine.

example:
  tinyldm bench
  tinyldm bench --architecture sd15 --repeat 3 --json
  tinyldm bench --scale
  tinyldm bench --architecture sd15 --scale 256 512 --threads 2 --repeat 1
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from tinyldm.commands.interrupts import check
from tinyldm.commands.options import add_measured_options, open_measured
from tinyldm.errors import InputError


def add_arguments(p: argparse.ArgumentParser) -> None:
    """Its arguments."""
    add_measured_options(p)
    p.add_argument("--repeat", metavar="N", type=int, default=5, help="runs of which the median counts (default 5)")
    meaning = "instead time the UNet and the decoder at squares of these sides (256 512 768 1024), on 1, 2, … threads"
    p.add_argument("--scale", metavar="SIDE", type=int, nargs="*", help=meaning)
    p.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> None:
    """Time the models."""
    from tinyldm.bench import bench

    if args.repeat < 1:
        raise InputError(f"--repeat must be 1 or more, not {args.repeat}")
    if args.scale is not None and (args.width or args.height):
        raise InputError("--scale has sizes of its own: give it the sides, and no --width or --height")
    model = open_measured(args)
    if args.scale is not None:
        run_scale(model, args)
        return
    h, w = model.parts.latent_size(args.height, args.width)
    factor = model.vae.config.factor
    report = bench(model, h * factor, w * factor, args.repeat, progress=lambda name: print(name, file=sys.stderr))
    print(json.dumps(report.as_json(), indent=2) if args.json else report.as_text())


def run_scale(model: Any, args: argparse.Namespace) -> None:
    """Print a row as soon as it is measured, so that what there is stays when the command is interrupted."""
    from tinyldm.scaling import SIDES, Point, head, row, scale

    points: list[Point] = []
    for point in scale(model, args.scale or SIDES, args.repeat, lambda what: print(what, file=sys.stderr)):
        if not args.json:
            print(row(point.cells()) if points else f"{head(model, args.repeat)}\n{row(point.cells())}")
        points.append(point)
        check()
    if args.json:
        print(json.dumps([point.as_json() for point in points], indent=2))
