"""Judge every module alone, on the golden's inputs.

examples:
  tinyldm golden bisect apple.safetensors --candidate mymodule:run_one_module
  tinyldm golden bisect apple.safetensors --command "./my-port --modules"
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from tinyldm.commands.golden.judging import add_judging_options, arithmetic_of, show, tolerance
from tinyldm.errors import InputError


def add_arguments(p: argparse.ArgumentParser) -> None:
    """Its arguments."""
    p.add_argument("golden", metavar="GOLDEN", type=Path, help="golden file, recorded with --inputs")
    p.add_argument("--candidate", metavar="MODULE:FUNCTION", help="Python function (key, inputs) -> output or None")
    p.add_argument("--command", metavar="COMMAND", help="command that takes a file of inputs and one of outputs")
    p.add_argument("--select", metavar="GLOB", action="append", help="judge keys that match (repeatable)")
    add_judging_options(p)


def run(args: argparse.Namespace) -> int:
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
