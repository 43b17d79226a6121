"""Weights of 16 bits are packed from the bytes of the file, a block at a time: the same bits, and no float32 copy."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinyldm import kernels
from tinyldm.checkpoints.base import MemorySource, TensorSource, to_stored
from tinyldm.checkpoints.learned_word import TABLE, ExtendedTable
from tinyldm.checkpoints.lora import Strength, apply_lora
from tinyldm.checkpoints.names.links import Link, LinkedSource
from tinyldm.checkpoints.safetensors import read_safetensors, write_safetensors
from tinyldm.checkpoints.views import RenamedSource
from tinyldm.errors import CheckpointError
from tinyldm.golden.rounding import RoundedSource, rounding
from tinyldm.kernels.packing import FLOAT32, HALVES, PAIRS, TILE_COLUMNS, pack_weight
from tinyldm.kernels.rounding import steps_of
from tinyldm.nn import arranged, embedding, linears
from tinyldm.ops.bfloat16 import BFLOAT16, float32_to_bfloat16, widened
from tinyldm.runtime import Runtime
from tinyldm.tree import Weights

TAGS = ("F16", "BF16")
tags, sizes = st.sampled_from(TAGS), st.sampled_from([1, 3, 31, 32, 33, 70])


def half(tag: str, shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """Values over the whole range of the type, denormal numbers and zeros among them, as the file has them."""
    rng = np.random.default_rng([seed, *shape])
    values = rng.standard_normal(shape) * 2.0 ** rng.integers(-26, 12, shape) * rng.integers(0, 8, shape).clip(0, 1)
    if tag != "BF16":
        return values.astype({"F16": np.float16, "F32": np.float32, "F64": np.float64}[tag])
    return float32_to_bfloat16(values.astype(np.float32)).view(BFLOAT16)


def naive(weight: np.ndarray, gated: bool, form: int) -> np.ndarray:
    """Every number of the panels, put at its place alone: bits of float32, or of bfloat16."""
    c_out, c_in, taps = len(weight), weight.shape[1], int(np.prod(weight.shape[2:]))
    numbers = widened(weight).reshape(c_out, c_in, taps)
    bits = numbers.view(np.uint32) if form == FLOAT32 else float32_to_bfloat16(numbers)
    parts, steps = (2 if gated else 1), (2 * steps_of(c_in) if form == PAIRS else c_in)
    rows = c_out // parts
    panels = -(-rows // TILE_COLUMNS)
    packed = np.zeros((panels * parts, taps, steps * TILE_COLUMNS), bits.dtype)
    for n, k, t in np.ndindex(numbers.shape):
        part, column = divmod(n, rows)
        panel, column = divmod(column, TILE_COLUMNS)
        place = (k // 2 * TILE_COLUMNS + column) * 2 + k % 2 if form == PAIRS else k * TILE_COLUMNS + column
        packed[panel * parts + part, t, place] = bits[n, k, t]
    return packed


@settings(deadline=None, max_examples=40)
@given(
    st.sampled_from([*TAGS, "F32", "F64"]),
    sizes,
    st.sampled_from([1, 2, 5, 34, 300]),
    st.sampled_from([1, 2]),
    st.booleans(),
    st.integers(0, 9),
)
def test_panels_have_the_bits_of_the_file_rounded_once(tag, c_out, c_in, side, gated, seed):
    weight = half(tag, (2 * c_out if gated else c_out, c_in, side, side), seed)
    for form in (FLOAT32, HALVES, PAIRS):
        panels = pack_weight(weight, gated, form).panels
        wanted = naive(weight, gated, form)
        np.testing.assert_array_equal(panels.view(wanted.dtype).reshape(wanted.shape), wanted)


def test_every_number_of_16_bits_is_widened_as_it_is():
    """The infinities and NaNs too, which `linear` may be given by hand."""
    bits = np.arange(1 << 16, dtype=np.uint16).reshape(TILE_COLUMNS, -1)
    for weight in (bits.view(np.float16), bits.view(BFLOAT16)):
        panels = pack_weight(weight).panels.reshape(-1, TILE_COLUMNS).T
        np.testing.assert_array_equal(np.signbit(panels), bits >= 1 << 15)
        np.testing.assert_array_equal(panels, widened(weight))  # NaNs are equal here


@pytest.mark.parametrize("precision", ["fast", "strict", "bf16"])
@pytest.mark.parametrize("tag", TAGS)
def test_every_prepared_weight_is_that_of_the_float32_copy(tag, precision):
    matrices = [half(tag, (40, 18), 1), half(tag, (7, 18), 2)]
    whole = half(tag, (2 * TILE_COLUMNS, 18), 5)  # panels, which need not be joined first
    filters, few = half(tag, (33, 17, 3, 3), 3), half(tag, (5, 3, 3, 3), 4)
    made = []
    for of in (lambda w: w, widened):
        made.append(
            [
                kernels.prepare_linear(of(matrices[0]), False, precision),
                kernels.prepare_linear(of(matrices[0]), True, precision),
                kernels.prepare_linears([of(m) for m in matrices], precision).packed,
                kernels.prepare_linears([matrices[0], widened(matrices[1])], precision).packed,
                kernels.prepare_linears([whole, of(matrices[1]), widened(whole)], precision).packed,
                kernels.prepare_linears([of(whole), whole, of(matrices[1])], precision).packed,
                kernels.prepare_conv2d(of(filters), 1, precision).packed,
                kernels.prepare_conv2d(of(few), 2, precision).packed,
                *kernels.prepare_upsample_conv2d(of(few), precision).phases,
            ]
        )
    assert len(made[0]) == 12  # four phases, of few channels in every precision
    for ours, wanted in zip(*made, strict=True):
        np.testing.assert_array_equal(ours.panels.view(np.uint32), wanted.panels.view(np.uint32))
        assert (ours.shape, ours.gated, ours.form) == (wanted.shape, wanted.gated, wanted.form)


# From the file ------------------------------------------------------------------------------------------------------


def stored(path: Path, tag: str, **tensors: np.ndarray) -> Path:
    write_safetensors(path, tensors, dtype=tag)
    return path


def tree(source: TensorSource, precision: str = "bf16") -> Weights:
    return Weights(source, runtime=Runtime("numba", precision=precision))


def published(path: Path) -> TensorSource:
    return read_safetensors(path)


def renamed(path: Path) -> TensorSource:
    file = read_safetensors(path)
    return RenamedSource(file, {name: name for name in file.names})


def original(path: Path) -> TensorSource:
    file = read_safetensors(path)
    return LinkedSource(file, [Link(name, (name,)) for name in file.names])


@pytest.mark.parametrize("tag", TAGS)
@pytest.mark.parametrize("opened", [published, renamed, original])
def test_a_large_weight_is_never_there_in_float32(tag, opened, tmp_path):
    """What is held beside the packed weight is a fifth of the float32 copy at most; of three joined, their 16 bits."""
    weight = np.random.default_rng(0).standard_normal((4096, 256), np.float32)
    tensors = {f"{name}.weight": weight for name in ("a", "q", "k", "v")}
    w = tree(opened(stored(tmp_path / "a.safetensors", tag, **tensors)))
    packed, most = held_at_most(lambda: arranged(w.a, "linear"))
    assert packed.nbytes <= 0.51 * weight.nbytes
    assert most - packed.nbytes < 0.2 * weight.nbytes
    x = np.ones((1, 1, 256), np.float32)
    linears(x, w, "q")  # compiled
    _, most = held_at_most(lambda: linears(x, w, "q", "k", "v"))
    assert most < (3 * 0.5 + 3 * 0.5 + 0.3) * weight.nbytes


@pytest.mark.parametrize("tag", TAGS)
def test_of_a_table_no_more_than_rows_are_converted(tag, tmp_path):
    table = np.random.default_rng(0).standard_normal((4096, 256), np.float32)
    w = tree(published(stored(tmp_path / "a.safetensors", tag, **{"a.weight": table})))
    rows, most = held_at_most(lambda: embedding(np.array([[7, 4095, 7]]), w.a))
    np.testing.assert_array_equal(rows, w.a.weight[[[7, 4095, 7]]])
    assert most < 0.3 * table.nbytes


def test_linear_layers_of_different_inputs_are_not_joined():
    for first in (TILE_COLUMNS, 3):
        with pytest.raises(ValueError, match="dimensions"):
            kernels.prepare_linears([np.ones((first, 4), np.float32), np.ones((5, 6), np.float32)])


def held_at_most(run):
    """What comes out, and how much was held at most."""
    tracemalloc.start()
    try:
        return run(), tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("tag", TAGS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused(tag, value, tmp_path):
    weight = np.ones((40, 50), np.float32)
    weight[3, 4] = weight[39, 49] = value
    w = tree(read_safetensors(stored(tmp_path / "a.safetensors", tag, **{"a.weight": weight})))
    with pytest.raises(CheckpointError, match=r"a\.safetensors: the weight a\.weight holds 2 values that are NaN"):
        arranged(w.a, "linear")


def test_the_largest_finite_values_are_not_refused(tmp_path):
    for tag, largest in (("F16", 65504.0), ("BF16", 3.3895e38)):
        weight = np.array([[largest, -largest]], np.float32)
        w = tree(read_safetensors(stored(tmp_path / tag, tag, **{"a.weight": weight})))
        np.testing.assert_array_equal(widened(w.a.read_unconverted("weight")), widened(to_half(weight, tag)))


def to_half(values: np.ndarray, tag: str) -> np.ndarray:
    bits = to_stored(values, tag)
    return bits if tag == "F16" else bits.view(BFLOAT16)


@pytest.mark.parametrize("tag", ["F32", "F64"])
def test_other_types_are_read_as_before(tag, tmp_path):
    weight = np.random.default_rng(0).standard_normal((3, 4)).astype({"F32": np.float32, "F64": np.float64}[tag])
    source = read_safetensors(stored(tmp_path / "a", tag, **{"a.weight": weight}))
    assert source.read_half("a.weight") is None
    np.testing.assert_array_equal(tree(source).a.read_unconverted("weight"), weight.astype(np.float32))


# Views --------------------------------------------------------------------------------------------------------------


def test_links_split_and_join_them_unconverted(tmp_path):
    wide = np.random.default_rng(0).standard_normal((6, 4), np.float32)
    for tag in TAGS:
        file = read_safetensors(stored(tmp_path / tag, tag, qkv=wide, a=wide, b=2 * wide))
        links = [Link("qkv", ("q", "k", "v"), transposed=True), Link("joined", ("a", "b"))]
        with pytest.raises(CheckpointError):  # 4 rows do not split into three
            LinkedSource(file, links[:1])
        split = LinkedSource(file, [Link("qkv", ("q", "k", "v"))])
        joined = LinkedSource(file, links[1:], to="original")
        for view, names in ((split, "qkv"), (joined, ["joined"])):
            for name in names:
                np.testing.assert_array_equal(widened(view.read_half(name)), view.read(name))


def test_links_do_not_join_two_types():
    file = MemorySource({"a": np.ones((2, 2), np.float16), "b": np.ones((2, 2), np.float32)})
    joined = LinkedSource(file, [Link("joined", ("a", "b"))], to="original")
    assert joined.read_half("joined") is None
    np.testing.assert_array_equal(joined.read("joined"), np.ones((4, 2)))


def test_what_a_view_changes_is_not_given_as_it_lies_in_the_file():
    """A LoRA's sum is made in float32, and rounded once."""
    unet = MemorySource({f"{n}.to_q.weight": np.ones((4, 4), np.float16) for n in ("a", "b")}, path="unet")
    names = {"lora_unet_a_to_q.lora_down.weight": (1, 4), "lora_unet_a_to_q.lora_up.weight": (4, 1)}
    lora = MemorySource({name: np.full(shape, 0.01, np.float32) for name, shape in names.items()})
    strength = Strength(1.0)
    merged = apply_lora({"unet": unet}, lora, strength)["unet"]
    assert merged.read_half("a.to_q.weight") is None
    assert merged.read_half("b.to_q.weight").dtype == np.float16
    np.testing.assert_allclose(tree(merged)["a"].to_q.read_unconverted("weight"), 1.0001, rtol=1e-7)
    strength.value = 0.0
    assert merged.read_half("a.to_q.weight").dtype == np.float16

    encoder = MemorySource({TABLE: np.ones((4, 2), np.float16), "x": np.ones(2, np.float16)})
    table = ExtendedTable(encoder, np.ones((1, 2), np.float32))
    assert table.read_half(TABLE) is None
    assert table.read_half("x").dtype == np.float16
    assert RoundedSource(encoder, rounding("bfloat16")).read_half("x") is None
