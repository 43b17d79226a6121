"""The Python in the README and in docs/ runs as it stands, and the files that the pages name exist."""

from __future__ import annotations

import pkgutil
import re
import sys
from pathlib import Path

import pytest
from tiny_checkpoints import write_depth

import tinyldm

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
RUN = [
    "README.md",
    "latent-diffusion.md",
    "checkpoints.md",
    "goldens.md",
    "long-work.md",
    "samplers.md",
    "prompts.md",
    "editing.md",
    "seeds-and-settings.md",
]  # golden-format.md has pieces of programs


@pytest.mark.parametrize("name", RUN)
def test_snippets_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = next(p for p in PAGES if p.name == name)
    snippets = re.findall(r"^```python\n(.*?)^```", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    assert snippets
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(ROOT), *sys.path])
    if name == "checkpoints.md":  # a tiny model in the place of the published file, which must be named
        load, folder = tinyldm.load, write_depth(tmp_path / "depth")
        monkeypatch.setattr(tinyldm, "load", lambda path: load({"512-depth-ema.safetensors": folder}[path]))
    exec(compile("\n".join(snippets), str(page), "exec"), {"__name__": "snippets"})


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_named_files_exist(page: Path) -> None:
    text = page.read_text()
    named = re.findall(r"`((?:tinyldm|tests|docs|weights)/[\w./-]+)`", text)
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in link]
    missing = [n for n in named if not (ROOT / n).exists()] + [k for k in links if not (page.parent / k).exists()]
    assert not missing


def test_every_command_has_a_name_in_python() -> None:
    """The table of `docs/command-line.md`: every command is in it, and every name is there and has a docstring.

    But for those of a shell and of a server, which are of no use in a program.
    """
    from tinyldm.cli import COMMANDS

    page = (ROOT / "docs" / "command-line.md").read_text()
    table = page.partition("## The same from Python")[2].partition("##")[0]
    rows = re.findall(r"^\| (`.*?) \| (.*`.*) \|$", table, re.MULTILINE)
    commands = {word.split()[0] for left, _ in rows for word in re.findall(r"`([^`]+)`", left)}
    assert commands >= COMMANDS.keys() - {"completion", "serve"}
    for name in (name for _, right in rows for name in re.findall(r"`((?:tinyldm|model)\.[\w.]+)`", right)):
        found = pkgutil.resolve_name(re.sub(r"^model\.", "tinyldm.LatentDiffusion.", name))
        assert callable(found), name
        assert found.__doc__, name
