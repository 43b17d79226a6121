"""The files of a batch: named by a template, checked before any work begins."""

from __future__ import annotations

import dataclasses
import difflib
import json
import re
import string
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tinyldm.batches.columns import columns
from tinyldm.batches.rows import Job, product_columns
from tinyldm.errors import InputError, quoted

TEMPLATE = "{row:04d}-{prompt}-{seed}"
LONGEST = 60  # characters that a text takes in a name
MOST_BYTES = 220  # of a name: file systems take 255, and a temporary file beside it has a longer one
UNFIT = re.compile(r'[\x00-\x1f<>:"|?*\\]')  # what some file system does not take in a name


def named(jobs: Sequence[Job], template: str | None, defaults: Mapping[str, Any]) -> list[Job]:
    """The jobs with the names of their files, under the folder of the batch, with `/` between folders.

    A template is a name with fields in braces: `row`, `picture` (its number in the batch, from 1), and the columns, of
    which those that a row does not say are as in `defaults`. Without one it is that of `TEMPLATE` and the columns in
    which the pictures of a row differ. Raises `InputError` for a template with unknown fields, for a name that is no
    file's of a picture or leads out of the folder, and where two pictures have the same.
    """
    if template is None:
        more = "".join(f"-{{{name}}}" for name in product_columns(jobs))
        template = f"{TEMPLATE}{more}.png"
    check_template(template)
    taken: dict[str, Job] = {}
    done = []
    for job in jobs:
        name = name_of(job, template, defaults)
        same = taken.setdefault(unicodedata.normalize("NFC", name).casefold(), job)
        if same is not job:
            differ = [c for c in columns() if job.settings.get(c) != same.settings.get(c)] or ["picture"]
            raise InputError(
                f"--name {template}: row {same.row} and row {job.row} would both be {name}; add {{{differ[0]}}}"
            )
        done.append(dataclasses.replace(job, name=name))
    return done


def check_template(template: str) -> None:
    """Raise `InputError` for fields that there are not, and for more than a field and its format in braces."""
    known = ["row", "picture", *columns()]
    try:
        pieces = list(string.Formatter().parse(template))
    except ValueError as error:
        raise InputError(f"--name {template}: {error}; a brace of the name itself is written twice") from None
    for _, field, form, conversion in pieces:
        if field is not None and field not in known:
            close = difflib.get_close_matches(field, known, n=1)
            hint = f"did you mean {{{close[0]}}}?" if close else f"known are {', '.join(known)}"
            raise InputError(f"--name {template}: unknown field {{{field}}}; {hint}")
        if conversion or "{" in (form or ""):
            raise InputError(f"--name {template}: in braces stand a field and its format only, such as {{row:04d}}")


def name_of(job: Job, template: str, defaults: Mapping[str, Any]) -> str:
    """The name of a job's file."""
    settings = {**dict.fromkeys(columns()), **defaults, **job.settings}
    values = {"row": job.row, "picture": job.index + 1} | {n: fit_for_a_name(v) for n, v in settings.items()}
    try:
        name = template.format(**values)
    except (ValueError, TypeError, MemoryError) as error:
        raise InputError(f"--name {template}: row {job.row}: {error or 'the name is too long'}") from None
    parts = name.split("/")
    if name.startswith("/") or any(part in ("", ".", "..") for part in parts) or UNFIT.search(name):
        raise InputError(f"--name {template}: {quoted(name)} is no name of a file inside the folder of the batch")
    if not name.lower().endswith(".png"):
        raise InputError(f"--name {template}: pictures are written as PNG, so the name must end in .png")
    if any(len(part.encode()) > MOST_BYTES for part in parts):
        raise InputError(f"--name {template}: row {job.row}: the name is longer than {MOST_BYTES} bytes: {name}")
    return name


def fit_for_a_name(value: Any) -> Any:
    """A value in a name: numbers as they are, for their formats; of texts the letters and digits."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return value
    if value is None:
        return "default"
    text = value.stem if isinstance(value, Path) else json.dumps(value) if isinstance(value, dict) else str(value)
    short = re.sub(r"\W+", "-", unicodedata.normalize("NFC", text)).strip("-")[:LONGEST].rstrip("-")
    while len(short.encode()) > MOST_BYTES // 2:
        short = short[:-1]
    return short or "none"
