"""The page that the benchmark scripts write their latest output to, each between marks of its own."""

from __future__ import annotations

import re
from importlib.metadata import version
from pathlib import Path


def setting(threads: int, peers: list[str], products: str = "float32") -> str:
    """Where and with what something was measured: processor, vectors, threads, versions."""
    from tinyldm.bench import machine
    from tinyldm.kernels import target

    versions = "".join(f", {peer} {version(peer)}" for peer in peers)
    return f"{machine()}; {threads} threads, {target().name} vectors; {products}{versions}."


def write_section(page: Path, name: str, text: str) -> None:
    """Replace what stands between the marks of `name` in a Markdown page."""
    old = page.read_text(encoding="utf-8")
    pattern = re.compile(f"(<!-- {re.escape(name)} -->\\n).*?(<!-- end -->)", re.DOTALL)
    if not pattern.search(old):
        raise SystemExit(f"{page}: has no place for {name}; wanted a line <!-- {name} --> and a line <!-- end -->")
    new = pattern.sub(lambda found: f"{found[1]}\n{text.strip()}\n\n{found[2]}", old)
    page.write_text(new, encoding="utf-8")


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(row) + " |" for row in lines)
