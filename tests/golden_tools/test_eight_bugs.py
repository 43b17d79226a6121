"""Eight bugs that ports have, put into a copy of the computation: the tool names the module that has the bug."""

import numpy as np
import pytest
from golden_tools.planted import (
    half_in_one_block,
    missing_scaling_factor,
    patch_ops,
    skip_off_by_one,
    tanh_gelu,
    timestep_off_by_one,
    transposed_kernel,
    wrong_epsilon,
    wrong_head_size,
)
from scipy import special

import tinyldm
from tinyldm import ops
from tinyldm.golden import Golden
from tinyldm.golden.compare import compare
from tinyldm.golden.record import Recording, record
from tinyldm.golden.report_text import as_text
from tinyldm.golden.tolerance import AutoTolerance
from tinyldm.pipelines.request import request

BLOCK = "down_blocks.0.attentions.0.transformer_blocks.0"


@pytest.fixture
def model(checkpoint):
    return tinyldm.load(checkpoint, backend="reference", dtype="float64")


BUGS = {
    wrong_epsilon: "0000/unet/mid_block.resnets.0.norm2",
    tanh_gelu: f"0000/unet/{BLOCK}.ff.net.0",
    transposed_kernel: "0000/unet/mid_block.resnets.1.conv1",
    skip_off_by_one: "0000/unet/up_blocks.1",
    missing_scaling_factor: "0000/vae:decode.z",
    wrong_head_size: f"0000/unet/{BLOCK}.attn1",
    half_in_one_block: "0000/unet/mid_block.resnets.0.nonlinearity#2",
    timestep_off_by_one: "0000/unet:t",
}
HINTS = {
    missing_scaling_factor: "scaling_factor",
    wrong_epsilon: "a group norm with the epsilon 0.01 in place of 1e-05",
    tanh_gelu: "GELU in the tanh approximation in place of GELU",
}


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.__name__)
def test_the_module_with_the_bug_is_named(bug, model, oracle, run, monkeypatch):
    bug(*[model, monkeypatch][: bug.__code__.co_argcount])
    with run(model) as candidate:
        found = compare(oracle, candidate)
        assert found.status == 1
        assert found.culprit == BUGS[bug]
        assert HINTS.get(bug, "") in (found.first.hint or "")
        oracle.inputs = {}  # what if no inputs were recorded: the first wrong tensor is in that module
        found = compare(oracle, candidate)
        assert found.status == 1
        assert found.culprit.startswith(BUGS[bug])


def test_without_a_bug_there_is_nothing_to_name(model, oracle, run):
    with run(model) as candidate:
        assert compare(oracle, candidate).status == 0


def test_float32_passes_the_tolerance_of_float32_and_not_that_of_float64(checkpoint, oracle, run):
    with run(tinyldm.load(checkpoint, backend="reference")) as candidate:
        assert compare(oracle, candidate, AutoTolerance(oracle, "float32")).status == 0
        assert compare(oracle, candidate, AutoTolerance(oracle, "float16")).status == 0
        assert compare(oracle, candidate, AutoTolerance(oracle, "float32", factor=0.01)).status == 1


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.__name__)
def test_every_bug_stands_out_at_the_automatic_tolerance(bug, model, oracle, run, monkeypatch):
    bug(*[model, monkeypatch][: bug.__code__.co_argcount])
    with run(model) as candidate:
        found = compare(oracle, candidate, AutoTolerance(oracle, "float32"))
        assert found.status == 1
        assert found.culprit == BUGS[bug]


def test_gelu_is_the_exact_one():
    x = np.linspace(-3, 3, 7)
    np.testing.assert_allclose(ops.gelu(x), x * (1 + special.erf(x / np.sqrt(2))) / 2)


# More than one --------------------------------------------------------------------------------------------------------


def faulty(bugs, model, oracle, run, monkeypatch, **options):
    for bug in bugs:
        bug(*[model, monkeypatch][: bug.__code__.co_argcount])
    with run(model, **options) as candidate:
        return compare(oracle, candidate)


def test_faults_are_counted_where_they_were_made(model, oracle, run, monkeypatch):
    found = faulty([wrong_epsilon], model, oracle, run, monkeypatch)
    assert [f.key for f in found.faults] == ["0000/unet/mid_block.resnets.0.norm2"]
    assert f"{len(found.failed)} out of it, from 1 fault, which {len(found.failed) - 1} inherited" in as_text(found)
    assert "`tinyldm golden bisect` gives every module the golden's own inputs" in as_text(found)


def test_a_fault_that_stands_out_behind_another_one_is_told_too(model, oracle, run, monkeypatch):
    found = faulty([tanh_gelu, missing_scaling_factor], model, oracle, run, monkeypatch)
    assert [f.key for f in found.faults] == [f"0000/unet/{BLOCK}.ff.net.0", "0000/vae:decode.z"]
    text = as_text(found)
    assert "AND INDEPENDENTLY OF IT: 0000/vae:decode.z" in text
    assert "from 2 independent faults" in text
    assert "scaling_factor = 0.18215 is missing" in text


def test_faults_whose_inputs_are_right_are_independent(model, oracle, run, monkeypatch):
    """Of the time embedding, and of the text encoder."""

    def act(model):
        patch_ops(model, "unet", timestep_embedding=lambda original: lambda *a, **k: original(*a, **k) * 1.01)

    def norm(model):
        model.text_encoder.weights.bind([("encoder.layers.1.layer_norm1", {"eps": 1e-2})])

    found = faulty([act, norm], model, oracle, run, monkeypatch)
    assert [f.key for f in found.faults] == ["0000/text_encoder/encoder.layers.1.layer_norm1", "0000/unet/time_proj"]
    assert found.status == 1


def test_a_fault_that_shows_in_every_call_is_one(model, run, tmp_path, monkeypatch):
    record(model, tmp_path / "two", request("a", steps=3), Recording(inputs=True))
    patch_ops(model, "unet", timestep_embedding=lambda original: lambda *a, **k: original(*a, **k) * 1.01)
    with Golden(tmp_path / "two") as golden, run(model, prompt="a", steps=3, seed=0, guidance_scale=7.5) as candidate:
        found = compare(golden, candidate)
    assert [(f.module, f.calls) for f in found.faults] == [("0000/unet/time_proj", 3)]
    assert "(and in 2 more calls)" in as_text(found)
