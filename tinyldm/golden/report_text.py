"""A comparison in words, for a terminal, and as plain data, for programs."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from tinyldm.golden.comparison import FAILED, OK, SHAPE, UNJUDGED, Comparison, Result

MOST_FAULTS = 5  # that are told in full
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
    for i, fault in enumerate(c.faults[:MOST_FAULTS]):
        title = f"AND INDEPENDENTLY OF {'IT' if i == 1 else 'THEM'}" if i else "FIRST OUT OF TOLERANCE"
        again = f" (and in {fault.calls - 1} more calls)" if fault.calls > 1 else ""
        lines += [f"{title}: {fault.key}", f"  in {fault.module}: {fault.explanation}{again}"]
        hint = next((r.hint for r in c.failed if r.key == fault.key), None)
        lines += [f"  looks like: {hint}"] if hint else []
    if c.faults[MOST_FAULTS:]:
        lines.append(f"AND {len(c.faults) - MOST_FAULTS} MORE FAULTS, marked ✗ in the table")
    lines += [f"NOT COMPARABLE: {problem}" for problem in c.problems]
    lines.append(summary(c))
    for names, where in ((c.missing, "the golden"), (c.extra, "the candidate")):
        if names:
            lines.append(f"{len(names)} more are only in {where} and were not compared: {shortened(names)}")
    return [*lines, *c.notes, f"tolerance: {c.tolerance}"]


def summary(c: Comparison) -> str:
    """How many tensors are right, and from how many faults the wrong ones follow."""
    counts = {status: sum(r.status == status for r in c.results) for status in (OK, FAILED, SHAPE, UNJUDGED)}
    wrong, faults = len(c.failed), len(c.faults)
    text = f"{counts[OK]} of {len(c.results)} tensors within tolerance"
    if wrong:
        inherited = wrong - sum(f.key == r.key for f in c.faults for r in c.failed)
        kind = "independent faults" if faults > 1 else "fault"
        text += f"; {wrong} out of it, from {faults} {kind}" + (f", which {inherited} inherited" if inherited else "")
    if counts[SHAPE]:
        text += f"; {counts[SHAPE]} of another shape or type"
    if counts[UNJUDGED]:
        text += f"; {counts[UNJUDGED]} not judged, since the honest evaluation overflows there"
    if not all(r.exact for r in c.results):
        text += f"; {sum(not r.exact for r in c.results)} compared by samples or statistics"
    return text


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
