"""The whole kernel suite again for the vectors of other processors; LLVM splits what this one has not."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tinyldm.kernels.simd import TARGETS, target


def test_a_tile_fits_the_registers():
    for shape in TARGETS.values():
        registers = 32 if shape.name in ("avx512", "neon") else 16
        assert shape.tile_rows * shape.tile_vectors + shape.tile_vectors + 1 <= registers
        assert target() in TARGETS.values()


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(TARGETS))
def test_suite_on(name, tmp_path):
    if name == target().name:
        pytest.skip("this is what the suite runs on anyway")
    here = Path(__file__).parent
    environment = {**os.environ, "TINYLDM_SIMD": name, "TINYLDM_CACHE": str(tmp_path)}
    command = [sys.executable, "-m", "pytest", "-q", "-x", str(here), "--deselect", str(Path(__file__))]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=here.parents[1], check=False)
    assert done.returncode == 0, done.stdout[-3000:]
