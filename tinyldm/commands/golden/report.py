"""Write a comparison as a self-contained HTML page.

example:
  tinyldm golden report apple.safetensors mine.safetensors -o report.html
"""

from __future__ import annotations

import argparse
from pathlib import Path

from tinyldm.commands.golden.judging import add_comparing_options, compared, show


def add_arguments(p: argparse.ArgumentParser) -> None:
    """Its arguments."""
    add_comparing_options(p)
    p.add_argument("-o", "--output", metavar="FILE", type=Path, required=True, help="HTML file to write")


def run(args: argparse.Namespace) -> int:
    """Write a comparison as HTML; the status is that of the comparison."""
    from tinyldm.golden.report_html import write_report
    from tinyldm.pipelines.pictures import check_writable

    check_writable(args.output)
    with compared(args) as (golden, candidate, comparison):
        write_report(args.output, comparison, golden, candidate)
        return show(args, comparison)
