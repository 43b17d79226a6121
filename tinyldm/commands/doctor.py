"""`tinyldm doctor`: what there is to compute with, and which speed to expect."""

from __future__ import annotations

import argparse
import json

SUMMARY = "say what is installed and used, where caches lie, and which speed to expect"
EXAMPLE = """example:
  tinyldm doctor
  tinyldm doctor --no-speed --json
"""


def add_arguments(p: argparse.ArgumentParser) -> None:
    """Its arguments."""
    p.add_argument("--no-speed", action="store_true", help="leave out the measurement, which takes some seconds")
    p.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> None:
    """Examine this machine."""
    from tinyldm.doctor import examine

    found = examine(measure=not args.no_speed)
    print(json.dumps(found.as_json(), indent=2) if args.json else found.as_text())
