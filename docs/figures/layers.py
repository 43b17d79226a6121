"""Which room of the package imports which, read from the source: a figure without circles is a triangle."""

from __future__ import annotations

import ast
import graphlib
from pathlib import Path

import numpy as np
from drawing import INK, plots, save, write_numbers

import tinyldm

PACKAGE = Path(tinyldm.__file__).resolve().parent
ENTRANCES = {"__init__", "__main__", "version", "typing"}  # they import everything, or everything imports them


def room_of(path: Path) -> str:
    """The folder or the file directly in the package that a file belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    """The rooms that a file imports."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "tinyldm":
            whole = node.module or ""
            names |= {whole} if "." in whole else {f"tinyldm.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names if alias.name.startswith("tinyldm.")}
    return {name.split(".")[1] for name in names}


def rooms() -> dict[str, set[str]]:
    """Each room with those that it imports, from the ground up."""
    graph: dict[str, set[str]] = {}
    for path in PACKAGE.rglob("*.py"):
        if room_of(path) not in ENTRANCES:
            graph.setdefault(room_of(path), set()).update(imported(path))
    known = {room: {other for other in graph if other in found and other != room} for room, found in graph.items()}
    sorter, order = graphlib.TopologicalSorter(known), list[str]()
    sorter.prepare()
    while sorter.is_active():
        ready = sorted(sorter.get_ready())
        order += ready
        sorter.done(*ready)
    return {room: known[room] for room in order}


def make(folder: Path) -> None:
    """A dot where the room of a row imports the room of a column."""
    graph = rooms()
    order = list(graph)
    dots = np.array([(order.index(other), r) for r, room in enumerate(order) for other in sorted(graph[room])])
    figure, ax = plots(width=5.6, height=5.2)
    ax.scatter(*dots.T, s=36)
    ax.plot([-0.5, len(order) - 0.5], [-0.5, len(order) - 0.5], color=INK, linewidth=0.8)
    ax.set_xticks(range(len(order)), order, rotation=70, ha="right", fontsize=8)
    ax.set_yticks(range(len(order)), order, fontsize=8)
    ax.set_xlabel("is imported")
    ax.set_ylabel("imports")
    save(figure, folder / "layers.svg")
    write_numbers(folder / "layers.json", {room: " ".join(sorted(found)) for room, found in graph.items()})
