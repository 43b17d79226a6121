"""A comparison as one HTML page that needs nothing else: no network, no files beside it.

The error against depth and the heat map are inline SVG, pictures are data URIs, the table sorts and filters by a few
lines of inline script. The page that is filled in is `report.html`. Everything that comes out of a file is escaped.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Iterable
from html import escape
from importlib.resources import files
from os import PathLike
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
from PIL import Image

from tinyldm.golden.comparison import FAILED, OK, SHAPE, Comparison, Result
from tinyldm.golden.report_text import as_data, verdict
from tinyldm.golden.store import Golden
from tinyldm.pipelines.pictures import as_file, write_whole

FLOOR = 1e-18  # what is drawn for no error at all
MAX_THUMBNAILS = 12
MAX_CELLS = 40_000
COLOURS = {OK: "#2a8a57", FAILED: "#c8372d", "inherited": "#e08a00", SHAPE: "#7a1fa2", "unjudged": "#888888"}
MEANINGS = {
    OK: "within the limit",
    FAILED: "out of it, made there",
    "inherited": "out of it, inherited",
    SHAPE: "another shape",
    "unjudged": "not judged",
}


def write_report(path: str | PathLike[str], comparison: Comparison, golden: Golden, candidate: Golden) -> None:
    """Write the page, whole or not at all."""
    page = report(comparison, golden, candidate).encode()
    write_whole(Path(path), lambda file: file.write(page))


def report(comparison: Comparison, golden: Golden, candidate: Golden) -> str:
    """The page as text."""
    words = {0: "within tolerance", 1: "out of tolerance", 2: "not comparable"}
    # A script ends at the first `</`, whatever it stands in.
    rows = json.dumps([table_row(r) for r in as_data(comparison)["results"]]).replace("</", "<\\/")
    page = files("tinyldm.golden").joinpath("report.html").read_text(encoding="utf-8")
    return Template(page).substitute(
        title=escape(f"{candidate.path} against {golden.path}"),
        status=words[comparison.status],
        status_class=("good", "bad", "bad")[comparison.status],
        verdict="\n".join(map(paragraph, verdict(comparison))),
        sources=sources(golden, candidate),
        depth=depth_chart(comparison),
        heat=heat_map(comparison),
        pictures=thumbnails(comparison, golden, candidate),
        rows=rows,
        first=json.dumps(comparison.first.key if comparison.first else None).replace("</", "<\\/"),
    )


def paragraph(line: str) -> str:
    """A line of the verdict; the titles of faults stand out."""
    title = ' class="title"' if line.startswith(("FIRST", "AND", "NOT")) else ""
    return f"<p{title}>{escape(line.strip())}</p>"


def table_row(r: dict[str, Any]) -> list[Any]:
    """What the table shows of a tensor: numbers as numbers, so that the page can sort them."""
    m = r["metrics"] or {}
    errors = [m.get(name) for name in ("max_abs", "max_rel", "rmse")]
    others = [m.get(name) for name in ("cosine", "ulp", "nan", "inf")]
    status = "inherited" if r["inherited"] else r["status"]
    return [r["key"], status, r["used"], *errors, r["input_error"], *others, r["hint"] or ""]


def sources(golden: Golden, candidate: Golden) -> str:
    """Which two files, and how each was computed."""
    lines = []
    for name, file in (("golden", golden), ("candidate", candidate)):
        said = [named(file.metadata.get(k)) for k in ("runtime", "settings", "versions")]
        text = "".join(f"<br><small>{escape(line)}</small>" for line in said if line)
        lines.append(f"<dt>{name}</dt><dd>{escape(file.path)}{text}</dd>")
    return f"<dl>{''.join(lines)}</dl>"


def named(entries: object) -> str:
    """`name value` pairs in a line, without what was not given."""
    pairs = entries.items() if isinstance(entries, dict) else ()
    kept = [(k, v) for k, v in pairs if v not in (None, "", [], False, ["*"])]
    return " · ".join(f"{k} {v if isinstance(v, str) else json.dumps(v, ensure_ascii=False)}" for k, v in kept)


# Error against depth --------------------------------------------------------------------------------------------------


def depth_chart(c: Comparison, width: int = 1000, height: int = 280) -> str:
    """Each tensor's error, relative to the golden's largest value, in the order of execution; the limit as a line."""
    errors = [(i, r, max(relative_error(r), FLOOR)) for i, r in enumerate(c.results) if r.metrics is not None]
    if not errors:
        return "<p>No tensor could be measured.</p>"
    limits = [(i, e / r.used) for i, r, e in errors if 0 < r.used < math.inf and e > FLOOR]
    values = [e for _, _, e in errors if e > FLOOR] + [limit for _, limit in limits] or [FLOOR]
    low, high = math.floor(math.log10(min(values))) - 1, math.ceil(math.log10(max(values)))
    high = max(high, low + 2)
    left, bottom = 60, 36

    def x(i: int) -> float:
        return left + (width - left - 10) * (i + 0.5) / len(c.results)

    def y(value: float) -> float:
        share = (math.log10(max(value, 10.0**low)) - low) / (high - low)
        return height - bottom - (height - bottom - 10) * min(share, 1.0)

    parts = [f'<svg id="depth" viewBox="0 0 {width} {height}" role="img" aria-label="error against depth">']
    for power in range(low, high + 1, max(1, (high - low) // 8)):
        at = y(10.0**power)
        parts.append(f'<line class="grid" x1="{left}" x2="{width - 10}" y1="{at:.1f}" y2="{at:.1f}"/>')
        parts.append(f'<text x="{left - 6}" y="{at + 4:.1f}" text-anchor="end">1e{power}</text>')
    free = [0.0, 0.0]  # from where on each of two lines below the axis has room for a label
    for i, name in component_starts(c):
        parts.append(f'<line class="mark" x1="{x(i):.1f}" x2="{x(i):.1f}" y1="10" y2="{height - bottom}"/>')
        room = 8.5 * len(name)  # of the font at its largest
        at = min(x(i), width - room)
        line = next((n for n in (0, 1) if at >= free[n]), None)
        if line is not None:
            parts.append(f'<text x="{at:.1f}" y="{height - 20 + 12 * line}">{escape(name)}</text>')
            free[line] = at + room + 8
    points = " ".join(f"{x(i):.1f},{y(limit):.1f}" for i, limit in limits)
    parts.append(f'<polyline class="limit" points="{points}"/>')
    for i, r, e in errors:
        # What it is of is in the table's row, by its number.
        size, colour = 5 if r is c.first else 2.4, COLOURS[kind(r)]
        parts.append(f'<circle data-i="{i}" cx="{x(i):.1f}" cy="{y(e):.1f}" r="{size}" fill="{colour}"/>')
    kinds = [(COLOURS[k], MEANINGS[k]) for k in COLOURS if any(kind(r) == k for r in c.results)]
    return "".join([*parts, "</svg>", legend(kinds)])


def legend(entries: Iterable[tuple[str, str]]) -> str:
    """What colours mean."""
    shown = "".join(f'<span><i style="background:{colour}"></i>{meaning}</span>' for colour, meaning in entries)
    return f'<p class="legend">{shown}</p>'


def kind(r: Result) -> str:
    """The status, with inherited failures apart."""
    return "inherited" if r.inherited else r.status


def relative_error(r: Result) -> float:
    """The maximum error over the largest value; 1 where values are not finite that should be."""
    assert r.metrics is not None
    error = 1.0 if r.metrics.nonfinite_differ else r.metrics.max_rel
    return min(error, 1e6)


def component_starts(c: Comparison) -> list[tuple[int, str]]:
    """Where each call of each model begins, as `unet 7`; models that are called once have no number."""
    calls: dict[tuple[str, str], int] = {}
    for i, r in enumerate(c.results):
        step, _, rest = r.key.partition("/")
        component = min(rest.split("/")[0], rest.split(":")[0], key=len)
        if component != rest:  # `0003/latents` belongs to no model
            calls.setdefault((component, step), i)
    often = {component for component, step in calls if step.strip("0")}
    return [
        (i, f"{name} {int(step)}" if name in often and step.isdigit() else name) for (name, step), i in calls.items()
    ]


# Heat map -------------------------------------------------------------------------------------------------------------


def heat_map(c: Comparison) -> str:
    """How much of its limit each module uses up (logarithm), modules downwards in order, steps to the right.

    Where there are too many cells a column is of several steps, and shows the worst.
    """
    cells: dict[str, dict[str, int]] = {}
    for i, r in enumerate(c.results):
        step, _, module = r.key.partition("/")
        if module:
            cells.setdefault(module, {})[step] = i
    steps = sorted({step for row in cells.values() for step in row})
    if not cells:
        return "<p>No tensor is of a step.</p>"
    together = math.ceil(len(steps) * len(cells) / MAX_CELLS)
    columns = [steps[j : j + together] for j in range(0, len(steps), together)]
    w, h, left = max(4, min(24, 560 // len(columns))), 12, 470
    width, height = max(left + w * len(columns) + 30, 1000), len(cells) * h + 20
    parts = [f'<svg id="heat" viewBox="0 0 {width} {height}" role="img" aria-label="heat map">']
    for j, column in enumerate(columns):
        if j % max(1, 40 // w) == 0:
            parts.append(f'<text x="{left + j * w}" y="10">{escape(column[0].lstrip("0") or "0")}</text>')
    for n, (module, row) in enumerate(cells.items()):
        top = 16 + n * h
        name = module if len(module) <= 75 else f"…{module[-74:]}"
        parts.append(f'<text x="{left - 6}" y="{top + 9}" text-anchor="end">{escape(name)}</text>')
        for j, column in enumerate(columns):
            found = [row[step] for step in column if step in row]
            if found:
                i = max(found, key=lambda i: c.results[i].used)
                colour = heat(c.results[i].used)
                parts.append(
                    f'<rect data-i="{i}" x="{left + j * w}" y="{top}" width="{w}" height="{h}" fill="{colour}"/>'
                )
    of_heat = legend((heat(used), meaning) for used, meaning in SHARES.items())
    return "".join([of_heat, '<div class="scroll">', *parts, "</svg></div>"])


SHARES = {1e-3: "a thousandth of the limit", 0.1: "a tenth", 1.0: "the limit", 1.01: "above it"}
SHARES |= {1e2: "a hundred times", 1e4: "ten thousand"}
BELOW = [(255, 255, 255), (226, 240, 232), (150, 201, 172), (42, 138, 87)]  # 1e-3, 1e-2, 1e-1 and all of the limit
ABOVE = [(254, 178, 60), (226, 85, 40), (165, 15, 30), (80, 0, 40), (40, 0, 40)]  # 1, 10, 1e2, 1e3, 1e4 times


def heat(used: float) -> str:
    """Green that deepens up to the limit; beyond it, orange to dark red."""
    level = math.log10(min(max(used, 1e-3), 1e4))
    stops, at = (BELOW, level + 3) if used <= 1 else (ABOVE, level)
    i = min(int(at), len(stops) - 2)
    mixed = (round(a + (b - a) * (at - i)) for a, b in zip(stops[i], stops[i + 1], strict=True))
    return f"rgb({','.join(map(str, mixed))})"


# Thumbnails -----------------------------------------------------------------------------------------------------------


def thumbnails(c: Comparison, golden: Golden, candidate: Golden) -> str:
    """Golden, candidate and their difference as pictures: latents, pictures, and the first wrong images of features."""
    keys = list(chosen(c, golden, candidate))[:MAX_THUMBNAILS]
    if not keys:
        return "<p>No image-like tensor was kept whole.</p>"
    figures = []
    for key in keys:
        g, b = golden[key].astype(np.float64)[0], candidate[key].astype(np.float64)[0]
        error = np.nan_to_num(np.abs(b - g), nan=np.inf).max(axis=0)
        g, b = colours(g), colours(b)
        low, high = (float(f(g[np.isfinite(g)])) if np.isfinite(g).any() else 0.0 for f in (np.min, np.max))
        finite = error[np.isfinite(error)]
        worst = float(finite.max()) if finite.size else 0.0
        images = picture(g, low, high), picture(b, low, high), picture(error[None], 0.0, worst or 1.0)
        names = ("golden", "candidate", f"error, white = {worst:.3g}")
        shown = "".join(
            f'<figure><img alt="{name} of {escape(key)}" src="{uri}"><figcaption>{name}</figcaption></figure>'
            for name, uri in zip(names, images, strict=True)
        )
        figures.append(f'<div class="thumbs"><h3>{escape(key)}</h3>{shown}</div>')
    return f'<div class="grid2">{"".join(figures)}</div>'


def chosen(c: Comparison, golden: Golden, candidate: Golden) -> Iterable[str]:
    """Image-like tensors that both files have whole: the first failures, then the last latents and pictures."""
    failed = [r.key for r in c.failed]
    boundary = [r.key for r in c.results if r.key.endswith(("latents", ":decode.pixels", "picture", ":epsilon"))]
    for key in dict.fromkeys([*failed[:4], *boundary[::-1], *failed[4:]]):
        whole = golden.has_whole(key) and candidate.has_whole(key)
        if whole and len(golden.shape(key)) == 4 and golden.shape(key) == candidate.shape(key):
            yield key


def colours(x: np.ndarray) -> np.ndarray:
    """`(C, H, W)` as colours `(3, H, W)` where it has three channels, else their mean as grey `(1, H, W)`."""
    return x if len(x) == 3 else x.mean(axis=0, keepdims=True)


def picture(x: np.ndarray, low: float, high: float) -> str:
    """`(3, H, W)` or `(1, H, W)` as a PNG data URI, `low` as black and `high` as white."""
    with np.errstate(invalid="ignore"):
        levels = np.clip((x - low) / ((high - low) or 1.0), 0, 1)
    pixels = np.nan_to_num(levels * 255, nan=255).astype(np.uint8)
    image = Image.fromarray(np.moveaxis(pixels, 0, -1) if len(x) == 3 else pixels[0])
    scale = max(1, 128 // max(image.size))
    larger = image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)
    return "data:image/png;base64," + base64.b64encode(as_file(larger)).decode()
