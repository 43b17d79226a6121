"""What `docs/golden-format.md` says: its programs run, and what they write is read."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tinyldm.cli import main
from tinyldm.golden import Golden

PAGE = (Path(__file__).parents[2] / "docs" / "golden-format.md").read_text(encoding="utf-8")
COMPILERS = {"cpp": ["g++", "-std=c++17", "-Wall", "-Werror", "-o", "PROGRAM"], "rust": ["rustc", "-o", "PROGRAM"]}


@pytest.mark.parametrize("language", COMPILERS)
def test_the_writers_on_the_page_write_golden_files(language, tmp_path):
    words = [str(tmp_path / "writer") if word == "PROGRAM" else word for word in COMPILERS[language]]
    if shutil.which(words[0]) is None:
        pytest.skip(f"{words[0]} is not installed")
    (source,) = re.findall(rf"^```{language}\n(.*?)^```", PAGE, flags=re.DOTALL | re.MULTILINE)
    file = tmp_path / f"writer.{language[:3] if language == 'cpp' else 'rs'}"
    file.write_text(source)
    subprocess.run([*words, str(file)], check=True)
    subprocess.run([words[-1], str(tmp_path / "golden")], check=True)
    with Golden(tmp_path / "golden") as golden:
        assert golden.order == ["0000/unet/conv_in", "0000/unet:epsilon"]
        np.testing.assert_array_equal(
            golden["0000/unet/conv_in"], np.arange(1, 7, dtype=np.float32).reshape(1, 2, 1, 3)
        )


def test_every_metadata_entry_is_on_the_page(oracle):
    for name in ["format", "format_version", *oracle.metadata]:
        assert f"`{name}`" in PAGE


def test_every_boundary_is_on_the_page(oracle):
    for key in oracle.order:
        if ":" in key:
            name = key.partition(":")[2]
            assert f":{name}`" in PAGE


def test_the_first_commands_work_in_an_empty_folder(tmp_path, monkeypatch, capsys):
    (commands,) = re.findall(r"^```sh\n(.*?)^```", PAGE, flags=re.DOTALL | re.MULTILINE)
    monkeypatch.chdir(tmp_path)
    for line in commands.splitlines():
        program, *arguments = shlex.split(line)
        assert program == "tinyldm"
        assert main(arguments) == 0
    assert "tensors within tolerance" in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.safetensors", "oracle.safetensors", "report.html"]


def test_a_port_in_pytorch_passes_without_an_option(tmp_path, monkeypatch, capsys):
    """The program of the page, with diffusers, against an oracle of the same run."""
    pytest.importorskip("diffusers")
    (source,) = re.findall(r"^```python\n(import torch\n.*?)^```", PAGE, flags=re.DOTALL | re.MULTILINE)
    monkeypatch.chdir(tmp_path)
    subprocess.run([sys.executable, "-c", source], check=True)
    record = ["golden", "record", "-o", "oracle.safetensors", "--prompt", "red apple", "--steps", "1"]
    assert main([*record, "--dtype", "float64"]) == 0
    assert main(["golden", "diff", "oracle.safetensors", "mine.safetensors"]) == 0
    assert (
        "3 more are only in the golden and were not compared: noise, 0000/latents, picture" in capsys.readouterr().out
    )
