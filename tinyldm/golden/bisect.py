"""Judge every module alone: feed it the golden's own inputs, so that no error of an earlier module reaches it.

The candidate is a Python callable, `candidate(key, inputs) -> output` (None for a module that it does not have), or a
command that reads a file of inputs and writes a file of outputs, both in the golden format.
"""

from __future__ import annotations

import glob
import importlib
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tinyldm.errors import InputError
from tinyldm.golden.compare import compare, explain
from tinyldm.golden.comparison import Comparison, Fault
from tinyldm.golden.pairing import FilePair
from tinyldm.golden.store import Golden, GoldenWriter, selected
from tinyldm.golden.tolerance import Tolerance
from tinyldm.golden.torch_recorder import to_numpy

Candidate = Callable[[str, list[np.ndarray]], Any]  # an array, a tensor of PyTorch, or None
INPUT = re.compile(r"(.*):input\.(\d+)")


def bisect(
    golden: Golden,
    candidate: Candidate | str | Sequence[str],
    tolerance: Tolerance | Callable[[Golden], Tolerance] | None = None,
    *,
    select: Sequence[str] = ("*",),
) -> Comparison:
    """Run each module of `golden` that has recorded inputs on the candidate, and compare what comes out.

    A command (text, or a list of arguments) is run once, with two more arguments: the file of inputs to read, in which
    the tensor `KEY:input.N` is input N of the module `KEY`, and the file of outputs to write, under `KEY`.

    `tolerance` may be a function of the file of outputs, whose types say what arithmetic the candidate is in.
    `AutoTolerance(golden, arithmetic, per_module=True)` holds each module to what an honest evaluation of it alone errs
    by.

    The comparison holds the modules that the candidate has; the others are its `missing`. Raises `InputError` where
    there is nothing to run, or the command fails.
    """
    keys = [key for key in golden.order if key in golden.inputs and selected(key, select)]
    if not keys:
        raise InputError(f"{golden.path}: nothing to bisect: no module with recorded inputs (record --inputs) matches")
    sampled = next((ref for key in keys for ref in golden.inputs[key] if not golden.has_whole(ref)), None)
    if sampled is not None:
        raise InputError(f"{golden.path}: the input {sampled!r} was sampled; bisect needs whole inputs")
    with tempfile.TemporaryDirectory(prefix="golden-bisect-") as folder:
        outputs = Path(folder) / "outputs.safetensors"
        if callable(candidate):
            run_callable(golden, keys, candidate, outputs)
        else:
            run_command(golden, keys, candidate, Path(folder) / "inputs.safetensors", outputs)
        with Golden(outputs) as file:
            file.inputs = {key: golden.inputs[key] for key in file.order if key in golden.inputs}
            return _judge(golden, file, keys, tolerance(file) if callable(tolerance) else tolerance)


def _judge(golden: Golden, outputs: Golden, keys: list[str], tolerance: Tolerance | None) -> Comparison:
    """Compare outputs only; every input is right by construction, so every failure is the module's own."""
    wanted = set(keys)
    stray = next((key for key in outputs.order if key not in wanted), None)
    if stray is not None:
        raise InputError(f"{outputs.path}: the candidate wrote {stray!r}, which was not asked for")
    found = compare(golden, outputs, tolerance, select=[*map(glob.escape, keys)], allow_missing=True, same_model=False)
    for result in found.results:
        result.inherited, result.input_error, result.input_key = False, 0.0, None
    found.faults = [Fault(r.key, r.key, "given the golden's own inputs, its output is wrong") for r in found.failed]
    found.notes = []  # nothing follows from another fault
    explain(FilePair(golden, outputs), found)
    return found


def run_callable(golden: Golden, keys: Sequence[str], candidate: Candidate, outputs: Path) -> None:
    """Call the candidate on the inputs of each module, and write down what it returns."""
    with GoldenWriter(outputs) as writer:
        for key in keys:
            array, tag = called(candidate, key, [np.array(golden[ref]) for ref in golden.inputs[key]])
            if array is not None:
                writer.add(key, array, tag=tag)


def called(candidate: Candidate, key: str, inputs: list[np.ndarray]) -> tuple[np.ndarray | None, str | None]:
    """What the candidate makes of a module's inputs, and its type where NumPy lacks it; an error of the candidate's
    own is told with the module.
    """
    try:
        result = candidate(key, inputs)
        array, tag = (None, None) if result is None else to_numpy(result)
    except Exception as error:
        shapes = ", ".join(str(x.shape) for x in inputs)
        said = f"{type(error).__name__}: {error}"
        raise InputError(f"the candidate failed at {key} (inputs {shapes}): {said} (--debug shows where)") from error
    if array is not None and array.dtype.kind not in "fiub":
        raise InputError(f"the candidate gave a {type(result).__name__} for {key}, not an array of numbers")
    return array, tag


def run_command(golden: Golden, keys: Sequence[str], command: str | Sequence[str], inputs: Path, outputs: Path) -> None:
    """Write the inputs, run the command, expect the outputs."""
    with GoldenWriter(inputs, {"asked": list(keys)}) as writer:
        for key in keys:
            for i, ref in enumerate(golden.inputs[key]):
                writer.add(f"{key}:input.{i}", golden[ref])
    words = shlex.split(command) if isinstance(command, str) else list(command)
    try:
        done = subprocess.run([*words, str(inputs), str(outputs)], capture_output=True, text=True, check=False)
    except OSError as error:
        raise InputError(f"the candidate command {words[0]!r} cannot be run: {error.strerror}") from None
    if done.returncode:
        said = done.stderr.strip().splitlines()
        reason = f": {said[-1]}" if said else ""
        raise InputError(f"the candidate command ended with status {done.returncode}{reason}")
    if not outputs.exists():
        raise InputError("the candidate command wrote no file of outputs")


def load_callable(name: str) -> Candidate:
    """The callable that `package.module:function` names; modules of the current folder are found too."""
    module, _, attribute = name.partition(":")
    if not module or not attribute:
        raise InputError(f"candidate {name!r}: wanted MODULE:FUNCTION")
    sys.path.insert(0, str(Path.cwd()))
    try:
        found = importlib.import_module(module)
        for part in attribute.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise InputError(f"candidate {name!r}: {error}") from None
    finally:
        sys.path.pop(0)
    if not callable(found):
        raise InputError(f"candidate {name!r}: is not callable")
    return found


def requested(file: Golden) -> dict[str, list[np.ndarray]]:
    """For a candidate command in Python: the inputs in a file that `bisect` wrote, by module."""
    out: dict[str, list[np.ndarray]] = {}
    for key in file.order:
        match = INPUT.fullmatch(key)
        if match is None:
            raise InputError(f"{file.path}: {key!r} is not an input")
        out.setdefault(match[1], []).append(file[key])
    return out
