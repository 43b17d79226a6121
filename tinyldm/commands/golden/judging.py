"""What the commands that compare share: which tensors, by what tolerance, and how it is shown."""

from __future__ import annotations

import argparse
import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tinyldm.errors import InputError


def add_comparing_options(p: argparse.ArgumentParser) -> None:
    """Two files, and what of them to compare."""
    p.add_argument("golden", metavar="GOLDEN", type=Path, help="golden file")
    p.add_argument("candidate", metavar="CANDIDATE", type=Path, help="golden file of the computation to judge")
    p.add_argument("--select", metavar="GLOB", action="append", help="compare keys that match (repeatable)")
    p.add_argument("--allow-missing", action="store_true", help="the candidate may lack tensors")
    p.add_argument("--allow-extra", action="store_true", help="the candidate may have more tensors")
    p.add_argument("--any-model", action="store_true", help="compare files whose model, weights or settings differ")
    add_judging_options(p)


def add_judging_options(p: argparse.ArgumentParser) -> None:
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


@contextlib.contextmanager
def compared(args: argparse.Namespace) -> Iterator[tuple[Any, Any, Any]]:
    """The two files, open for the length of a block, and the comparison that the options ask for."""
    from tinyldm.golden.compare import compare
    from tinyldm.golden.store import Golden

    with Golden(args.golden) as golden, Golden(args.candidate) as candidate:
        limits = tolerance(args, golden, arithmetic_of(golden, candidate))
        allowed = {"allow_missing": args.allow_missing, "allow_extra": args.allow_extra}
        select = tuple(args.select or ["*"])
        yield (
            golden,
            candidate,
            compare(golden, candidate, limits, select=select, same_model=not args.any_model, **allowed),
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
    """The coarsest type among the candidate's tensors and products; None where it has none below float64."""
    from tinyldm.golden.tolerance import ARITHMETIC

    if (candidate.metadata.get("runtime") or {}).get("precision") == "bf16":
        return "bfloat16"
    shared = [candidate.dtype(key) for key in golden.order if key in candidate]
    types = {ARITHMETIC[tag] for tag in shared if tag in ARITHMETIC}
    return next((a for a in ("bfloat16", "float16", "float32") if a in types), None)


def show(args: argparse.Namespace, comparison: Any) -> int:
    """Print a comparison; its status."""
    from tinyldm.golden.report_text import as_data, as_text

    print(json.dumps(as_data(comparison), indent=1) if args.json else as_text(comparison, args.all))
    return int(comparison.status)
