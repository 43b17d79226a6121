"""What `docs/golden-format.md` says: its programs run, and what they write is read."""

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

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
