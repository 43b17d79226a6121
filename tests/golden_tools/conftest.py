"""One float64 golden of the tiny checkpoint, with the inputs of every module, shared by the tests of the tools."""

import pytest

import tinyldm
from tinyldm.golden import Golden
from tinyldm.golden.record import Recording, record
from tinyldm.pipelines.request import request

RUN = {"prompt": "a", "steps": 1, "seed": 3, "guidance_scale": 4.0}


@pytest.fixture(scope="session")
def model64(checkpoint):
    return tinyldm.load(checkpoint, backend="reference", dtype="float64")


@pytest.fixture(scope="session")
def oracle_file(model64, tmp_path_factory):
    path = tmp_path_factory.mktemp("golden") / "oracle.safetensors"
    rounding = ["float32", "float16", "bfloat16"]
    record(model64, path, request(**RUN), Recording(inputs=True, rounding=rounding))
    return path


@pytest.fixture
def oracle(oracle_file):
    with Golden(oracle_file) as golden:
        yield golden


@pytest.fixture
def run(tmp_path):
    """Record a run of a model and open it."""

    def run_and_open(model, name="candidate.safetensors", inputs=True, **changes):
        record(model, tmp_path / name, request(**(RUN | changes)), Recording(inputs=inputs))
        return Golden(tmp_path / name)

    return run_and_open
