"""How long `docs/one_file.py` is."""

from __future__ import annotations

from pathlib import Path

from drawing import write_numbers


def make(folder: Path) -> None:
    """Count."""
    source = (Path(__file__).parents[1] / "one_file.py").read_text(encoding="utf-8")
    write_numbers(folder / "one_file.json", {"lines": len(source.splitlines())})
