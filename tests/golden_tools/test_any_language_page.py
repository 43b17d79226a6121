"""What `docs/golden-any-language.md` says: its programs run where their libraries are, and what they write agrees."""

import ast
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tinyldm.cli import main
from tinyldm.golden import Golden

PAGE = (Path(__file__).parents[2] / "docs" / "golden-any-language.md").read_text(encoding="utf-8")
PROGRAMS = dict(re.findall(r"^## (NumPy|JAX|MLX)\n.*?^```python\n(.*?)^```", PAGE, flags=re.DOTALL | re.MULTILINE))
NEEDS = {"NumPy": ["numpy"], "JAX": ["jax", "safetensors"], "MLX": ["mlx", "safetensors"]}
# The functions of each library that the programs are known to call; another one is to be tried where the library is.
CALLS = {
    "NumPy": "arange ascontiguousarray concatenate cos exp frombuffer log float32 sin",
    "JAX": "arange concatenate cos exp jit log matmul silu sin",
    "MLX": "arange array concatenate cos exp load log save_safetensors sigmoid sin",
}


@pytest.mark.parametrize("language", PROGRAMS)
def test_the_writer_writes_what_agrees_with_the_oracle(language, checkpoint, oracle_file, tmp_path, capsys):
    missing = [name for name in NEEDS[language] if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"{' and '.join(missing)} is not installed")
    (tmp_path / "writer.py").write_text(PROGRAMS[language], encoding="utf-8")
    (tmp_path / "oracle.safetensors").symlink_to(oracle_file)
    subprocess.run([sys.executable, "writer.py", str(checkpoint)], check=True, cwd=tmp_path)
    mine = tmp_path / "mine.safetensors"
    assert main(["golden", "diff", str(oracle_file), str(mine), "--select", "0000/unet/time_*"]) == 0
    assert "5 of 5 tensors within tolerance" in capsys.readouterr().out
    with Golden(mine) as golden, Golden(oracle_file) as oracle:
        assert golden.order == [key for key in oracle.order if key.startswith("0000/unet/time_")]


@pytest.mark.parametrize("language", CALLS)
def test_the_writer_calls_what_it_is_known_to_call(language):
    """Holds a program to its library's calls where that is not installed."""
    prefixes = {"NumPy": ("np",), "JAX": ("jax", "jnp", "jax.nn"), "MLX": ("mx",)}[language]
    called = {
        node.func.attr
        for node in ast.walk(ast.parse(PROGRAMS[language]))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and ast.unparse(node.func.value) in prefixes
    }
    assert called == set(CALLS[language].split())
