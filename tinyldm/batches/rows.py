"""From a file of rows to the pictures that it asks for: text, CSV or JSON lines, with lists multiplied out."""

from __future__ import annotations

import csv
import itertools
import json
import math
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from tinyldm.batches.columns import PICTURE, column_of, columns, values_of
from tinyldm.errors import InputError

MOST = 1_000_000  # pictures of one batch
SEPARATORS = {".csv": ",", ".tsv": "\t"}
JSON_LINES = (".jsonl", ".ndjson")


@dataclass(frozen=True, slots=True)
class Job:
    """A picture to make: its place in the batch, the number of its row from 1, and the settings that were said of it.

    `name` is that of its file, under the folder of the batch; `key` tells what it is made from (`run.keyed`).
    """

    index: int
    row: int
    settings: Mapping[str, Any]
    name: str = ""
    key: str = ""


Row = tuple[str, Mapping[str, Any]]  # where it stands, for messages, and its cells


def read_rows(path: str | Path) -> Iterator[Row]:
    """The rows of a file: of `.csv` and `.tsv` by their headings, of `.jsonl` an object a line, else a prompt a line.

    `-` is standard input, with a prompt a line. Raises `InputError` where it can't be read.
    """
    path = Path(path)
    try:
        if str(path) == "-":
            yield from text_rows(sys.stdin, "standard input")
            return
        with path.open(encoding="utf-8-sig", newline="") as file:
            if path.suffix.lower() in SEPARATORS:
                yield from table_rows(file, path)
            elif path.suffix.lower() in JSON_LINES:
                yield from json_rows(file, path)
            else:
                yield from text_rows(file, path)
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: must be UTF-8: {error.reason} at byte {error.start}") from None
    except OSError as error:
        raise InputError(f"{path}: can't be read: {error.strerror or error}") from None


def text_rows(file: TextIO, name: object) -> Iterator[Row]:
    """A prompt a line; empty lines are passed over."""
    for number, line in enumerate(file, 1):
        if line.strip():
            yield f"{name}, line {number}", {"prompt": line.strip()}


def table_rows(file: TextIO, name: object) -> Iterator[Row]:
    """A row a line, below the line of headings."""
    reader = csv.reader(file, delimiter=SEPARATORS[Path(str(name)).suffix.lower()], strict=True)
    headings: list[str] = []
    try:
        for cells in reader:
            where = f"{name}, line {reader.line_num}"
            if not any(cell.strip() for cell in cells):
                continue
            if not headings:
                headings = [column_of(cell, where) for cell in cells]
                if twice := next((h for h in headings if headings.count(h) > 1), None):
                    raise InputError(f"{where}: the column {twice} stands there twice")
                continue
            if len(cells) > len(headings):
                raise InputError(f"{where}: {len(cells)} cells, and {len(headings)} headings; a comma wants quotes")
            yield where, dict(zip(headings, cells, strict=False))
    except csv.Error as error:
        raise InputError(f"{name}, line {reader.line_num}: {error}") from None


def json_rows(file: TextIO, name: object) -> Iterator[Row]:
    """An object a line; empty lines are passed over."""
    for number, line in enumerate(file, 1):
        where = f"{name}, line {number}"
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{where}: is no JSON: {error}") from None
        if not isinstance(row, dict):
            raise InputError(f'{where}: wanted an object, such as {{"prompt": "fox"}}, not a {type(row).__name__}')
        yield where, row


def jobs_of(rows: Iterable[Row], settings: Mapping[str, Any], folder: Path) -> list[Job]:
    """The pictures that rows ask for, in their order; `settings` are for what a row leaves open.

    Lists make products, with the seeds counted fastest; a picture that says no seed has 0. Files of pictures are looked
    for from `folder`. Raises `InputError` for an unknown column, a value that it does not take, and where nothing is
    asked for.
    """
    given = {column_of(name, "settings"): value for name, value in settings.items()}
    usual = {name: values_of(name, value, f"--{name}") for name, value in given.items()}
    jobs: list[Job] = []
    for number, (where, cells) in enumerate(rows, 1):
        own = {column_of(name, where): value for name, value in cells.items()}
        lists = usual | {name: found for name, value in own.items() if (found := values_of(name, value, where))}
        lists = {name: found for name, found in lists.items() if found}
        seeds = lists.pop("seed", [0])
        if len(jobs) + len(seeds) * math.prod(map(len, lists.values())) > MOST:
            raise InputError(f"{where}: the batch has more than {MOST:,} pictures; cut it into several")
        for values in itertools.product(*lists.values(), seeds):
            named = dict(zip([*lists, "seed"], values, strict=True))
            jobs.append(Job(len(jobs), number, with_files(named, folder, where)))
    if not jobs:
        raise InputError("the batch has no rows; wanted a prompt a line, or a table with a column `prompt`")
    return jobs


def with_files(settings: dict[str, Any], folder: Path, where: str) -> dict[str, Any]:
    """The settings with the files of pictures as paths. Raises `InputError` for one that is not there."""
    for name in settings:
        if columns()[name] is PICTURE:
            settings[name] = folder / settings[name]
            if not settings[name].is_file():
                raise InputError(f"{where}: {name}: there is no file {settings[name]}")
    return settings


def product_columns(jobs: Sequence[Job]) -> list[str]:
    """The columns other than the seed in which pictures of one row differ, in the order of the columns."""
    several: set[str] = set()
    for before, job in itertools.pairwise(jobs):
        if before.row == job.row:
            several |= {name for name in job.settings if job.settings[name] != before.settings.get(name)}
    return [name for name in columns() if name in several - {"seed", "prompt"}]
