"""What there is to compute with: packages, processor, memory, caches, and which speed to expect of them.

    tinyldm doctor

The measurement takes about three seconds, after the kernels have been compiled once.
"""

from __future__ import annotations

import importlib.metadata
import math
import os
import platform
import re
import tempfile
import time
import tomllib
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tinyldm.memory import address_limit, available_bytes, container_bytes, human_bytes, machine_bytes
from tinyldm.version import __version__

VARIABLES = ("TINYLDM_", "HF_", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_", "XDG_CACHE_HOME")
MATMUL_SIZE, SECONDS = 512, 0.5  # of the square matrices that are multiplied; of each measurement
STEPS = 25
# Multiplications and additions of a guided step of Stable Diffusion 1.5 at 512×512: `tinyldm cost --architecture sd15`.
SD15_STEP_FLOP = 2 * 2 * 401_636_720_640
REQUIREMENT = re.compile(r"([A-Za-z0-9][\w.-]*)[^;]*(?:;\s*extra\s*==\s*['\"]([\w-]+)['\"])?")


@dataclass(frozen=True)
class Cache:
    """A folder that is kept between runs: what for, where, whether it can be written, and how much is in it."""

    holds: str
    path: str
    writable: bool
    bytes: int


@dataclass(frozen=True)
class Speed:
    """Seconds of a guided step and of the decoder of the embedded checkpoint, and the rate of a matrix product.

    `picture` are the seconds of a picture of 25 steps; `sd15_step` those to expect of a guided step of Stable Diffusion
    1.5 at 512×512, at the rate of NumPy's matrix product.
    """

    step: float
    decode: float
    matmul_gflops: float

    @property
    def picture(self) -> float:
        """Seconds of a picture of the embedded checkpoint."""
        return STEPS * self.step + self.decode

    @property
    def sd15_step(self) -> float:
        """Seconds to expect of a step of a model that is 400 times as large."""
        return SD15_STEP_FLOP / (1e9 * self.matmul_gflops)


@dataclass
class Examination:
    """All that was found; a package that is not installed has the version None, a problem is a sentence."""

    system: str
    packages: dict[str, str | None]
    extras: dict[str, list[str]]  # what is missing of each
    processor: str = ""
    vectors: str = ""
    matrix_unit: str = ""
    threads: int = 0
    memory: dict[str, int | None] = field(default_factory=dict)
    caches: list[Cache] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)
    speed: Speed | None = None
    problems: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """The examination in plain containers."""
        found = asdict(self)
        if self.speed is not None:
            found["speed"] |= {"picture": self.speed.picture, "sd15_step": self.speed.sd15_step}
        return {"tinyldm": __version__, **found}

    def as_text(self) -> str:
        """The examination as lines, problems last."""
        lines = [f"tinyldm {__version__}, {self.system}"]
        lines.append("packages   " + ", ".join(f"{name} {version or '-'}" for name, version in self.packages.items()))
        complete = ", ".join(extra for extra, missing in self.extras.items() if not missing)
        lines += [f"extras     complete: {complete or 'none'}"]
        lines += [f"  {extra:8} misses {', '.join(missing)}" for extra, missing in self.extras.items() if missing]
        lines += [f"processor  {self.processor}", f"  vectors  {self.vectors}", f"  bfloat16 {self.matrix_unit}"]
        lines.append(f"  threads  {self.threads}")
        known = {name: human_bytes(size) for name, size in self.memory.items() if size is not None}
        lines.append("memory     " + ", ".join(f"{size} {name}" for name, size in known.items()))
        for cache in self.caches:
            state = human_bytes(cache.bytes) if cache.writable else "can't be written"
            lines.append(f"{'cache':10} {cache.path}: {cache.holds}, {state}")
        lines += [f"{'variable':10} {name}={value}" for name, value in self.environment.items()]
        if (s := self.speed) is not None:
            rate = f"at the {s.matmul_gflops:.0f} GFLOP/s of a matrix product"
            lines += [
                f"speed      embedded checkpoint: {s.step:.3f} s a guided step, {s.picture:.1f} s for {STEPS} steps",
                f"           Stable Diffusion 1.5 at 512×512: about {s.sd15_step:.1f} s a guided step, {rate}",
            ]
        return "\n".join([*lines, *(f"problem    {problem}" for problem in self.problems)])


def examine(measure: bool = True) -> Examination:
    """Look at everything; with `measure`, time the embedded checkpoint, too. What goes wrong is among the problems."""
    needed, extras = requirements()
    packages = {name: version_of(name) for name in needed}
    system = f"Python {platform.python_version()} on {platform.platform(terse=True)}, {platform.machine()}"
    found = Examination(system, packages, {e: [n for n in names if not version_of(n)] for e, names in extras.items()})
    found.problems += [f"{name} is not installed" for name, version in packages.items() if version is None]
    found.environment = {name: value for name, value in sorted(os.environ.items()) if name.startswith(VARIABLES)}
    whole, left = machine_bytes(), container_bytes()
    found.memory = {"in all": whole, "available": available_bytes(), "of address space": address_limit()}
    if left is not None and left < (whole or math.inf):  # a container without a limit states an absurd one
        found.memory["left of the container"] = left
    for look in (look_at_processor, look_at_caches, *((look_at_speed,) if measure else ())):
        try:
            look(found)
        except Exception as error:  # whatever is broken here is what a user wants to read; the other looks go on
            found.problems.append(f"{look.__name__.replace('_', ' ')}: {type(error).__name__}: {error}")
    return found


def look_at_processor(found: Examination) -> None:
    """The processor, and what of it the kernels use."""
    from tinyldm import kernels
    from tinyldm.bench import machine

    target = kernels.target()
    fused = "" if target.fused else ", without a fused multiply-add"
    found.processor, found.threads = machine(), kernels.threads()
    found.vectors = f"{target.name}, {target.width} float32 numbers{fused}"
    found.matrix_unit = f"products by {kernels.unit_in_words()}"


def look_at_caches(found: Examination) -> None:
    """Where compiled kernels and downloaded checkpoints are kept."""
    from tinyldm.checkpoints.hub import downloads_folder
    from tinyldm.kernels.compile import cache_folder

    folder = cache_folder()
    if folder is None:
        found.problems.append("no folder for compiled kernels can be written: they are compiled in every run")
    else:
        found.caches.append(cache("compiled kernels (TINYLDM_CACHE)", folder))
    if (downloads := downloads_folder()) is not None:
        found.caches.append(cache("checkpoints of the hub (HF_HOME)", downloads))


def cache(holds: str, path: Path) -> Cache:
    """What is in a folder, and whether it, or the first folder above it that is there, can be written."""
    there = next((folder for folder in (path, *path.parents) if folder.exists()), path)
    files = (file for file in path.rglob("*") if file.is_file() and not file.is_symlink())
    size = sum(file.stat().st_size for file in files)
    return Cache(holds, str(path), is_writable(there), size)


def is_writable(folder: Path) -> bool:
    """Whether a file can be made in a folder; tried, since permissions alone do not tell."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def look_at_speed(found: Examination) -> None:
    """Time the embedded checkpoint on the Numba backend, and a matrix product."""
    import numpy as np

    from tinyldm.bench import unet_task
    from tinyldm.pipelines.load import load

    model = load(backend="numba")
    h, w = model.parts.latent_size()
    task, z = unet_task(model, np.random.default_rng(0), 2, h, w), np.zeros((1, model.vae.latent_channels, h, w))
    step, decode = best_seconds(lambda: task(model.unet)), best_seconds(lambda: model.decode(z))
    a = np.ones((MATMUL_SIZE, MATMUL_SIZE), np.float32)
    found.speed = Speed(step, decode, 2e-9 * MATMUL_SIZE**3 / best_seconds(lambda: a @ a))


def best_seconds(run: Callable[[], Any], most: float = SECONDS) -> float:
    """The shortest of the runs that fit into `most` seconds, after one that is not counted."""
    run()
    best, end = math.inf, time.perf_counter() + most
    while best == math.inf or time.perf_counter() + best < end:
        start = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - start)
    return best


def requirements() -> tuple[list[str], dict[str, list[str]]]:
    """The packages that are needed, and those of each extra: as installed, or of the source tree."""
    try:
        stated = importlib.metadata.requires("tinyldm") or []
    except importlib.metadata.PackageNotFoundError:
        stated = of_source_tree(Path(__file__).resolve().parents[1] / "pyproject.toml")
    needed: list[str] = []
    extras: dict[str, list[str]] = {}
    for name, extra in (match.groups() for text in stated if (match := REQUIREMENT.match(text))):
        (needed if extra is None else extras.setdefault(extra, [])).append(name)
    return needed, extras


def of_source_tree(file: Path) -> list[str]:
    """The requirements that the project's file states, in the form in which an installed package has them."""
    if not file.is_file():
        return []
    project = tomllib.loads(file.read_text(encoding="utf-8"))["project"]
    optional = project["optional-dependencies"].items()
    return [*project["dependencies"], *(f"{text}; extra == '{extra}'" for extra, texts in optional for text in texts)]


def version_of(package: str) -> str | None:
    """The version of an installed package; None without it. Nothing is imported."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
