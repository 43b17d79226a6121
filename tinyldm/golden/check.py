"""Re-run what a golden file says of itself, and compare: a regression test across versions, processors and threads."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from tinyldm.errors import InputError
from tinyldm.golden.compare import compare
from tinyldm.golden.comparison import Comparison
from tinyldm.golden.fixtures import record_fixture
from tinyldm.golden.guides import guided, load_options
from tinyldm.golden.names import compvis_names
from tinyldm.golden.record import Recording, record, request_of, weights_digest
from tinyldm.golden.store import Golden
from tinyldm.golden.tolerance import Tolerance
from tinyldm.pipelines.load import load
from tinyldm.pipelines.model import LatentDiffusion


def check(
    golden: Golden,
    model_path: str | Path | None = None,
    tolerance: Tolerance | None = None,
    *,
    backend: str | None = None,
    dtype: str | None = None,
    precision: str | None = None,
    threads: int | None = None,
) -> Comparison:
    """Repeat the run of a file that `record` wrote, with the recorded backend and type unless others are asked for.

    `model_path` stands in for the recorded place of the checkpoint; the weights must be the recorded ones. Raises
    `InputError` where the file does not say how it was made, or the weights are others.
    """
    settings, runtime = recorded(golden)
    asked = {"backend": backend, "dtype": dtype, "precision": precision}
    how: dict[str, Any] = {name: value or runtime[name] for name, value in asked.items()}
    model = load(model_path or golden.metadata.get("model"), threads=threads, **how, **load_options(golden))
    for name, network in model.networks.items():
        wanted = golden.metadata["weights_sha256"].get(name, "nothing")
        found = weights_digest(network)
        if found != wanted:
            raise InputError(
                f"{model.path}: the weights of the {name} are not those of {golden.path} "
                f"(sha256 {found[:12]}…, recorded {wanted[:12]}…)"
            )
    with tempfile.TemporaryDirectory(prefix="golden-check-") as folder:
        again = Path(folder) / "again.safetensors"
        repeat(golden, settings, guided(model, golden), again)
        with Golden(again) as candidate:
            return compare(golden, candidate, tolerance)


def recorded(golden: Golden) -> tuple[dict[str, Any], dict[str, str]]:
    """The settings and the runtime that a file states."""
    settings, runtime = golden.metadata.get("settings"), golden.metadata.get("runtime")
    digests = golden.metadata.get("weights_sha256")
    if not (isinstance(settings, dict) and isinstance(runtime, dict) and isinstance(digests, dict)):
        raise InputError(f"{golden.path}: does not say how it was made; `tinyldm golden record` writes files that do")
    lost = [name for name in settings.get("given") or () if name not in golden.given]
    if lost:
        raise InputError(
            f"{golden.path}: was recorded from given inputs, and does not hold {', '.join(lost)}: it can't be run again"
        )
    return settings, runtime


def repeat(golden: Golden, settings: dict[str, Any], model: LatentDiffusion, path: Path) -> None:
    """Record the same again."""
    rename = compvis_names(model) if golden.metadata.get("names") == "compvis" else None
    how = {name: settings[name] for name in ("select", "inputs", "sample")}
    recording = Recording(**how, values=not values_missing(golden), rename=rename)
    if "fixture" in settings:
        size = tuple(settings["size"]) if settings["size"] else None
        given = {name: golden[ref] for name, ref in golden.given.items()}
        record_fixture(model, path, settings["fixture"], recording, inputs=given, seed=settings["seed"], size=size)
        return
    record(model, path, request_of(settings), recording)


def values_missing(golden: Golden) -> bool:
    """Whether only statistics were kept."""
    return bool(golden.order) and not any(golden.has_values(key) for key in golden.order)
