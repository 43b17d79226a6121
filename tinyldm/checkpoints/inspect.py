"""`tinyldm inspect`: what a file or folder of weights is, what is in it, what is missing and what is too much."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from tinyldm.checkpoints.base import TensorSource, quoted
from tinyldm.checkpoints.folder import FLOWS
from tinyldm.checkpoints.hub import local
from tinyldm.checkpoints.learned_word import BY_ENCODER, NAMELESS, read_inversion
from tinyldm.checkpoints.lora import layers_of
from tinyldm.checkpoints.lora_names import split_layer
from tinyldm.checkpoints.lycoris import kind_of, rank_of
from tinyldm.checkpoints.opening import open_checkpoint
from tinyldm.checkpoints.recognised import Component, Config, Recognised
from tinyldm.checkpoints.source import open_source
from tinyldm.checkpoints.views import RenamedSource
from tinyldm.errors import CheckpointError, TinyldmError

# Name and shape of every weight that a class with a config has (`models.build.expected`).
Expected = Callable[[str, Config], Mapping[str, tuple[int, ...]]]
WORD_WIDTHS = ((768,), (1024,), (1280,))  # of a token in the published text encoders
SHOWN = 10  # names of a list before it is cut


def inspect(path: str | Path, expected: Expected, tensors: bool = True, **options: object) -> str:
    """A report on a checkpoint in any layout, several lines of text; with `tensors`, one for each tensor too.

    `expected` says which weights an architecture has, against which the file's are held. A file that is not recognised
    is reported as that, with its tensors; `options` are those of `open_checkpoint`.

    Raises `CheckpointError` only for what is no readable file of tensors.
    """
    place = local(path)
    try:
        found = open_checkpoint(place, **options)  # type: ignore[arg-type]
    except CheckpointError as error:
        if place.is_dir():
            raise
        source = open_source(place)
        title = adapter_title(source)
        lines = [f"{path}: {title}"] if title else [f"{path}: not recognised", f"  {error}"]
        return "\n".join([*lines, *beside_lines(source.extras), *(tensor_lines(source) if tensors else [])])
    return "\n".join(report(path, found, expected, tensors))


def adapter_title(source: TensorSource) -> str | None:
    """What a file is that changes a checkpoint instead of being one: a LoRA, or a learned word; None for anything else.

    A LoRA is told with its rank and the components that it changes, a word with its number of tokens.
    """
    with suppress(TinyldmError):
        return lora_title(layers_of(source), source)
    known = {*BY_ENCODER, *NAMELESS} & set(source.names)
    plain = len(source) == 1 and "." not in source.names[0] and source.shape(source.names[0])[-1:] in WORD_WIDTHS
    if not known and not plain:
        return None
    with suppress(TinyldmError):
        word = read_inversion(source, "*")
        widths = ", ".join(f"{name} {vectors.shape[1]} wide" for name, vectors in sorted(word.vectors.items()))
        return f"a learned word of {len(word.tokens)} tokens (textual inversion) for {widths}; --word adds it"
    return None


def lora_title(layers: Mapping[str, Mapping[str, str]], source: TensorSource) -> str:
    """The kinds, ranks and components of a LoRA's file, in a line."""
    ranks = {rank_of({part: source.shape(name) for part, name in parts.items()}) for parts in layers.values()}
    known = sorted(rank for rank in ranks if rank is not None)
    shown = f" of rank {known[0]}" + (f" to {known[-1]}" if len(known) > 1 else "") if known else ""
    kinds = sorted({kind_of(parts) or "incomplete layers" for parts in layers.values()})
    if any({"dora_scale", "magnitude"} & parts.keys() for parts in layers.values()):
        kinds = [f"DoRA of {', '.join(kinds)}"]
    changed = ", ".join(sorted({split_layer(layer)[0] or "unet" for layer in layers}))
    kind = ", ".join(kinds)
    return f"a {kind}{shown} over {len(layers)} layers of {changed}; --lora merges it into a checkpoint"


def beside_lines(extras: Mapping[str, str]) -> Iterator[str]:
    """What a file holds that is no tensor of a model, in one line."""
    if extras:
        yield f"  beside the weights: {shortened(f'{name} ({kind})' for name, kind in extras.items())}"


def report(path: str | Path, found: Recognised, expected: Expected, tensors: bool) -> Iterator[str]:
    """The lines on a checkpoint that was recognised."""
    yield f"{path}: {found.title}"
    for name, component in found.components.items():
        yield f"  {name:<16} {component_line(component)}"
    if found.scheduler is not None:
        schedule = found.scheduler
        usual = "flow_prediction" if schedule.get("_class_name") in FLOWS else "epsilon"
        predicted = schedule.get("prediction_type", usual)
        yield f"  {'schedule':<16} {schedule.get('_class_name')}, predicts {predicted}"
    for note in found.notes:
        yield f"  note: {note}"
    for name, component in found.components.items():
        yield from (f"  {name}: {line}" for line in complaints(component, expected))
    if found.extras:
        yield f"  known and not used, {len(found.extras)} tensors: {shortened(found.extras)}"
    yield from beside_lines(found.beside)
    if found.unknown:
        yield f"  not known, {len(found.unknown)} tensors: {shortened(found.unknown)}"
    if tensors:
        for name, component in found.components.items():
            yield ""
            yield f"{name}:"
            yield from tensor_lines(component.source)
        if found.file is not None and (unused := [*found.extras, *found.unknown]):
            yield from ("", "not used:")
            yield from tensor_lines(RenamedSource(found.file, {name: name for name in unused}))


def component_line(component: Component) -> str:
    """Class, number of tensors and parameters, stored types."""
    source = component.source
    count = sum(math.prod(source.shape(name)) for name in source.names)
    types = {source.dtype(name) for name in source.names}
    return f"{component.class_name}, {len(source)} tensors, {count:,} parameters, {'/'.join(sorted(types))}"


def complaints(component: Component, expected: Expected) -> Iterator[str]:
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
        yield f"missing, {len(missing)} tensors: {shortened(missing)}"
    if extra:
        yield f"without a place in the architecture, {len(extra)} tensors: {shortened(extra)}"


def tensor_lines(source: TensorSource) -> Iterator[str]:
    """Name, shape and type of every tensor, and what the file calls it where that is something else."""
    if not len(source):
        raise CheckpointError(f"{source.path}: holds no tensors")
    for name in source.names:
        shape, original = "×".join(map(str, source.shape(name))) or "scalar", source.original_name(name)
        renamed = f"  ({quoted(original)[1:-1]})" if original != name else ""
        yield f"  {quoted(name)[1:-1]}  {shape}  {source.dtype(name)}{renamed}"


def shortened(names: Iterable[str]) -> str:
    """The first names of a list, and how many more there are."""
    names = list(names)
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(quoted(name)[1:-1] for name in names[:SHOWN]) + more
