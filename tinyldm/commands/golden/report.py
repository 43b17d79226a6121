"""`tinyldm golden report`: a comparison as a page."""

from __future__ import annotations

import argparse
from contextlib import ExitStack
from pathlib import Path

from tinyldm.commands.golden.judging import add_comparing_options, judged, show

SUMMARY = "write a comparison as a self-contained HTML page"
EXAMPLE = """example:
  tinyldm golden report apple.safetensors mine.safetensors -o report.html
"""


def add_arguments(p: argparse.ArgumentParser) -> None:
    """Its arguments."""
    add_comparing_options(p)
    p.add_argument("-o", "--output", metavar="FILE", type=Path, required=True, help="HTML file to write")


def run(args: argparse.Namespace) -> int:
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
