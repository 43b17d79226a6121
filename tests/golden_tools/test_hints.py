"""What wrong tensors look like: each mistake is planted and recognised, and honest rounding is not taken for one."""

import numpy as np
import pytest
from golden_tools import planted
from golden_tools.planted import cut_off_to_bfloat16
from hypothesis import given, settings
from hypothesis import strategies as st

import tinyldm
from tinyldm.golden.compare import compare
from tinyldm.golden.hints import hint
from tinyldm.golden.module_hints import module_hint
from tinyldm.golden.pairing import FilePair
from tinyldm.golden.rounding import ROUNDINGS, rounded_model
from tinyldm.golden.tolerance import AutoTolerance


def noise(*shape):
    return np.random.default_rng(len(shape)).standard_normal(shape)


X = noise(2, 4, 6, 6)
SQUARE = noise(1, 5, 5, 5)
TOKENS = noise(2, 36, 4)


def border(x, width):
    """With other values in the outer pixels."""
    y = x + noise(*x.shape)[::-1]
    y[:, :, width:-width, width:-width] = x[:, :, width:-width, width:-width]
    return y


SWAPPED = X[:, [0, 3, 2, 1]]


@pytest.mark.parametrize(
    ("g", "c", "said"),
    [
        (X, np.moveaxis(X, 1, -1), "(N, H, W, C)"),
        (SQUARE, np.moveaxis(SQUARE, 1, -1), "(N, H, W, C)"),
        (X, X.swapaxes(2, 3), "(N, C, W, H)"),
        (X, np.ascontiguousarray(np.moveaxis(X, 1, -1)).reshape(X.shape), "channels-last memory"),
        (X, np.moveaxis(X.reshape(2, 4, 36), 1, 2), "tokens"),
        (TOKENS, np.moveaxis(TOKENS, 2, 1).reshape(2, 4, 6, 6), "an image"),
        (X, X * 0.18215, "scaling_factor = 0.18215"),
        (X, X / 0.18215, "scaling_factor = 0.18215 is missing"),
        (X, X * 2, "times 2 everywhere"),
        (X, -X, "sign"),
        (X, X[::-1], "halves of the batch"),
        (X, SWAPPED, "channels 1 and 3 are swapped"),
        (X, X[:, ::-1], "reverse order"),
        (TOKENS, np.roll(TOKENS, 2, axis=2), "halves of the channels"),
        (X, X[:, :, :, ::-1], "mirrored along axis 3"),
        (X * 1e5, np.where(np.abs(X) > 0.65, np.inf, X * 1e5), "float16 overflow"),
        (X, np.where(X > 1, np.nan, X), "NaN"),
        (X, X[:1], "half the batch"),
        (np.ones((2, 16), int), np.ones((1, 16), int), "half the batch"),
        (X, noise(2, 4, 5, 6), "the golden has (2, 4, 6, 6)"),
        (X, X * 1.001, "times 1.001 everywhere"),
        (X, X + 0.25, "plus 0.25 everywhere"),
        (X, X - 1e-4, "plus -0.0001 everywhere"),
        (X, X + noise(1, 4, 1, 1), "a bias is missing"),
        (TOKENS, TOKENS + noise(4), "a bias is missing"),
        (X, np.roll(X, 1, axis=3), "moved by one pixel right"),
        (X, np.roll(X, (-1, 1), axis=(2, 3)), "moved by one pixel up and right"),
        (TOKENS, np.roll(TOKENS, -1, axis=1), "the tokens moved one place back"),
        (X, border(X, 1), "only 1 pixel at the border differ"),
        (X, border(X, 2), "only 2 pixels at the border differ"),
        (X, np.where(np.arange(6) == 5, X * 1.1, X), "only 1 pixel at the right edge differ"),
        (X, cut_off_to_bfloat16(X), "cut off, and not rounded"),
        (X * 1e-3, cut_off_to_bfloat16(X * 1e-3).astype(np.float32), "cut off, and not rounded"),
    ],
)
def test_mistakes_are_recognised(g, c, said):
    assert said in hint(g, c, {"scaling_factor": 0.18215})


@settings(deadline=None, max_examples=30)
@given(st.integers(100, 1000))
def test_noise_is_not_taken_for_a_mistake(seed):
    rng = np.random.default_rng(seed)
    assert hint(X, X + 0.3 * rng.standard_normal(X.shape)) is None
    assert hint(X, rng.standard_normal(X.shape)) is None


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 1000), st.sampled_from(list(ROUNDINGS)), st.sampled_from([X.shape, SQUARE.shape, (2, 36), (3,)]))
def test_rounding_is_not_taken_for_a_mistake(seed, arithmetic, shape):
    x = np.random.default_rng(seed).standard_normal(shape)
    rounded = ROUNDINGS[arithmetic](x.astype(np.float32))
    assert hint(x, rounded) is None
    assert hint(x, rounded * (1 + 2**-10 * np.random.default_rng(seed + 1).standard_normal(shape))) is None
    assert hint(x, x) is None


# In a model -----------------------------------------------------------------------------------------------------------

BLOCK = "0000/unet/down_blocks.0.attentions.0.transformer_blocks.0"
LOOKS = {
    planted.wrong_epsilon: (
        "0000/unet/mid_block.resnets.0.norm2",
        "group norm with the epsilon 0.01 in place of 1e-05",
    ),
    planted.layer_norm_epsilon: (f"{BLOCK}.norm2", "a layer norm with the epsilon 0.001 in place of 1e-05"),
    planted.tanh_gelu: (f"{BLOCK}.ff.net.0", "GELU in the tanh approximation in place of GELU"),
    planted.quick_gelu_for_gelu: (f"{BLOCK}.ff.net.0", "quick GELU in place of GELU"),
    planted.no_causal_mask: ("0000/text_encoder/encoder.layers.0.self_attn.out_proj", "a causal mask is missing"),
    planted.reflected_padding: ("0000/vae/decoder.conv_in", "only 1 pixel at the border differ: another padding"),
    planted.padding_below_and_right: ("0000/vae/decoder.conv_in", "moved by one pixel up and left"),
    planted.bias_left_out: ("0000/unet/conv_in", "a bias is missing"),
    planted.truncated_bfloat16: ("0000/unet/time_embedding.act", "cut off, and not rounded"),
}


@pytest.mark.parametrize("automatic", [False, True])
@pytest.mark.parametrize("bug", LOOKS, ids=lambda bug: LOOKS[bug][1].replace(" ", "_"))
def test_a_planted_bug_is_recognised(bug, automatic, checkpoint, oracle, run):
    model = tinyldm.load(checkpoint, backend="reference", dtype="float64")
    bug(model)
    key, said = LOOKS[bug]
    with run(model) as candidate:
        found = compare(oracle, candidate, AutoTolerance(oracle, "float32") if automatic else None)
    assert found.first.key == key
    assert said in found.first.hint


def test_of_one_picture_only_the_difference_of_two_epsilons_shows(checkpoint, oracle, run):
    """A single sample has one variance a group, which the gain makes up for; and float32 hides it altogether."""
    model = tinyldm.load(checkpoint, backend="reference", dtype="float64")
    planted.epsilon_of_another_model(model)
    with run(model) as candidate:
        first = compare(oracle, candidate).first
        assert compare(oracle, candidate, AutoTolerance(oracle, "float32")).first is None
    assert first.key == "0000/vae/decoder.mid_block.resnets.0.norm1"
    assert first.hint == "a group norm with the epsilon 1e-05 in place of 1e-06"


@pytest.mark.parametrize("arithmetic", ROUNDINGS)
def test_no_tensor_of_an_honest_evaluation_looks_like_a_mistake(arithmetic, model64, oracle, run):
    with run(rounded_model(model64, arithmetic, 1)) as honest:
        files = FilePair(oracle, honest)
        said = {key: hint(oracle[key], honest[key]) or module_hint(files, key) for key in oracle.order}
    assert {key: text for key, text in said.items() if text} == {}


@pytest.mark.parametrize("precision", ["strict", "fast"])
def test_nor_does_one_of_the_kernels(precision, checkpoint, oracle, run):
    with run(tinyldm.load(checkpoint, backend="numba", precision=precision)) as honest:
        files = FilePair(oracle, honest)
        said = {key: hint(oracle[key], honest[key]) or module_hint(files, key) for key in oracle.order}
    assert {key: text for key, text in said.items() if text} == {}
