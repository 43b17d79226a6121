"""Record every tensor that a model computes.

examples:
  tinyldm golden record -o apple.safetensors --prompt "red apple" --steps 2 --dtype float64
  tinyldm golden record stable-diffusion-v1-5 -o sd15.safetensors --prompt "a fox" --sample 256 --select "0007/unet/*"
  tinyldm golden record stable-diffusion-v1-5 -o unet.safetensors --fixture unet --inputs
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from tinyldm.commands.options import add_runtime_options, runtime_options
from tinyldm.errors import InputError


def add_arguments(p: argparse.ArgumentParser) -> None:
    """Its arguments."""
    p.add_argument("model", metavar="MODEL", nargs="?", help="checkpoint folder (default: the one in the package)")
    p.add_argument("-o", "--output", metavar="FILE", type=Path, required=True, help="golden file to write")
    p.add_argument("--prompt", metavar="TEXT", action="append", help="prompt; several make a batch (default: empty)")
    p.add_argument("--negative-prompt", metavar="TEXT", help="what the picture should not be")
    p.add_argument("--seed", metavar="S", type=int, default=0, help="seed of the noise, or of a fixture's inputs (0)")
    p.add_argument("--steps", metavar="N", type=int, help="steps of the sampler (default: as in `tinyldm sample`)")
    p.add_argument("--sampler", metavar="NAME", help="as in `tinyldm sample`")
    p.add_argument("--guidance-scale", metavar="G", type=float, help="pull of the prompt (as in `tinyldm sample`)")
    p.add_argument("--size", metavar="WxH", help="picture size in pixels (default: the model's own)")
    p.add_argument(
        "--fixture",
        choices=["text_encoder", "unet", "vae", "scheduler"],
        help="record one model on seeded inputs, or the scheduler's tables, instead of a run from a prompt",
    )
    p.add_argument("--given", metavar="FILE", type=Path, help="safetensors file with a fixture's inputs (z, t, …)")
    p.add_argument(
        "--select",
        metavar="GLOB",
        action="append",
        help="record keys that match, such as '0007/unet/*' for one step (repeatable)",
    )
    p.add_argument("--inputs", action="store_true", help="record the inputs of every module too (for bisect)")
    p.add_argument("--sample", metavar="K", type=int, help="keep K values of each tensor, and its statistics")
    p.add_argument("--statistics", action="store_true", help="keep statistics only: range, mean, deviation, hash")
    p.add_argument(
        "--rounding",
        metavar="TYPES",
        help="arithmetics to measure for --tolerance auto, comma-separated: float32, float16, bfloat16; each repeats "
        "the run eight times (default: float32 with --dtype float64; '' for none)",
    )
    p.add_argument("--names", choices=["diffusers", "compvis"], default="diffusers", help="names of the modules")
    add_runtime_options(p, "float32 (default), or float64 for the oracle")
    p.set_defaults(dtype="float32")


def run(args: argparse.Namespace) -> int:
    """Record a run or a fixture."""
    from tinyldm.golden.fixtures import record_fixture
    from tinyldm.golden.names import compvis_names
    from tinyldm.golden.record import Recording, record
    from tinyldm.pipelines.load import load
    from tinyldm.pipelines.pictures import check_writable
    from tinyldm.pipelines.request import request

    check_writable(args.output)
    check_record_options(args)
    if args.dtype == "float64" and args.backend is None:
        args.backend = "reference"
    model = load(args.model, **runtime_options(args))
    rounding = args.rounding if args.rounding is not None else default_rounding(args)
    recording = Recording(
        select=args.select or ["*"],
        inputs=args.inputs,
        sample=args.sample,
        values=not args.statistics,
        rounding=[a for a in rounding.split(",") if a],
        rename=compvis_names(model) if args.names == "compvis" else None,
        tell=lambda text: print(text, file=sys.stderr),
    )
    if args.fixture:
        size = picture_size(args.size, model.vae.config.factor)
        given = read_given(args.given) if args.given else None
        record_fixture(model, args.output, args.fixture, recording, inputs=given, seed=args.seed, size=size)
    else:
        width, height = picture_size(args.size, 1) or (None, None)
        named = {name: getattr(args, name) for name in ("seed", "steps", "sampler", "guidance_scale")}
        wanted = request(args.prompt or "", args.negative_prompt or "", height=height, width=width, **named)
        record(model, args.output, wanted, recording)
    print(f"{args.output}: {args.output.stat().st_size:,} bytes")
    return 0


def check_record_options(args: argparse.Namespace) -> None:
    """Raise `InputError` where options do not go together: none is ignored in silence."""
    if args.given and not args.fixture:
        raise InputError("--given holds the inputs of a fixture: say which with --fixture")
    if args.fixture:
        for name in ("prompt", "negative_prompt", "steps", "sampler", "guidance_scale"):
            if getattr(args, name) is not None:
                option = f"--{name.replace('_', '-')}"
                raise InputError(f"{option} is of a run from a prompt, and --fixture {args.fixture} has none")
    if args.sample is not None and args.statistics:
        raise InputError("--sample keeps values and --statistics keeps none: give one of them")


def default_rounding(args: argparse.Namespace) -> str:
    """An oracle states the honest error of float32, where it keeps values to measure it by."""
    return "float32" if args.dtype == "float64" and not args.statistics and args.fixture != "scheduler" else ""


def picture_size(text: str | None, factor: int) -> tuple[int, int] | None:
    """`64x48` as (width, height) divided by `factor`; for a fixture, whose sizes are (height, width), turn it."""
    if text is None:
        return None
    sides = text.lower().split("x")
    if len(sides) != 2 or not all(side.isascii() and side.isdigit() and int(side) >= factor for side in sides):
        raise InputError(f"--size must be WIDTHxHEIGHT in pixels, such as 512x512, not {text!r}")
    if any(int(side) % factor for side in sides):
        raise InputError(f"--size: width and height must be multiples of {factor} pixels, not {text}")
    width, height = (int(side) // factor for side in sides)
    return (width, height) if factor == 1 else (height, width)


def read_given(path: Path) -> dict[str, Any]:
    """The tensors of a plain safetensors file."""
    from tinyldm.checkpoints.safetensors import read_safetensors

    with read_safetensors(path) as file:
        if not file.names:
            raise InputError(f"{path}: holds no tensors: a fixture's inputs are z, t and context, pixels, or ids")
        return {name: file.read(name, None).copy() for name in file.names}
