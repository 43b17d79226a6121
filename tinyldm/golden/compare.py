"""Compare two golden files: every tensor's error, the first that is out of tolerance, and where errors were made."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tinyldm.checkpoints.base import quoted
from tinyldm.errors import InputError
from tinyldm.golden.comparison import FAILED, OK, SHAPE, UNJUDGED, Comparison, Result
from tinyldm.golden.faults import find_faults
from tinyldm.golden.hints import hint, known_factors
from tinyldm.golden.layouts import layout_of
from tinyldm.golden.metrics import measure
from tinyldm.golden.module_hints import module_hint
from tinyldm.golden.pairing import FilePair
from tinyldm.golden.store import Golden, selected
from tinyldm.golden.tolerance import Limits, Tolerance


def compare(
    golden: Golden,
    candidate: Golden,
    tolerance: Tolerance | None = None,
    *,
    select: Sequence[str] = ("*",),
    allow_missing: bool = False,
    allow_extra: bool = False,
    same_model: bool = True,
) -> Comparison:
    """Judge a candidate's file by a golden one.

    `select` limits the comparison to keys that match one of the patterns. Tensors that only one side has are a problem
    unless they are allowed, or the candidate has the outputs of all networks: then it is whole, and its modules may be
    others. `same_model` refuses files whose configurations, weights or settings differ.

    Raises `InputError` where nothing can be compared, or the golden itself holds NaN.
    """
    if same_model:
        check_same_run(golden, candidate)
    tolerance = tolerance or Tolerance()
    wanted, recorded = ([k for k in file.order if selected(k, select)] for file in (golden, candidate))
    shared = [key for key in wanted if key in candidate]
    if not shared:
        raise InputError(nothing_shared(golden, candidate, wanted, select))
    files = FilePair(golden, candidate)
    found = Comparison(
        results=[judge(files, key, tolerance) for key in shared],
        missing=[key for key in wanted if key not in candidate],
        extra=[key for key in recorded if key not in golden],
        tolerance=tolerance.describe(),
    )
    if all(r.status == UNJUDGED for r in found.results):
        raise InputError(f"{candidate.path}: not one tensor could be judged at the tolerance {found.tolerance}")
    found.faults = find_faults(files, tolerance, found.results)
    explain(files, found)
    outputs = [key for key in wanted if is_network_output(key)]
    complete = bool(outputs) and all(key in candidate for key in outputs)
    found.problems = problems(found, allow_missing or complete, allow_extra or complete)
    found.notes = notes(found, golden)
    return found


def explain(files: FilePair, found: Comparison) -> None:
    """Say of every fault what it looks like, from the inputs of its module or from its output alone."""
    first = {fault.key for fault in found.faults}
    for result in found.results:
        if result.key in first and result.status == FAILED:
            result.hint = module_hint(files, result.key) or output_hint(files, result.key)


def output_hint(files: FilePair, key: str) -> str | None:
    """What the difference of a tensor looks like, where both files have values of it."""
    if not (files.golden.has_values(key) and files.candidate.has_values(key)):
        return None
    g, c, _ = files.values(key, key)
    return hint(g, c, known_factors(files.golden.metadata))


def is_network_output(key: str) -> bool:
    """Whether a key is of what a network returns: the text encoder's context, the UNet's prediction, the pixels."""
    model, _, name = key.partition(":")
    return name in ("epsilon", "decode.pixels", "encode.mean") or (name == "context" and "text_encoder" in model)


def notes(found: Comparison, golden: Golden) -> list[str]:
    """What is to be said beside the verdict."""
    out = []
    theirs, ours = layout_of(found.extra), layout_of(found.missing)
    if theirs and ours and theirs != ours:
        out.append(other_layout(theirs))
    if len(found.failed) > len(found.faults):
        how = "" if golden.inputs else ", if they were recorded (--inputs)"
        out.append(
            "what follows a fault may hide another one: `tinyldm golden bisect` gives every module the golden's own "
            f"inputs{how}"
        )
    return out


def other_layout(names: str) -> str:
    """That the candidate's modules are named otherwise, and what to do about it."""
    whose = "the original layout's (CompVis)" if names == "compvis" else "diffusers'"
    return f"the candidate's names are {whose}: record the golden with --names {names} to compare module by module"


def nothing_shared(golden: Golden, candidate: Golden, wanted: Sequence[str], select: Sequence[str]) -> str:
    """Why two files can't be compared at all."""
    if not wanted:
        return f"{golden.path}: nothing to compare: no tensor matches {' '.join(select)}"
    have = quoted(candidate.order[0]) if candidate.order else "nothing"
    theirs, ours = layout_of(candidate.order), layout_of(wanted)
    why = f"; {other_layout(theirs)}" if theirs and theirs != ours else ""
    return (
        f"{candidate.path}: nothing to compare: it shares no tensor with {golden.path} "
        f"(its first is {have}, the golden's {quoted(wanted[0])}){why}"
    )


def problems(found: Comparison, allow_missing: bool, allow_extra: bool) -> list[str]:
    """Why two files are not comparable: tensors that only one of them has, or that have another shape."""
    shapes = [r for r in found.results if r.status == SHAPE]
    out = []
    for keys, allowed, where, option in (
        (found.missing, allow_missing, "missing from", "missing"),
        (found.extra, allow_extra, "only in", "extra"),
    ):
        if keys and not allowed:
            out.append(f"{first_and_more(keys)} {where} the candidate (--allow-{option} permits that)")
    if shapes:
        out.append(f"{first_and_more([r.key for r in shapes], ' tensors')}: {shapes[0].hint}")
    return out


def first_and_more(keys: Sequence[str], what: str = "") -> str:
    """The first of several keys, and how many more there are."""
    return quoted(keys[0]) + (f" and {len(keys) - 1} more{what}" if keys[1:] else "")


def check_same_run(golden: Golden, candidate: Golden) -> None:
    """Raise `InputError` where what both files say of the model and of the run disagrees."""
    for name in ("config", "weights_sha256", "settings"):
        ours, theirs = golden.metadata.get(name), candidate.metadata.get(name)
        if ours is None or theirs is None:
            continue
        found = first_difference(ours, theirs, name)
        if name == "settings" and found is None:
            found = other_kind(ours, theirs)
        if found is not None:
            where, a, b = found
            raise InputError(
                f"{candidate.path}: not the same {'run' if name == 'settings' else 'model'} as {golden.path}: "
                f"{where} is {quoted(b)}, the golden has {quoted(a)} (--any-model compares all the same)"
            )


def other_kind(ours: Any, theirs: Any) -> tuple[str, Any, Any] | None:
    """What differs where one file is of a fixture and the other of a run from a prompt."""
    a, b = kind_of_run(ours), kind_of_run(theirs)
    return None if a is None or b is None or a == b else ("it", a, b)


def kind_of_run(settings: Any) -> str | None:
    """What was recorded, where the settings say it."""
    if isinstance(settings, dict) and "fixture" in settings:
        return f"fixture {settings['fixture']}"
    return "run from a prompt" if isinstance(settings, dict) and "prompt" in settings else None


# How a run was computed may differ between the two sides: that is what is compared.
HOW = {"backend", "dtype", "precision", "threads", "low_memory", "select", "sample", "inputs", "rounding", "model"}


def first_difference(a: Any, b: Any, where: str) -> tuple[str, Any, Any] | None:
    """The first place at which two JSON values differ, of what both have."""
    if isinstance(a, dict) and isinstance(b, dict):
        for key in a:
            if key in b and not key.startswith("_") and not (where == "settings" and key in HOW):
                found = first_difference(a[key], b[key], f"{where}.{key}")
                if found is not None:
                    return found
        return None
    same = list(a) == list(b) if isinstance(a, list) and isinstance(b, list) else a == b
    return None if same else (where, a, b)


# One tensor -----------------------------------------------------------------------------------------------------------


def judge(files: FilePair, key: str, tolerance: Tolerance) -> Result:
    """What a tensor differs by, beside what it may; its inputs aside. Raises `InputError` for a golden with NaN."""
    golden, candidate = files.golden, files.candidate
    if golden.shape(key) != candidate.shape(key):
        return Result(key, SHAPE, used=float("inf"), hint=shape_hint(files, key))
    g, c, exact = files.values(key, key)
    if g.dtype.kind == "f" and np.isnan(g).any():
        raise InputError(f"{golden.path}: the golden tensor {quoted(key)} holds NaN: it can judge nothing")
    if g.dtype.kind == "f" and c.dtype.kind != "f":
        return Result(key, SHAPE, used=float("inf"), hint=f"dtype {c.dtype}, the golden has {g.dtype}")
    m = measure(g, c, candidate.dtype(key))
    limits = tolerance.limits(key, m, candidate.dtype(key))
    if limits is None and not m.nonfinite_differ:
        return Result(key, UNJUDGED, m, exact=exact)
    if limits is not None and not exact and key not in golden.sampled:
        limits = Limits(limits.max_abs)  # the mean over a few values may be above the mean over all
    used = float("inf") if m.nonfinite_differ or limits is None else limits.used(m)
    return Result(key, FAILED if used > 1 else OK, m, used, exact=exact)


def shape_hint(files: FilePair, key: str) -> str:
    """What another shape looks like."""
    found = output_hint(files, key) if files.whole(key) else None
    return found or f"shape {files.candidate.shape(key)}, the golden has {files.golden.shape(key)}"
