"""The layers of the package: who imports whom, file by file, read from the source by `ast` without running anything."""

from __future__ import annotations

import ast
import functools
import graphlib
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "tinyldm"
FORBIDDEN = {"torch", "diffusers", "transformers", "safetensors", "accelerate", "tensorflow", "jax"}
THIRD_PARTY = {"numpy", "scipy", "PIL", "numba", "llvmlite", "tqdm", "regex"}

# The rooms from the ground up, and the libraries that each may import; a room imports itself and what lies below it.
ROOMS: dict[str, set[str]] = {
    "version": set(),
    "typing": {"numpy"},
    "errors": set(),
    "ops": {"numpy", "scipy"},
    "kernels": {"numpy", "numba", "llvmlite"},
    "tree": {"numpy"},
    "runtime": {"numpy"},
    "tracing": {"numpy"},
    "nn": {"numpy"},
    "checkpoints": {"numpy"},
    "text": {"numpy", "regex"},
    "models": {"numpy"},
    "diffusion": {"numpy"},
    "random": {"numpy"},
    "pipelines": {"numpy", "scipy", "PIL"},
    "cost": {"numpy"},
    "memory": set(),
    "batches": {"numpy", "PIL"},
    "architectures": {"numpy"},
    "bench": THIRD_PARTY,
    "scaling": set(),
    "descriptions": set(),
    "checkpoint_tools": set(),
    "doctor": {"numpy"},
    "golden": {"numpy", "PIL", "tqdm"},
    "verify": {"numpy"},
    "server": {"numpy", "PIL", "starlette", "uvicorn"},
    "__init__": set(),
    "commands": THIRD_PARTY,
    "cli": THIRD_PARTY,
    "__main__": set(),
}
# What a room leaves alone though it lies below: the mathematics knows nothing of files, nor a sampler of networks.
ALONE: dict[str, set[str]] = {
    "kernels": {"version", "typing", "errors", "ops"},
    "tree": {"version", "typing", "errors", "ops"},  # of ops what bfloat16 is
    "runtime": {"version", "typing", "errors", "ops", "kernels"},
    "tracing": {"version", "typing", "errors", "tree"},
    "nn": {"version", "typing", "errors", "ops", "tree", "runtime", "tracing"},
    "checkpoints": {"version", "typing", "errors", "ops", "tree"},  # of ops how bfloat16 is rounded
    "text": {"version", "typing", "errors", "tree", "checkpoints"},
    "diffusion": {"version", "typing", "errors"},
    "random": {"version", "typing", "errors", "diffusion"},
}
# Imported by one file each: pytest's plugin, and the extras.
EXTRAS = {"pytest_plugin.py": {"pytest"}, "hub.py": {"huggingface_hub"}}
EXTRAS |= {"completion.py": {"shtab"}, "cluster.py": {"distributed"}}

FILES = {
    ".".join(("tinyldm", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}


def imported(path: Path) -> set[str]:
    """Every module that a file imports anywhere, in functions too, by its full name."""
    found: set[str] = set()
    package = ("tinyldm", *path.relative_to(PACKAGE).parent.parts)
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            name = ".".join([*base, *([node.module] if node.module else [])])
            # `from tinyldm import ops` imports a module, `from tinyldm.errors import InputError` a name of one.
            found |= {f"{name}.{alias.name}" if f"{name}.{alias.name}" in FILES else name for alias in node.names}
        elif isinstance(node, ast.Call) and called(node.func) in ("__import__", "import_module"):
            found |= {arg.value for arg in node.args if isinstance(arg, ast.Constant) and isinstance(arg.value, str)}
    return found


def called(function: ast.expr) -> str:
    """The last name of what is called."""
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def room_of(module: str) -> str:
    """The room that a module of the package stands in."""
    return "__init__" if module == "tinyldm" else module.split(".")[1]


@pytest.mark.parametrize("module", FILES)
def test_arrows_run_downwards_only(module: str) -> None:
    room, names = room_of(module), imported(FILES[module])
    assert room in ROOMS, f"{room} has no place yet: give it one in {Path(__file__).name}"
    below = set(list(ROOMS)[: list(ROOMS).index(room)])
    allowed = {room, *ALONE.get(room, below)}
    for name in names:
        top = name.partition(".")[0]
        assert top not in FORBIDDEN, f"{module} imports {name}"
        if top == "tinyldm":
            assert name in FILES, f"{module} imports {name}, which is no module"
            assert room_of(name) in allowed, f"{module} imports {name}; it may import {sorted(allowed)}"
        else:
            extras = EXTRAS.get(FILES[module].name, set())
            known = top in sys.stdlib_module_names or top in ROOMS[room] | extras
            assert known, f"{module} imports {name}; {room} may import {sorted(ROOMS[room])}"


def test_no_circle() -> None:
    """Between files; a package's `__init__`, which Python runs before its modules, is a file like any other."""
    graph = {module: {n for n in imported(path) if n in FILES and n != module} for module, path in FILES.items()}
    order = list(graphlib.TopologicalSorter(graph).static_order())  # raises where there is one
    assert len(order) >= len(FILES)


def test_no_import_is_hidden() -> None:
    """What is imported for types alone is an arrow as well; only what must start quickly imports so."""
    hidden = [module for module, path in FILES.items() if "TYPE_CHECKING" in path.read_text(encoding="utf-8")]
    assert {room_of(module) for module in hidden} <= {"__init__", "commands"}


@functools.cache
def bound(module: str) -> set[str]:
    """The names that a module has when it is imported, and those of its own modules."""
    tree = ast.parse(FILES[module].read_text(encoding="utf-8"))
    names = {other.removeprefix(f"{module}.") for other in FILES if other.startswith(f"{module}.")}
    for node in ast.walk(tree):  # in functions too: one name more does no harm here
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
    return names


def test_scripts_import_what_is_there() -> None:
    """Those that make goldens, figures, measurements and checkpoints, of which tests run few."""
    root, lost = PACKAGE.parent, []
    scripts = [path for folder in ("docs", "tests", "weights") for path in (root / folder).rglob("*.py")]
    for path in scripts:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "tinyldm":
                known = bound(node.module or "") if node.module in FILES else set()
                lost += [f"{path.relative_to(root)}: {node.module}.{a.name}" for a in node.names if a.name not in known]
    assert len(scripts) > 150
    assert not lost
