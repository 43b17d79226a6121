"""What the tools say of the code: types, lint, format. And how much of it there is: `python tests/test_style.py`."""

from __future__ import annotations

import ast
import io
import subprocess
import sys
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    "command",
    [["mypy", "--strict", "tinyldm"], ["ruff", "check", "."], ["ruff", "format", "--check", "."]],
    ids=lambda command: " ".join(command[:2]),
)
def test_clean(command: list[str]) -> None:
    done = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_function_fits_on_a_screen() -> None:
    """At most 60 lines, its signature and docstring among them."""
    long = [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"
        for path in (ROOT / "tinyldm").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef) and (node.end_lineno or 0) - node.lineno >= 60
    ]
    assert not long


def code_lines(path: Path) -> int:
    """The lines of a file with code on them: no blank ones, comments, or docstrings."""
    source = path.read_text(encoding="utf-8")
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    docstrings: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, documented) and ast.get_docstring(node, clean=False) is not None:
            docstrings |= set(range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1))
    layout = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    lines = {n for t in tokens if t.type not in layout for n in range(t.start[0], t.end[0] + 1)}
    return len(lines - docstrings)


def main() -> None:
    """Print the lines of code of the package, room by room."""
    rooms: dict[str, int] = {}
    for path in sorted((ROOT / "tinyldm").rglob("*.py")):
        room = path.relative_to(ROOT / "tinyldm").parts[0]
        rooms[room] = rooms.get(room, 0) + code_lines(path)
    for room, lines in sorted(rooms.items(), key=lambda entry: -entry[1]):
        print(f"{lines:6,}  {room}")
    print(f"{sum(rooms.values()):6,}  in all")


if __name__ == "__main__":
    main()
