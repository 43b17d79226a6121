"""The Python in the README and in docs/ runs as it stands, and the files that the pages name exist."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from tiny_checkpoints import write_depth

import tinyldm

ROOT = Path(__file__).parents[1]
PAGES = {p.relative_to(ROOT).as_posix(): p for p in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))}
PIECES = {"docs/golden-format.md", "docs/golden-any-language.md"}  # of programs, tested in tests/golden_tools/
RUN = [name for name, page in PAGES.items() if "\n```python\n" in page.read_text() and name not in PIECES]


@pytest.mark.parametrize("name", RUN)
def test_snippets_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = PAGES[name]
    snippets = re.findall(r"^```python\n(.*?)^```", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    assert snippets
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(ROOT), *sys.path])
    if name == "docs/checkpoints.md":  # a tiny model in the place of the published file, which must be named
        load, folder = tinyldm.load, write_depth(tmp_path / "depth")
        monkeypatch.setattr(tinyldm, "load", lambda path: load({"512-depth-ema.safetensors": folder}[path]))
    exec(compile("\n".join(snippets), str(page), "exec"), {"__name__": "snippets"})


@pytest.mark.parametrize("name", PAGES)
def test_named_files_exist(name: str) -> None:
    page = PAGES[name]
    text = page.read_text()
    named = re.findall(r"`((?:tinyldm|tests|docs|weights)/[\w./-]+)`", text)
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in link]
    missing = [n for n in named if not (ROOT / n).exists()] + [k for k in links if not (page.parent / k).exists()]
    assert not missing
