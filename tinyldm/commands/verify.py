"""Run a case whose pixels are published, and compare.

example:
  tinyldm verify
  tinyldm verify stable-diffusion-v1-4 --case sd-v1-4-ddim

exit status: 0 all pass, 1 not all, 2 bad input
"""

from __future__ import annotations

import argparse

from tinyldm.commands.options import add_model_options, open_model


def add_arguments(p: argparse.ArgumentParser) -> None:
    """Its arguments."""
    add_model_options(p)
    p.add_argument("path", metavar="PATH", nargs="?", help="checkpoint (default: the package's own)")
    p.add_argument("--case", metavar="NAME", help="which published case (default: all that the path's name tells)")


def run(args: argparse.Namespace) -> int:
    """Run published cases; the exit status is 1 where one fails."""
    from tinyldm.verify import choose_cases, run_case

    args.model = args.path or args.model
    model = open_model(args)
    verdicts = []
    for case in choose_cases(model, args.case):
        verdicts.append(run_case(model, case))
        print(verdicts[-1])
    return 0 if all(verdict.passed for verdict in verdicts) else 1
