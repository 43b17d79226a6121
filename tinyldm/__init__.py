"""Latent diffusion in NumPy: text encoder, UNet, autoencoder, schedule and samplers, written to be read.

>>> import tinyldm
>>> model = tinyldm.load()                               # doctest: +SKIP
>>> image = model.text_to_image("red apple", seed=0)[0]  # doctest: +SKIP
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from tinyldm.version import __version__

if TYPE_CHECKING:
    from tinyldm import bench, cost, doctor, golden, random, verify
    from tinyldm.batches.run import batch
    from tinyldm.checkpoint_tools import convert, inspect
    from tinyldm.descriptions import describe, describe_cost
    from tinyldm.errors import CheckpointError, ConfigError, InputError, Stopped, TinyldmError
    from tinyldm.pipelines.canny import canny
    from tinyldm.pipelines.load import load
    from tinyldm.pipelines.model import LatentDiffusion

__all__ = [
    "CheckpointError",
    "ConfigError",
    "InputError",
    "LatentDiffusion",
    "Stopped",
    "TinyldmError",
    "__version__",
    "batch",
    "bench",
    "canny",
    "convert",
    "cost",
    "describe",
    "describe_cost",
    "doctor",
    "golden",
    "inspect",
    "load",
    "random",
    "verify",
]

# The modules of the names, each imported when it is first asked for: the command answers at once, and nothing large is
# imported before Ctrl-C and a lack of memory are looked after.
HOMES = {"batch": "batches.run", "canny": "pipelines.canny", "load": "pipelines.load"}
HOMES |= {"LatentDiffusion": "pipelines.model", "describe": "descriptions", "describe_cost": "descriptions"}
HOMES |= {"convert": "checkpoint_tools", "inspect": "checkpoint_tools"}
MODULES = ("bench", "cost", "doctor", "golden", "random", "verify")


def __getattr__(name: str) -> Any:
    if name in MODULES:
        return import_module(f"tinyldm.{name}")
    if name not in __all__:
        raise AttributeError(f"module 'tinyldm' has no attribute {name!r}")
    globals()[name] = found = getattr(import_module(f"tinyldm.{HOMES.get(name, 'errors')}"), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
