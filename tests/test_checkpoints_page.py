"""The table of checkpoints and the code are in step: families, tests, commands, calls, sizes."""

from __future__ import annotations

import argparse
import re
import shlex
from functools import cache
from pathlib import Path

import pytest
from golden.full_width_cases import FULL_WIDTH
from golden.full_width_files import SMALL, component_of, parameters_of

import tinyldm
from tinyldm import cli
from tinyldm.checkpoints.families import FAMILIES
from tinyldm.checkpoints.recognise import recognise
from tinyldm.memory import human_bytes
from tinyldm.models.build import MODELS

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "checkpoints.md").read_text(encoding="utf-8")
COLUMNS = [
    "model",
    "published",
    "licence",
    "layout",
    "recognised as",
    "parts",
    "parameters",
    "in float32",
    "use",
    "test",
]


def rows() -> list[dict[str, str]]:
    """The lines of all tables that have the columns."""
    found, within = [], False
    for line in PAGE.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        if not line.startswith("|"):
            within = False
        elif cells == COLUMNS:
            within = True
        elif within and len(cells) == len(COLUMNS):
            found.append(dict(zip(COLUMNS, cells, strict=True)))
    return found


ROWS = rows()
IDS = [row["model"] for row in ROWS]


def quoted(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


@cache
def count(part: str) -> int:
    return parameters_of(part)


@pytest.mark.parametrize("row", ROWS, ids=IDS)
def test_size_is_what_the_code_computes(row: dict[str, str]) -> None:
    total = sum(count(part) for part in quoted(row["parts"]))
    assert row["parameters"] == f"{total:,}"
    assert row["in float32"] == human_bytes(4 * total)


@pytest.mark.parametrize("row", ROWS, ids=IDS)
def test_every_cell_says_something(row: dict[str, str]) -> None:
    assert all(row.values())
    assert row["published"].startswith(("hub: ", "https://"))
    assert quoted(row["test"])
    for name in quoted(row["test"]):
        assert (ROOT / name).is_file(), name


def test_every_family_and_every_part_is_in_the_table() -> None:
    families = {name for row in ROWS for name in quoted(row["recognised as"])}
    known = {family.name for family in FAMILIES} | {
        "kl",
        "vq",
        "tiny",
        "controlnet",
        "t2i-adapter",
        "ip-adapter",
        "folder",
    }
    assert families == known
    parts = {part for row in ROWS for part in quoted(row["parts"])}
    assert parts == set(FULL_WIDTH) | set(SMALL) | {"clip-l"}
    assert len(set(IDS)) == len(IDS)


def test_every_class_is_in_the_table() -> None:
    classes = {component_of(name, case).class_name for name, case in FULL_WIDTH.items()} | {
        kind for kind, _ in SMALL.values()
    }
    own = {"Flow", "PixelScaling"}  # published nowhere but in this repository, as weights/emoji-flow and emoji-pixels
    assert classes | {"CLIPTextModel"} | own == set(MODELS)


@pytest.mark.parametrize("row", ROWS, ids=IDS)
def test_what_a_file_is_recognised_as(row: dict[str, str]) -> None:
    """The family of the row's UNet, or of its first stage where it has none."""
    (family,) = quoted(row["recognised as"])
    name = quoted(row["parts"])[0]
    if family == "folder":
        return
    case = FULL_WIDTH[name]
    made = component_of(name, case)
    found = recognise(made.source) if case.kind != "unet" else None
    assert (case.family if found is None else found.family) == family


def options_of(command: str) -> set[str]:
    """The options of a command."""
    for action in cli.parser()._actions:
        if isinstance(action, argparse._SubParsersAction):
            assert command in action.choices, f"tinyldm {command} is no command"
            return {option for a in action.choices[command]._actions for option in a.option_strings}
    raise AssertionError


USES = sorted({use for row in ROWS for use in quoted(row["use"])} | set(re.findall(r"`(tinyldm[ .][^`]+)`", PAGE)))


@pytest.mark.parametrize("use", [use for use in USES if use.startswith("tinyldm ")])
def test_commands(use: str) -> None:
    """The command exists and takes the options that the page gives it."""
    _, command, *words = shlex.split(use)
    given = {word for word in words if word.startswith("-") and len(word) > 1}
    assert given <= options_of(command)


@pytest.mark.parametrize("use", [use for use in USES if use.startswith("tinyldm.")])
def test_calls(use: str) -> None:
    """The call's functions exist; what is named of a loaded model is there."""
    first, *methods = re.findall(r"\.([a-z_]+)", re.sub(r"\((?:[^()]|\([^()]*\))*\)", "", use))
    assert hasattr(tinyldm, first)
    for method in methods:
        own = tinyldm.LatentDiffusion
        assert hasattr(own, method) or method in own.__dataclass_fields__ or method == "decode"
    for option in re.findall(r"\b([a-z_]+)=", use.partition(")")[0]) if first == "load" else ():
        import inspect

        assert option in inspect.signature(tinyldm.load).parameters
