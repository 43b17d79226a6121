"""The commands `tinyldm golden record|diff|bisect|check|report`: their grammar, and what each calls.

Exit status: 0 within tolerance, 1 out of it, 2 not comparable or bad input.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tinyldm.errors import InputError

RECORD_EXAMPLE = """examples:
  tinyldm golden record -o apple.safetensors --prompt "red apple" --steps 2 --dtype float64
  tinyldm golden record stable-diffusion-v1-5 -o sd15.safetensors --prompt "a fox" --sample 256 --select "0007/unet/*"
  tinyldm golden record stable-diffusion-v1-5 -o unet.safetensors --fixture unet --inputs
"""
DIFF_EXAMPLE = """examples:
  tinyldm golden diff apple.safetensors mine.safetensors --tolerance auto
  tinyldm golden diff apple.safetensors mine.safetensors --tolerance 1e-4 --select "0000/unet*" --json
"""
BISECT_EXAMPLE = """examples:
  tinyldm golden bisect apple.safetensors --candidate mymodule:run_one_module
  tinyldm golden bisect apple.safetensors --command "./my-port --modules"
"""
GOLDEN_EXAMPLE = """examples:
  tinyldm golden record -o apple.safetensors --prompt "red apple" --steps 2 --dtype float64 --inputs
  tinyldm golden diff apple.safetensors mine.safetensors
  tinyldm golden report apple.safetensors mine.safetensors -o report.html

exit status: 0 all within tolerance, 1 not all, 2 not comparable or bad input
"""
CHECK_EXAMPLE = """example:
  tinyldm golden check apple.safetensors --threads 1
"""
REPORT_EXAMPLE = """example:
  tinyldm golden report apple.safetensors mine.safetensors -o report.html
"""

Parsers = Any  # argparse's type of sub-parsers has no public name


def add_commands(commands: Parsers) -> None:
    """Add `golden` and its own commands to a command line's sub-parsers."""
    p = commands.add_parser(
        "golden",
        help="record what a model computes, and find where another computation differs",
        description="Golden tensors: record every tensor that a model computes, and find the first module in which "
        "another computation of it goes wrong.",
        epilog=GOLDEN_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    golden = p.add_subparsers(metavar="COMMAND", required=True)
    add_record(golden)
    add_diff(golden)
    add_bisect(golden)
    add_check(golden)
    add_report(golden)


def command(parsers: Parsers, name: str, run: Callable[..., Any], summary: str, example: str) -> Any:
    """A new command."""
    p = parsers.add_parser(
        name,
        help=summary,
        description=summary[0].upper() + summary[1:] + ".",
        epilog=example,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("--debug", action="store_true", help="show the traceback of an error")
    p.set_defaults(run=run)
    return p


def add_record(parsers: Parsers) -> None:
    """`golden record`."""
    p = command(parsers, "record", run_record, "record every tensor that a model computes", RECORD_EXAMPLE)
    p.add_argument("model", metavar="MODEL", nargs="?", help="checkpoint folder (default: the one in the package)")
    p.add_argument("-o", "--output", metavar="FILE", type=Path, required=True, help="golden file to write")
    p.add_argument("--prompt", metavar="TEXT", action="append", help="prompt; several make a batch (default: empty)")
    p.add_argument("--negative-prompt", metavar="TEXT", help="what the picture should not be")
    p.add_argument("--seed", metavar="S", type=int, default=0, help="seed of the noise, or of a fixture's inputs (0)")
    p.add_argument("--steps", metavar="N", type=int, help="steps of the sampler (default 25)")
    p.add_argument("--sampler", metavar="NAME", help="as in `tinyldm sample` (default ddim)")
    p.add_argument("--guidance-scale", metavar="G", type=float, help="pull of the prompt (default 7.5)")
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


def add_runtime_options(p: Any, dtypes: str) -> None:
    """How to compute."""
    p.add_argument("--dtype", metavar="D", help=dtypes)
    p.add_argument("--backend", metavar="B", help="reference or numba")
    p.add_argument("--precision", metavar="P", help="fast or strict, of the numba backend")
    p.add_argument("--threads", metavar="N", type=int, help="threads of the numba backend")


def add_judging_options(p: Any) -> None:
    """How to judge."""
    p.add_argument(
        "--tolerance",
        metavar="T",
        help="largest error over the largest value, or auto: a multiple of the error of an honest evaluation, which "
        "the golden states (default: auto where it states that of the candidate's type, else by type)",
    )
    p.add_argument("--factor", metavar="F", type=float, help="of --tolerance auto (default 4)")
    p.add_argument("--arithmetic", metavar="A", help="of --tolerance auto: float32, float16, bfloat16 (default: type)")
    p.add_argument("--json", action="store_true", help="print the comparison as JSON")
    p.add_argument("--all", action="store_true", help="show every tensor")


def add_comparing_options(p: Any) -> None:
    """Two files, and what of them to compare."""
    p.add_argument("golden", metavar="GOLDEN", type=Path, help="golden file")
    p.add_argument("candidate", metavar="CANDIDATE", type=Path, help="golden file of the computation to judge")
    p.add_argument("--select", metavar="GLOB", action="append", help="compare keys that match (repeatable)")
    p.add_argument("--allow-missing", action="store_true", help="the candidate may lack tensors")
    p.add_argument("--allow-extra", action="store_true", help="the candidate may have more tensors")
    p.add_argument("--any-model", action="store_true", help="compare files whose model, weights or settings differ")
    add_judging_options(p)


def add_diff(parsers: Parsers) -> None:
    """`golden diff`."""
    p = command(parsers, "diff", run_diff, "find the first tensor that is out of tolerance", DIFF_EXAMPLE)
    add_comparing_options(p)


def add_report(parsers: Parsers) -> None:
    """`golden report`."""
    p = command(parsers, "report", run_report, "write a comparison as a self-contained HTML page", REPORT_EXAMPLE)
    add_comparing_options(p)
    p.add_argument("-o", "--output", metavar="FILE", type=Path, required=True, help="HTML file to write")


def add_bisect(parsers: Parsers) -> None:
    """`golden bisect`."""
    p = command(parsers, "bisect", run_bisect, "judge every module alone, on the golden's inputs", BISECT_EXAMPLE)
    p.add_argument("golden", metavar="GOLDEN", type=Path, help="golden file, recorded with --inputs")
    p.add_argument("--candidate", metavar="MODULE:FUNCTION", help="Python function (key, inputs) -> output or None")
    p.add_argument("--command", metavar="COMMAND", help="command that takes a file of inputs and one of outputs")
    p.add_argument("--select", metavar="GLOB", action="append", help="judge keys that match (repeatable)")
    add_judging_options(p)


def add_check(parsers: Parsers) -> None:
    """`golden check`."""
    p = command(parsers, "check", run_check, "repeat a recorded run and compare", CHECK_EXAMPLE)
    p.add_argument("golden", metavar="GOLDEN", type=Path, help="golden file that `golden record` wrote")
    p.add_argument("--model", metavar="PATH", help="checkpoint folder (default: the recorded one)")
    add_runtime_options(p, "float32 or float64 (default: the recorded one)")
    add_judging_options(p)


# What each does -------------------------------------------------------------------------------------------------------


def run_record(args: argparse.Namespace) -> int:
    """Record a run or a fixture."""
    from tinyldm.golden.names import compvis_names
    from tinyldm.golden.record import Recording, record, record_fixture
    from tinyldm.pipelines.load import load
    from tinyldm.pipelines.pictures import check_writable

    check_writable(args.output)
    check_record_options(args)
    dtype = args.dtype or "float32"
    backend = args.backend or ("reference" if dtype == "float64" else None)
    model = load(args.model, backend=backend, dtype=dtype, precision=args.precision, threads=args.threads)
    rounding = args.rounding if args.rounding is not None else default_rounding(args, dtype)
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
        record(
            model,
            args.output,
            recording,
            prompt=args.prompt or "",
            negative_prompt=args.negative_prompt or "",
            seed=args.seed,
            steps=25 if args.steps is None else args.steps,
            sampler=args.sampler or "ddim",
            guidance_scale=7.5 if args.guidance_scale is None else args.guidance_scale,
            height=height,
            width=width,
        )
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


def default_rounding(args: argparse.Namespace, dtype: str) -> str:
    """An oracle states the honest error of float32, where it keeps values to measure it by."""
    return "float32" if dtype == "float64" and not args.statistics and args.fixture != "scheduler" else ""


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


def run_diff(args: argparse.Namespace) -> int:
    """Compare two files."""
    from tinyldm.golden.store import Golden

    with ExitStack() as stack:
        golden, candidate = stack.enter_context(Golden(args.golden)), stack.enter_context(Golden(args.candidate))
        return show(args, judged(args, golden, candidate))


def judged(args: argparse.Namespace, golden: Any, candidate: Any) -> Any:
    """The comparison that the options ask for."""
    from tinyldm.golden.compare import compare

    return compare(
        golden,
        candidate,
        tolerance(args, golden, arithmetic_of(golden, candidate)),
        select=tuple(args.select or ["*"]),
        allow_missing=args.allow_missing,
        allow_extra=args.allow_extra,
        same_model=not args.any_model,
    )


def tolerance(args: argparse.Namespace, golden: Any, arithmetic: str | None = None, per_module: bool = False) -> Any:
    """The tolerance that the options ask for; `arithmetic` is the candidate's, where it is known, and `per_module` says
    that each module is judged by itself.

    Where none is asked for it is `auto` if the golden can say what the candidate's type costs.
    """
    from tinyldm.golden.tolerance import AutoTolerance, Tolerance

    if args.tolerance not in (None, "auto"):
        try:
            found = Tolerance(float(args.tolerance))
        except ValueError:
            raise InputError(f"--tolerance must be a number or auto, not {args.tolerance!r}") from None
        if args.arithmetic or args.factor is not None:
            raise InputError("--arithmetic and --factor are of --tolerance auto")
        return found
    arithmetic = args.arithmetic or arithmetic
    asked = args.tolerance == "auto" or args.arithmetic or args.factor is not None
    if asked or arithmetic in (golden.metadata.get("rounding") or {}):
        return AutoTolerance(golden, arithmetic or "float32", 4.0 if args.factor is None else args.factor, per_module)
    return Tolerance()


def arithmetic_of(golden: Any, candidate: Any) -> str | None:
    """The coarsest type among the candidate's tensors; None where it has none below float64."""
    from tinyldm.golden.tolerance import ARITHMETIC

    shared = [candidate.dtype(key) for key in golden.order if key in candidate]
    types = {ARITHMETIC[tag] for tag in shared if tag in ARITHMETIC}
    return next((a for a in ("bfloat16", "float16", "float32") if a in types), None)


def show(args: argparse.Namespace, comparison: Any) -> int:
    """Print a comparison; its status."""
    from tinyldm.golden.report_text import as_data, as_text

    print(json.dumps(as_data(comparison), indent=1) if args.json else as_text(comparison, args.all))
    return comparison.status


def run_report(args: argparse.Namespace) -> int:
    """Write a comparison as HTML; the status is that of the comparison."""
    from tinyldm.golden.report_html import write_report
    from tinyldm.golden.store import Golden
    from tinyldm.pipelines.pictures import check_writable

    check_writable(args.output)
    with ExitStack() as stack:
        golden, candidate = stack.enter_context(Golden(args.golden)), stack.enter_context(Golden(args.candidate))
        comparison = judged(args, golden, candidate)
        write_report(args.output, comparison, golden, candidate)
        return show(args, comparison)


def run_bisect(args: argparse.Namespace) -> int:
    """Judge every module alone."""
    from tinyldm.golden.bisect import bisect, load_callable
    from tinyldm.golden.store import Golden

    if (args.candidate is None) == (args.command is None):
        raise InputError("say what to judge: either --candidate MODULE:FUNCTION or --command COMMAND")
    candidate = load_callable(args.candidate) if args.candidate else args.command
    with Golden(args.golden) as golden:

        def judge(outputs: Golden) -> Any:
            return tolerance(args, golden, arithmetic_of(golden, outputs), per_module=True)

        judge_any = next(iter(golden.metadata.get("rounding") or {}), None)
        tolerance(args, golden, judge_any, per_module=True)  # wrong options are told before the candidate runs
        return show(args, bisect(golden, candidate, judge, select=tuple(args.select or ["*"])))


def run_check(args: argparse.Namespace) -> int:
    """Repeat a recorded run."""
    from tinyldm.golden.check import check
    from tinyldm.golden.store import Golden

    with Golden(args.golden) as golden:
        recorded = golden.metadata.get("runtime")
        dtype = args.dtype or (recorded.get("dtype") if isinstance(recorded, dict) else None)
        found = check(
            golden,
            args.model,
            tolerance(args, golden, None if dtype == "float64" else dtype),
            backend=args.backend,
            dtype=args.dtype,
            precision=args.precision,
            threads=args.threads,
        )
        return show(args, found)
