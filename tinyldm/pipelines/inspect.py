"""`tinyldm inspect`: what a file or folder of weights is, what is in it, what is missing and what is too much."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from tinyldm.checkpoints.base import TensorSource, quoted
from tinyldm.checkpoints.recognise import Component, Recognised
from tinyldm.checkpoints.source import open_source
from tinyldm.errors import CheckpointError, TinyldmError
from tinyldm.models.build import expected
from tinyldm.pipelines.checkpoint import open_checkpoint

SHOWN = 10  # names of a list before it is cut


def inspect(path: str | Path, tensors: bool = True, **options: object) -> str:
    """A report on a checkpoint in any layout, several lines of text; with `tensors`, one for each tensor too.

    A file that is not recognised is reported as that, with its tensors; `options` are those of `open_checkpoint`.
    Raises `CheckpointError` only for what is no readable file of tensors.
    """
    try:
        found = open_checkpoint(path, **options)  # type: ignore[arg-type]
    except CheckpointError as error:
        if Path(path).is_dir():
            raise
        source = open_source(path)
        lines = [f"{path}: not recognised", f"  {error}", *(tensor_lines(source) if tensors else [])]
        return "\n".join(lines)
    return "\n".join(report(path, found, tensors))


def report(path: str | Path, found: Recognised, tensors: bool) -> Iterator[str]:
    """The lines on a checkpoint that was recognised."""
    yield f"{path}: {found.title}"
    for name, component in found.components.items():
        yield f"  {name:<16} {component_line(component)}"
    if found.scheduler is not None:
        told = found.scheduler
        yield f"  {'schedule':<16} {told.get('_class_name')}, predicts {told.get('prediction_type', 'epsilon')}"
    for note in found.notes:
        yield f"  note: {note}"
    for name, component in found.components.items():
        yield from (f"  {name}: {line}" for line in complaints(component))
    if found.extras:
        yield f"  known and not used, {len(found.extras)} tensors: {some(found.extras)}"
    if found.unknown:
        yield f"  not known, {len(found.unknown)} tensors: {some(found.unknown)}"
    if tensors:
        for name, component in found.components.items():
            yield ""
            yield f"{name}:"
            yield from tensor_lines(component.source)


def component_line(component: Component) -> str:
    """Class, number of tensors and parameters, stored types."""
    source = component.source
    count = sum(math.prod(source.shape(name)) for name in source.names)
    types = Counter(source.dtype(name) for name in source.names)
    return f"{component.class_name}, {len(source)} tensors, {count:,} parameters, {'/'.join(sorted(types))}"


def complaints(component: Component) -> Iterator[str]:
    """What the architecture wants and the file lacks, and the other way round."""
    try:
        wanted = expected(component.class_name, component.config)
    except TinyldmError as error:
        yield str(error)
        return
    source = component.source
    missing = [name for name in wanted if name not in source]
    extra = [name for name in source.names if name not in wanted and not name.endswith("position_ids")]
    if missing:
        yield f"missing, {len(missing)} tensors: {some(missing)}"
    if extra:
        yield f"without a place in the architecture, {len(extra)} tensors: {some(extra)}"


def tensor_lines(source: TensorSource) -> Iterator[str]:
    """Name, shape and type of every tensor, and what the file calls it where that is something else."""
    if not len(source):
        raise CheckpointError(f"{source.path}: holds no tensors")
    for name in source.names:
        shape, original = "×".join(map(str, source.shape(name))) or "scalar", source.original_name(name)
        renamed = f"  ({quoted(original)[1:-1]})" if original != name else ""
        yield f"  {quoted(name)[1:-1]}  {shape}  {source.dtype(name)}{renamed}"


def some(names: Iterable[str]) -> str:
    """The first names of a list, and how many more there are."""
    names = list(names)
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(quoted(name)[1:-1] for name in names[:SHOWN]) + more
