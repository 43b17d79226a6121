"""Solutions to the exercises of chapter 12, porting."""

import sys
from pathlib import Path

import numpy as np
import pytest

from tinyldm import ops
from tinyldm.golden import Golden
from tinyldm.golden.compare import compare

sys.path.insert(0, str(Path(__file__).parents[2] / "docs" / "figures"))
import porting

FIRST = "0000/text_encoder/encoder.layers.0.self_attn"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of the golden file, and the port of the page as it is at the end: right."""
    folder = tmp_path_factory.mktemp("porting")
    return folder, porting.run("numpy", folder)[1]


@pytest.fixture
def port(whole, monkeypatch):
    monkeypatch.chdir(whole[0])
    return whole[1]


def diff(port):
    port["run"]("exercise.safetensors")
    with Golden("words.safetensors") as oracle, Golden("exercise.safetensors") as mine:
        return compare(oracle, mine)


def test_1_what_float32_hides():
    """1 / sqrt(v + e) changes by the share -de / (2 (v + e)): here by 4.5e-6 / v, which is 1e-4 where v is 0.045."""
    x, one, zero = np.random.default_rng(0).standard_normal((1, 64, 64, 8)), np.ones(8), np.zeros(8)
    for variance in (10, 1, 0.1, 0.045):
        right, wrong = (ops.group_norm(np.sqrt(variance) * x, one, zero, 2, eps) for eps in (1e-6, 1e-5))
        share = np.abs(wrong - right).max() / np.abs(right).max()
        assert share == pytest.approx(4.5e-6 / variance, rel=0.02)
    assert share == pytest.approx(1e-4, rel=0.02)


def test_2_a_third_fault(port, monkeypatch):
    """The last token sees all others in any case: that it alone is right gives the missing mask away."""
    monkeypatch.setitem(port, "hidden", lambda length: np.zeros((length, length)))
    first = diff(port).first
    assert first.key == f"{FIRST}.out_proj"
    assert first.hint == "all tokens but the last differ: a causal mask is missing"


def test_3_two_faults_that_cancel(port, monkeypatch):
    """What the names say is wrong is wrong, though nothing behind it is: a weight of one of both does not fit."""
    original = port["linear"]

    def linear(x, name):
        y = original(x / 2 if name.endswith("out_proj") else x, name)
        return port["tap"](name, 2 * y) if name.endswith("v_proj") else y

    monkeypatch.setitem(port, "linear", linear)
    found = diff(port)
    assert [r.key for r in found.failed] == [f"{FIRST.replace('0.self', f'{i}.self')}.v_proj" for i in range(4)]
    assert found.first.hint.startswith("the golden times 2 everywhere")


def test_4_another_layout(port, monkeypatch):
    """2: nothing is compared number by number that has another shape; but it is looked at what the shape could mean."""
    original = port["tap"]

    def tap(name, x):
        original(name, x.swapaxes(1, 2) if name == "embeddings" else x)
        return x

    monkeypatch.setitem(port, "tap", tap)
    found = diff(port)
    assert found.status == 2
    assert "the same values as the golden's axes in the order (0, 2, 1)" in found.first.hint
