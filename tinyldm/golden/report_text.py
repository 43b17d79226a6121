"""A comparison in words, for a terminal, and as plain data, for programs."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from tinyldm.golden.comparison import FAILED, OK, SHAPE, Comparison, Result

COLUMNS = (
    f"{'max abs':>9} {'max rel':>9} {'rmse':>9} {'cosine':>10} {'ulp':>9} {'nan/inf':>8} {'inputs':>9} {'of limit':>9}"
)


def as_text(comparison: Comparison, show_all: bool = False, rows: int = 20) -> str:
    """The verdict first, then a table: all tensors, or those around the first that fails."""
    lines = verdict(comparison)
    shown = comparison.results if show_all else interesting(comparison, rows)
    if shown:
        width = max(len(r.key) for r in shown)
        lines += ["", f"  {'tensor':<{width}} {COLUMNS}"]
        lines += [row(r, width) for r in shown]
        hidden = len(comparison.results) - len(shown)
        if hidden:
            lines.append(f"  … {hidden} more tensors (--all shows them)")
    return "\n".join(lines)


def verdict(c: Comparison) -> list[str]:
    """What was found, in a few lines: the first error and where it was made before all else."""
    lines = []
    if c.first is not None:
        lines.append(f"FIRST OUT OF TOLERANCE: {c.first.key}")
        lines.append(f"  in {c.culprit}: {c.explanation}")
        if c.first.hint:
            lines.append(f"  looks like: {c.first.hint}")
    lines += [f"NOT COMPARABLE: {problem}" for problem in c.problems]
    counts = {status: sum(r.status == status for r in c.results) for status in (OK, FAILED, SHAPE, "unjudged")}
    made = sum(r.status == FAILED and not r.inherited for r in c.results)
    text = f"{counts[OK]} of {len(c.results)} tensors within tolerance"
    if counts[FAILED]:
        text += f"; {counts[FAILED]} out of it, {made} made there and {counts[FAILED] - made} inherited"
    if counts[SHAPE]:
        text += f"; {counts[SHAPE]} of another shape or type"
    if counts["unjudged"]:
        text += f"; {counts['unjudged']} not judged, since the honest evaluation overflows there"
    if not all(r.exact for r in c.results):
        text += f"; {sum(not r.exact for r in c.results)} compared by samples or statistics"
    lines.append(text)
    for names, where in ((c.missing, "the golden"), (c.extra, "the candidate")):
        if names:
            lines.append(f"{len(names)} more are only in {where} and were not compared: {shortened(names)}")
    return [*lines, f"tolerance: {c.tolerance}"]


def shortened(names: list[str], most: int = 3) -> str:
    """The first of a list of names."""
    return ", ".join(names[:most]) + (", …" if len(names) > most else "")


def interesting(c: Comparison, rows: int) -> list[Result]:
    """The tensor before the first failure, and the failures from there on; the worst where none failed."""
    if c.first is None:
        return sorted(c.results, key=lambda r: -r.used)[: min(rows, 5)]
    at = next(i for i, r in enumerate(c.results) if r is c.first)
    return c.results[max(0, at - 2) : at] + c.failed[:rows]


def row(r: Result, width: int) -> str:
    """A line of the table."""
    mark = {OK: " ", FAILED: "~" if r.inherited else "✗", SHAPE: "✗"}.get(r.status, "?")
    if r.metrics is None:
        return f"{mark} {r.key:<{width}} {r.hint}"
    m = r.metrics
    inputs = "" if r.input_error is None else f"{r.input_error:.2e}"
    bad = f"{m.nan}/{m.inf}" if m.nan or m.inf else "0"
    return (
        f"{mark} {r.key:<{width}} {m.max_abs:9.2e} {m.max_rel:9.2e} {m.rmse:9.2e} {m.cosine:10.7f} {m.ulp:9.2g} "
        f"{bad:>8} {inputs:>9} {r.used:9.3g}"
    )


def as_data(comparison: Comparison) -> dict[str, Any]:
    """The comparison as JSON holds it; numbers that are not finite become text."""
    data = dataclasses.asdict(comparison) | {"status": comparison.status}
    data |= {"culprit": comparison.culprit, "explanation": comparison.explanation}
    data["first"] = comparison.first.key if comparison.first else None
    return {key: _finite(value) for key, value in data.items()}


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(v) for key, v in value.items()}
    if isinstance(value, list):
        return [_finite(v) for v in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
