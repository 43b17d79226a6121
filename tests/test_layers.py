"""The layers of the package: who imports whom, read from the source by `ast`, without running anything."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "tinyldm"
FORBIDDEN = {"torch", "diffusers", "transformers", "safetensors", "accelerate", "tensorflow", "jax"}
THIRD_PARTY = {"numpy", "scipy", "PIL", "numba", "llvmlite", "tqdm", "regex"}

MATH = {
    "errors",
    "typing",
    "ops",
    "tree",
    "runtime",
    "tracing",
    "nn",
    "checkpoints",
    "text",
    "models",
    "diffusion",
    "random",
}

# What each part may import: of the package, and of the libraries. None stands on a later line.
LAYERS: dict[str, tuple[set[str], set[str]]] = {
    "errors": (set(), set()),
    "typing": (set(), {"numpy"}),
    "ops": ({"errors", "typing"}, {"numpy", "scipy"}),
    "kernels": ({"errors", "typing", "ops"}, {"numpy", "numba", "llvmlite"}),
    "tree": ({"errors", "typing"}, {"numpy"}),
    "runtime": ({"errors", "ops", "kernels"}, {"numpy"}),
    "tracing": ({"tree", "typing"}, {"numpy"}),
    "nn": ({"errors", "typing", "ops", "tree", "runtime", "tracing"}, {"numpy"}),
    "checkpoints": ({"errors", "tree", "models", "text"}, {"numpy"}),
    "text": ({"errors", "tree", "checkpoints"}, {"numpy", "regex"}),
    "models": ({"errors", "typing", "ops", "tree", "runtime", "tracing", "nn", "checkpoints"}, {"numpy"}),
    "diffusion": ({"errors", "typing"}, {"numpy"}),
    "random": ({"errors", "diffusion"}, {"numpy"}),
    "cost": (MATH, {"numpy"}),
    "golden": (MATH | {"kernels", "cost", "pipelines"}, {"numpy", "PIL", "tqdm"}),
    "pipelines": (MATH | {"cost"}, {"numpy", "PIL", "tqdm"}),
}
# Parts on top, which may import everything: the commands, and what `import tinyldm` offers.
TOP = {"__init__", "__main__", "architectures", "commands", "cli", "bench", "verify"}


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def part_of(path: Path) -> str:
    """The part of the package that a file belongs to: a folder, or a module at the top."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imports(path: Path) -> set[str]:
    """Every module that a file imports anywhere, in functions too, by its full name."""
    found: set[str] = set()
    package = ("tinyldm", *path.relative_to(PACKAGE).parent.parts)
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            name = ".".join([*base, *([node.module] if node.module else [])])
            # `from tinyldm import ops` imports the part, not only the package
            found |= {f"{name}.{alias.name}" for alias in node.names} if name == "tinyldm" else {name}
        elif isinstance(node, ast.Call) and name_of(node.func) in ("__import__", "import_module"):
            found |= {arg.value for arg in node.args if isinstance(arg, ast.Constant) and isinstance(arg.value, str)}
    return found


def name_of(function: ast.expr) -> str:
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_arrows_run_downwards_only(path: Path):
    part = part_of(path)
    assert part in LAYERS or part in TOP, f"{part} has no place in the layers yet: give it one in {Path(__file__).name}"
    below, libraries = LAYERS.get(part, (None, THIRD_PARTY))
    for name in imports(path):
        top, _, rest = name.partition(".")
        assert top not in FORBIDDEN, f"{path} imports {name}"
        if top != "tinyldm":
            assert top not in THIRD_PARTY or top in libraries, f"{path} imports {name}; {part} may import {libraries}"
        elif below is not None and (target := rest.partition(".")[0]) not in {part, "", "__version__"}:
            assert target in below, f"{path} imports {name}; {part} may import {sorted(below)}"


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_every_import_is_known(path: Path):
    """Of Python's own library, of the runtime requirements, or of the package: nothing else is there to import."""
    tops = {name.partition(".")[0] for name in imports(path)}
    # Which pytest alone imports, and an extra.
    extra = {"pytest_plugin.py": {"pytest"}, "hub.py": {"huggingface_hub"}}.get(path.name, set())
    assert tops <= {*sys.stdlib_module_names, *THIRD_PARTY, "tinyldm", *extra}
