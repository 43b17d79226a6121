"""Say what is installed and used, where caches lie, and which speed to expect.

example:
  tinyldm doctor
  tinyldm doctor --no-speed --json
"""

from __future__ import annotations

import argparse
import json


def add_arguments(p: argparse.ArgumentParser) -> None:
    """Its arguments."""
    p.add_argument("--no-speed", action="store_true", help="leave out the measurement, which takes some seconds")
    p.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> None:
    """Examine this machine."""
    from tinyldm.doctor import examine

    found = examine(measure=not args.no_speed)
    print(json.dumps(found.as_json(), indent=2) if args.json else found.as_text())
