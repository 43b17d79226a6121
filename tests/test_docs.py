"""The Python in the README and in docs/ runs as it stands, and the files that the pages name exist."""

from __future__ import annotations

import functools
import pkgutil
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tiny_checkpoints import (
    T2I_ADAPTER,
    write_component,
    write_controlnet,
    write_depth,
    write_image_encoder,
    write_ip_adapter,
    write_sd,
)

import tinyldm

ROOT = Path(__file__).parents[1]
PAGES = {p.relative_to(ROOT).as_posix(): p for p in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))}
# Pieces of programs, tested in tests/golden_tools/, tests/server/ and tests/docs/.
PIECES = {"docs/golden-format.md", "docs/golden-any-language.md", "docs/serve.md", "docs/book/porting.md"}
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
    given: dict[str, Any] = {"__name__": "snippets"}
    if name == "docs/adapters.md":
        monkeypatch.setattr(tinyldm, "load", adapted(tmp_path, tinyldm.load))
        given |= dict.fromkeys(("photo", "depth", "dog"), Image.new("RGB", (24, 16), "teal"))
    exec(compile("\n".join(snippets), str(page), "exec"), given)


def adapted(folder: Path, load: Callable[..., Any]) -> Callable[..., Any]:
    """`load` of a tiny model with what the page on adapters puts on top, in the place of the published files."""
    write_sd(folder / "sd15")
    write_controlnet(folder / "sd-controlnet-canny")
    write_component(folder / "t2iadapter_depth_sd15v2", T2I_ADAPTER)
    write_image_encoder(folder / "IP-Adapter" / "models" / "image_encoder")
    write_ip_adapter(folder / "IP-Adapter" / "models" / "ip-adapter_sd15.safetensors", "sd", "projection")
    return functools.partial(load, backend="reference")


@pytest.mark.parametrize("name", PAGES)
def test_named_files_exist(name: str) -> None:
    page = PAGES[name]
    text = page.read_text()
    named = re.findall(r"`((?:tinyldm|tests|docs|weights)/[\w./-]+)`", text)
    prose = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)  # in programs a(b) follows ] as well
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", prose) if "://" not in link]
    missing = [n for n in named if not (ROOT / n).exists()] + [k for k in links if not (page.parent / k).exists()]
    assert not missing


def test_every_command_has_a_name_in_python() -> None:
    """The table of `docs/command-line.md`: every command is in it, and every name is there and has a docstring.

    But for those of a shell and of pages in a browser, which are of no use in a program.
    """
    from tinyldm.cli import COMMANDS

    page = (ROOT / "docs" / "command-line.md").read_text()
    table = page.partition("## The same from Python")[2].partition("##")[0]
    rows = re.findall(r"^\| (`.*?) \| (.*`.*) \|$", table, re.MULTILINE)
    commands = {word.split()[0] for left, _ in rows for word in re.findall(r"`([^`]+)`", left)}
    assert commands >= COMMANDS.keys() - {"completion", "serve", "explore"}
    for name in (name for _, right in rows for name in re.findall(r"`((?:tinyldm|model)\.[\w.]+)`", right)):
        found = pkgutil.resolve_name(re.sub(r"^model\.", "tinyldm.LatentDiffusion.", name))
        assert callable(found), name
        assert found.__doc__, name
