"""Grids with labels: pictures over two settings, one down the rows and one along the columns.

```python
sheet = model.grid("red apple", rows={"steps": [5, 25]}, columns={"sampler": ["euler", "ddim"]}, seed=0)
sheet.save("sheet.png")
```

What is the same computation is not computed twice: cells that differ in nothing that counts share a picture, and those
that differ in prompt and seed alone are walked together, their texts encoded once.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from tinyldm.diffusion.samplers.registry import FIELDS
from tinyldm.errors import InputError
from tinyldm.pipelines.parts import Parts
from tinyldm.pipelines.request import READ, Request, request
from tinyldm.pipelines.walk import Walk, grouped, pictures

SMALLEST_TEXT, LARGEST_TEXT = 10, 28  # pixels
LINES = 4  # of a label at most; the rest is left out
GAP = 4  # pixels between cells, and about labels
Place = tuple[int, int]  # row and column


@dataclass(frozen=True)
class Axis:
    """A setting of `request`, or an option of the sampler, and the values that it takes along rows or columns."""

    name: str
    values: tuple[Any, ...]

    def labels(self) -> list[str]:
        """What stands beside the cells: the setting and its value; a prompt says for itself what it is."""
        shown = [f"{value:g}" if isinstance(value, float) else str(value) for value in self.values]
        return shown if self.name == "prompt" else [f"{self.name.replace('_', ' ')} {value}" for value in shown]

    def given(self, arguments: Mapping[str, Any], k: int) -> dict[str, Any]:
        """The arguments of `request` with this setting's value `k`."""
        if self.name in READ:
            return {**arguments, self.name: self.values[k]}
        return {**arguments, "sampler_options": {**arguments.get("sampler_options", {}), self.name: self.values[k]}}


NOTHING = Axis("", ("",))  # where a grid has one row or one column


def axis(name: str, values: Sequence[Any]) -> Axis:
    """An axis, if there is such a setting and it has values. Raises `InputError` otherwise."""
    name = name.strip().replace("-", "_")
    if name not in READ and not any(name in fields for fields in FIELDS.values()):
        raise InputError(f"rows and columns are of settings, not of {name!r}; take one of {', '.join(READ)}")
    if isinstance(values, str) or not values:
        raise InputError(f"{name}: wanted a list of values, at least one")
    return Axis(name, tuple(values))


def read_axis(text: str) -> Axis:
    """An axis from `NAME=VALUE,VALUE,…`; a value with a comma stands in double quotes."""
    name, equals, values = text.partition("=")
    if not equals:
        raise InputError(f"rows and columns want NAME=VALUE,VALUE, such as steps=10,20, not {text!r}")
    texts = next(csv.reader([values], skipinitialspace=True), [])
    read = READ.get(name.strip().replace("-", "_"), option)
    try:
        values_read = [read(value) for value in texts]
    except ValueError:
        raise InputError(f"{name}: one of the values {values} can't be read") from None
    return axis(name, values_read)


def option(text: str) -> Any:
    """The value of a sampler's option: JSON, or else a text."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def cells(arguments: Mapping[str, Any], rows: Axis, columns: Axis) -> dict[Place, Request]:
    """The request of every cell; `arguments` of `request` are those that all have."""
    if rows.name == columns.name:
        raise InputError(f"rows and columns are both of {rows.name}; take two settings")
    places = [(i, j) for i in range(len(rows.values)) for j in range(len(columns.values))]
    wanted = {}
    for i, j in places:
        cell = dict(arguments)
        for own, k in ((rows, i), (columns, j)):
            cell = cell if own is NOTHING else own.given(cell, k)
        wanted[i, j] = request(**cell)
        if len(wanted[i, j].prompts) != 1:
            raise InputError("a grid has one picture a cell; prompt and seed may be its rows and columns")
    return wanted


def merged(parts: Parts, wanted: Mapping[Place, Request]) -> list[tuple[Request, list[list[Place]]]]:
    """The requests that make all pictures, each with the places of every picture of its.

    Cells whose requests, resolved, differ in prompts and seeds alone are one request, and equal ones one picture.
    """
    groups: list[tuple[dict[str, Any], Request, dict[tuple[Any, ...], list[Place]]]] = []
    for place, one in wanted.items():
        resolved = one.resolved(parts)
        composed = resolved.prompt_syntax != "plain" and "AND" in (resolved.prompts[0] or "")
        if parts.conditioner.guides and (resolved.guidance_scale or 0) <= 1 and not composed:  # no guidance at all
            resolved = replace(resolved, guidance_scale=1.0, negative_prompts=("",))
        settings = resolved.settings(0)
        of_picture = tuple(settings.pop(name) for name in ("prompt", "negative_prompt", "seed"))
        group = next((group for group in groups if group[0] == settings), (settings, resolved, {}))
        groups += [] if group[2] else [group]
        group[2].setdefault(of_picture, []).append(place)
    return [
        (replace(first, prompts=tuple(p), negative_prompts=tuple(n), seeds=tuple(s)), list(places.values()))
        for _, first, places in groups
        for p, n, s in [zip(*places, strict=True)]
    ]


def calls(parts: Parts, made: Sequence[tuple[Request, list[list[Place]]]]) -> int:
    """How often the grid calls the denoiser: a batch of pictures counts once."""
    total = 0
    for one, _ in made:
        sampler, start = one.begun(parts)
        total += len(grouped(parts, one, None)) * sampler.calls(start)
    return total


def grid_pictures(
    parts: Parts, made: Sequence[tuple[Request, list[list[Place]]]], how: Walk
) -> Iterator[tuple[Place, Image.Image]]:
    """The pictures of a grid with their places, each as it is finished."""
    for k, (one, places) in enumerate(made):
        last = k == len(made) - 1
        for picture in pictures(parts, one, replace(how, single_run=how.single_run and last)):
            yield from ((place, picture.image) for place in places[picture.index])


def drawn(images: Mapping[Place, Image.Image], rows: Axis, columns: Axis) -> Image.Image:
    """One picture of all, with labels above the columns and on the left of the rows; a missing one stays white."""
    width, height = (max(image.size[side] for image in images.values()) for side in (0, 1))
    size = min(max(width // 10, SMALLEST_TEXT), LARGEST_TEXT)
    font = ImageFont.load_default(size)
    above = [] if columns is NOTHING else [wrapped(text, font, width) for text in columns.labels()]
    beside = [] if rows is NOTHING else [wrapped(text, font, max(width, 6 * size)) for text in rows.labels()]
    pen = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    boxes = {text: pen.multiline_textbbox((0, 0), text, font) for text in (*above, *beside)}
    top = max((int(boxes[text][3]) for text in above), default=-2 * GAP) + 2 * GAP
    left = max((int(boxes[text][2]) for text in beside), default=-2 * GAP) + 2 * GAP
    across, down = len(columns.values), len(rows.values)
    sheet = Image.new("RGB", (left + across * (width + GAP) - GAP, top + down * (height + GAP) - GAP), "white")
    pen = ImageDraw.Draw(sheet)
    for j, text in enumerate(above):
        middle = left + j * (width + GAP) + width // 2
        pen.multiline_text((middle, GAP), text, "black", font, anchor="ma", align="center")
    for i, text in enumerate(beside):
        middle = top + i * (height + GAP) + height // 2
        pen.multiline_text((GAP, middle), text, "black", font, anchor="lm")
    for (i, j), image in images.items():
        sheet.paste(image, (left + j * (width + GAP), top + i * (height + GAP)))
    return sheet


def wrapped(text: str, font: Any, width: int) -> str:
    """A text in lines of at most `width` pixels; words that are longer are broken, and what is too much left out."""
    lines: list[str] = []
    line = ""
    for word in text.split():
        while word and len(lines) <= LINES:
            joined = f"{line} {word}" if line else word
            if font.getlength(joined) <= width:
                line, word = joined, ""
            elif line:
                lines, line = [*lines, line], ""
            else:
                fits = next((n for n in range(1, len(word)) if font.getlength(word[: n + 1]) > width), len(word))
                fits = word.rfind("_", 1, fits) + 1 or fits  # a long name, where it is joined
                lines, word = [*lines, word[:fits]], word[fits:]
    lines = [*lines, line] if line else lines
    return "\n".join(lines if len(lines) <= LINES else [*lines[: LINES - 1], f"{lines[LINES - 1][:-1]}…"])


def make_grid(
    parts: Parts,
    rows: Mapping[str, Sequence[Any]] | None = None,
    columns: Mapping[str, Sequence[Any]] | None = None,
    how: Walk = Walk(),  # noqa: B008
    **arguments: Any,
) -> Image.Image:
    """The grid of a model's pictures over one setting a side, `{name: values}`; `arguments` are those of `request`.

    Raises `InputError` before any work for a setting or a value that can't be honoured.
    """
    sides = [axis(*next(iter(side.items()))) if side else NOTHING for side in (rows, columns)]
    if any(len(side) > 1 for side in (rows, columns) if side):
        raise InputError("rows and columns are of one setting each")
    made = merged(parts, cells(arguments, *sides))
    return drawn(dict(grid_pictures(parts, made, how)), *sides)
