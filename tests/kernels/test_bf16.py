"""`precision="bf16"`: inputs of products rounded once, everything else float32, on whatever multiplies them.

The reference is `tinyldm.ops` in float64 on inputs and weights rounded beforehand. What is left of an operator that
rounds nothing in between is float32 error; where something is rounded in between (behind a norm, a softmax), a value
near a tie may go the other way, and the difference is that of a few roundings to bfloat16 in many.
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numba
import numpy as np
import pytest
from golden.kernels.cases import CASES, arrays, call, relative_rms
from golden.provenance import load_golden
from hypothesis import given, settings
from hypothesis import strategies as st
from kernels import compiled_tiles, emulated_tiles
from llvmlite import binding

import tinyldm
from tinyldm import kernels, nn, ops
from tinyldm.cli import main
from tinyldm.commands.golden.judging import arithmetic_of
from tinyldm.errors import InputError
from tinyldm.kernels import packing, permission, simd, tiles
from tinyldm.kernels.conv import PreparedConv
from tinyldm.kernels.simd import DOTS, TILES, WIDENED, unit
from tinyldm.ops.bfloat16 import bfloat16_to_float32, float32_to_bfloat16, rounded
from tinyldm.runtime import Runtime

FORMS = [packing.HALVES] + [packing.PAIRS] * (unit() != WIDENED)
SINGLE = 4e-6  # of the largest result: float32's error
DOUBLE = 1.5e-3  # RMS: roundings to bfloat16 that went the other way
seeds, few = st.integers(0, 2**32 - 1), st.integers(1, 5)
channels = st.sampled_from([1, 2, 5, 16, 31, 33, 64, 97, 130])
property_test = settings(deadline=None, max_examples=25)
whole = settings(deadline=None, max_examples=10)


def normal(seed, *shape):
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def wide(*given):
    """Rounded, as float64."""
    return [rounded(a).astype(np.float64) for a in given]


def close(y, oracle, scale=0.0):
    """Float32's error of the largest result, or of `scale` where something larger went into it."""
    assert y.dtype == np.float32
    assert y.shape == oracle.shape
    assert np.abs(y - oracle).max(initial=0) <= SINGLE * max(np.abs(oracle).max(initial=0), scale, 1e-30)


# Rounding -----------------------------------------------------------------------------------------------------------

bits = st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=70)
EXACT = [0, 0x80000000, 0x7F800000, 0xFF800000, 0x7FC00001, 0x3F808000, 0x3F818000, 0x7F7FFFFF, 0x00000001, 0x7FFFFFFF]


@property_test
@given(bits)
def test_to_the_nearest_even(values):
    """Against the exact neighbours: the nearer one, of two equally near the even one; NaN stays NaN."""
    x = np.array([*EXACT, *values], np.uint32).view(np.float32)
    y = float32_to_bfloat16(x)
    with np.errstate(all="ignore"):
        for value, found in zip(x, y, strict=True):
            lower = np.uint32(value.view(np.uint32) & 0xFFFF0000)
            ends = [lower, np.uint32(lower + 0x10000)]
            if not np.isfinite(value):
                back = bfloat16_to_float32(np.array([found]))[0]
                assert np.isnan(back) == np.isnan(value)
                assert np.isnan(value) or back == value
                continue
            largest = np.float64(2) ** 128
            there = [abs(float(e.view(np.float32))) if np.isfinite(e.view(np.float32)) else largest for e in ends]
            distances = [abs(t - abs(float(value))) for t in there]
            nearest = ends[int(np.argmin(distances))]
            if distances[0] == distances[1]:
                nearest = next(e for e in ends if not e & 0x10000)
            assert found == nearest >> 16


@property_test
@given(bits, st.sampled_from(FORMS))
def test_kernels_round_as_numpy_does(values, form):
    """Multiplied by one, every number comes out as it was rounded."""
    x = np.array([*EXACT, *values], np.uint32).view(np.float32)[:, None]
    with np.errstate(all="ignore"):
        y = kernels.linear(x, packing.pack_weight(np.ones((1, 1), np.float32), form=form))
        wanted = rounded(x)
    if form == packing.PAIRS:  # which counts denormal numbers as zero
        wanted = np.where(np.abs(wanted) < 2.0**-126, 0, wanted)
    np.testing.assert_array_equal(y, wanted)


@property_test
@given(bits, st.sampled_from(FORMS), st.integers(1, 80))
def test_whole_vectors_round_as_single_numbers_do(values, form, channels):
    """Multiplied by the identity: rows of x and panels of weights are rounded many at a time."""
    x = np.resize(np.array([*EXACT, *values], np.uint32).view(np.float32), (3, channels))
    x[~np.isfinite(x) | (np.abs(x) < 2.0**-126) | (np.abs(x) > 1e38)] = 1 / 3  # times zero, they are not zero
    one = np.eye(channels, dtype=np.float32)
    for y in (
        kernels.linear(x, packing.pack_weight(one, form=form)),
        kernels.linear(one, packing.pack_weight(x, form=form)).T,
    ):
        np.testing.assert_array_equal(y, rounded(x))


# Operators ----------------------------------------------------------------------------------------------------------


@property_test
@given(seeds, st.integers(1, 150), channels, channels, st.sampled_from(FORMS), st.booleans())
def test_linear(seed, tokens, c_in, c_out, form, with_bias):
    x, w, r = normal(seed, tokens, c_in), normal(seed, c_out, c_in), normal(seed, tokens, c_out)
    b = normal(seed, c_out) if with_bias else None
    packed = packing.pack_weight(w, form=form)
    oracle = ops.linear(*wide(x, w), b)
    close(kernels.linear(x, packed, b), oracle)
    close(kernels.linear_residual(x, packed, b, r), oracle + r)
    close(kernels.linear_activation(x, packed, b, "silu"), ops.silu(oracle), np.abs(oracle).max())
    gated = packing.pack_weight(np.concatenate([w, w[::-1]]), gated=True, form=form)
    a, g = oracle - (0 if b is None else b), ops.linear(*wide(x, w[::-1]))
    close(kernels.linear_geglu(x, gated), a * ops.gelu(g), np.abs(a).max() * np.abs(g).max())


@property_test
@given(seeds, few, st.integers(1, 13), channels, channels, st.sampled_from([1, 3]), st.integers(1, 2),
       st.sampled_from(FORMS))  # fmt: skip
def test_direct_convolution(seed, n, side, c_in, c_out, size, stride, form):
    x, w, b = normal(seed, n, side, side + 1, c_in), normal(seed, c_out, c_in, size, size), normal(seed, c_out)
    filters = PreparedConv("direct", packing.pack_weight(w, form=form))
    oracle = ops.conv2d(*wide(x, w), b, stride=stride, padding=size // 2)
    close(kernels.conv2d(x, filters, b, stride=stride, padding=size // 2), oracle)


@property_test
@given(seeds, few, st.integers(1, 13), channels, channels)
def test_winograd_is_that_of_rounded_values(seed, n, side, c_in, c_out):
    """To the last bit what float32 computes from inputs and filters that were rounded beforehand."""
    x, w = normal(seed, n, side, side, c_in), normal(seed, c_out, c_in, 3, 3)
    halves = PreparedConv("winograd", packing.pack_weight(w, form=packing.HALVES))
    single = PreparedConv("winograd", packing.pack_weight(rounded(w)))
    found, wanted = (kernels.conv2d(a, f, padding=1) for a, f in ((x, halves), (rounded(x), single)))
    np.testing.assert_array_equal(found, wanted)
    assert single.nbytes == 2 * halves.nbytes


@property_test
@given(seeds, few, st.integers(1, 70), st.integers(1, 300), st.integers(1, 3), channels, st.booleans())
def test_attention(seed, n, queries, keys, heads, d, masked):
    q, k, v = (normal(seed + i, n, length, heads * d) for i, length in enumerate((queries, keys, keys)))
    mask = np.where(normal(seed, 1, heads, queries, keys) < -1, -np.inf, 0) if masked else None
    y = kernels.attention(q, k, v, heads, None if mask is None else mask.astype(np.float32), precision="bf16")
    scaled = q * np.float32(1 / np.sqrt(d))
    oracle = ops.attention(*wide(scaled, k, v), heads, mask, 1.0)
    assert np.abs(y - oracle).max() <= 2**-7 * np.abs(v).max()  # of each weight one rounding
    assert np.abs(y).max() <= np.abs(v).max() * (1 + 2**-7)


def test_attention_without_keys_and_masked_entirely():
    q, none, blind = (
        np.ones((1, 3, 8), np.float32),
        np.ones((1, 0, 8), np.float32),
        np.full((3, 3), -np.inf, np.float32),
    )
    assert (kernels.attention(q, none, none, 2, precision="bf16") == 0).all()
    assert (kernels.attention(q, q, q, 2, blind, precision="bf16") == 0).all()


def prepared(case, inputs):
    """A case's inputs with its weights prepared for bf16."""
    operator, shapes, settings_ = CASES[case]
    given = list(inputs)
    for i, (name, array) in enumerate(zip(shapes, inputs, strict=True)):
        if name == "w.weight" and operator == "upsample_conv2d":
            given[i] = kernels.prepare_upsample_conv2d(array, "bf16")
        elif name == "w.weight" and array.ndim == 4:
            given[i] = kernels.prepare_conv2d(array, settings_.get("stride", 1), "bf16")
        elif name == "w.weight":
            given[i] = kernels.prepare_linear(array, operator == "linear_geglu", "bf16")
    return given


ROUNDING = [case for case, (operator, *_) in CASES.items() if "linear_" in case or "conv" in operator]


@pytest.mark.parametrize("case", [case for case in ROUNDING if CASES[case][0] != "linears"])
def test_error_beside_that_of_pytorch(case):
    """PyTorch keeps activations in bfloat16; figures stored from a run."""
    pytorch, _ = load_golden("kernels/bf16_errors")
    inputs = arrays(case)
    oracle = call(ops, case, [a.astype(np.float64) for a in inputs])
    error = relative_rms(call(kernels, case, prepared(case, inputs)), oracle)
    assert 1e-4 < error <= pytorch[case].item()


# Networks -----------------------------------------------------------------------------------------------------------


def test_weights_take_half_the_memory():
    for weight in (normal(0, 320, 320, 3, 3), normal(0, 640, 640, 1, 1)):
        fast, half = (kernels.prepare_conv2d(weight, 1, precision).nbytes for precision in ("fast", "bf16"))
        assert half <= 0.51 * fast
    assert kernels.prepare_linear(normal(0, 640, 320), precision="bf16").nbytes * 2 == 640 * 320 * 4


def test_unknown_precision():
    with pytest.raises(InputError, match="known are fast, strict, bf16"):
        kernels.prepare_linear(normal(0, 3, 3), precision="bf17")


@pytest.mark.parametrize("prompt", ["red apple", "crab", "tiger face"])
def test_a_picture_of_the_embedded_checkpoint(prompt):
    """At most 3 levels from the float32 one on 99 % of all values, and not the same, at the README's settings.

    Few steps and strong guidance magnify any difference: at 8 and 7.5 it is 97 to 99 %, whatever rounds.
    """
    fast, half = (
        np.asarray(tinyldm.load(precision=precision).text_to_image(prompt, guidance_scale=4, seed=0)[0]).astype(int)
        for precision in ("fast", "bf16")
    )
    assert (fast != half).any()
    assert np.mean(np.abs(fast - half) <= 3) >= 0.99


# The matrix unit ----------------------------------------------------------------------------------------------------


def multiply(rows, a_offset, b, c, c_stride, depth, accumulate, count, ahead):
    tiles.multiply_tiles(rows, a_offset, b, c, c_stride, depth, accumulate, count, ahead)


@pytest.fixture(scope="module")
def emulated():
    """`tiles.multiply_tiles` in ordinary instructions."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiles, "Unit", emulated_tiles.EmulatedUnit)
        compiled = numba.njit(multiply)
        compiled.compile((numba.int64,) * 9)
        return compiled


def values(rng, kind, *shape):
    """Normal values, over many powers of e, around the smallest numbers, or any bits at all but NaN."""
    x = rng.standard_normal(shape) * np.exp(rng.uniform(-6, 6, shape) * (kind == "wide"))
    if kind == "tiny":
        x *= 2.0 ** rng.uniform(-70, -55, shape)
    if kind == "denormal":
        x *= 2.0 ** rng.uniform(-135, -120, shape)
    if kind == "large":
        x *= 2.0 ** rng.uniform(55, 66, shape)
    return rounded(x.astype(np.float32))


@pytest.mark.skipif(unit() == WIDENED and kernels.target().name != "avx512", reason="a panel is 32 columns wide")
@settings(deadline=None, max_examples=40, suppress_health_check=[])
@given(seed=seeds, count=st.integers(1, 70), blocks=st.integers(1, 4), add=st.booleans(),
       kind=st.sampled_from(["normal", "wide", "tiny", "denormal", "large"]))  # fmt: skip
def test_the_emulated_unit_and_its_tiles(emulated, seed, count, blocks, add, kind):
    """The code around the instructions, and the instructions in place of them, against NumPy, bit for bit."""
    rng = np.random.default_rng(seed)
    k, height = 32 * blocks, -(-count // 16) * 16
    a, b = values(rng, kind, height, k), values(rng, kind, k, 32)
    packed = np.ascontiguousarray(float32_to_bfloat16(b).reshape(k // 2, 2, 32).swapaxes(1, 2))
    rows = np.zeros((height, k + 24), np.uint16)  # a pitch of its own
    rows[:, :k] = float32_to_bfloat16(a)
    table = rows.ctypes.data + np.arange(height + 16) * rows.strides[0]
    c = rng.standard_normal((height, 32)).astype(np.float32)
    wanted = emulated_tiles.product(a, b, c if add else None)
    emulated(table.ctypes.data, 0, packed.ctypes.data, c.ctypes.data, 128, k // 2, int(add), count, packed.ctypes.data)
    np.testing.assert_array_equal(c[:count], wanted[:count])


def test_numpy_s_product_is_one_of_the_values():
    """Exact sums come out exact: small whole numbers."""
    rng = np.random.default_rng(0)
    a, b = rng.integers(-8, 9, (5, 70)).astype(np.float32), rng.integers(-8, 9, (70, 3)).astype(np.float32)
    np.testing.assert_array_equal(emulated_tiles.product(a, b), a @ b)


def way_to_a_unit():
    """The processor's own, its instructions trapped, or others in their place."""
    if unit() == TILES:
        return "own"
    on_linux = sys.platform == "linux" and platform.machine() == "x86_64"
    return "trapped" if on_linux and not binding.get_host_cpu_features().get("amx-tile") else "emulated"


def test_kernels_through_the_unit(tmp_path):
    """Every kernel that multiplies, compiled for the unit, bit for bit."""
    script = Path(__file__).with_name("check_tiles.py")
    environment = {**os.environ, "TINYLDM_CACHE": str(tmp_path), "TINYLDM_SIMD": ""}
    done = subprocess.run(
        [sys.executable, str(script), way_to_a_unit()], env=environment, capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == "held", f"{done.returncode}: {done.stderr[-3000:]}"


@pytest.mark.slow
def test_machine_code_for_a_processor_with_the_unit(tmp_path):
    """LLVM makes it on any x86-64, for each kernel that multiplies."""
    if not binding.get_process_triple().startswith("x86_64"):
        pytest.skip("the unit is x86-64's")
    command, environment = [sys.executable, compiled_tiles.__file__, str(tmp_path)], {**os.environ, "TINYLDM_SIMD": ""}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    for kernel in ("matmul", "attention"):
        check_instructions((tmp_path / f"{kernel}.s").read_text())
        check_ways((tmp_path / f"{kernel}.ll").read_text())


def check_instructions(text):
    """Four products and four loads a step, in the registers meant; none of them kept on the stack meanwhile."""
    products = re.findall(r"tdpbf16ps\s+%tmm(\d), %tmm(\d), %tmm(\d)", text)  # of B, A and C
    two_rows = [("6", "4", "0"), ("7", "4", "1"), ("6", "5", "2"), ("7", "5", "3")]
    assert products == two_rows + two_rows[:2]
    assert text.count("tileloadd") == 6 + 4 + 3
    assert text.count("tilezero") == text.count("tilestored") == 6
    assert not re.search(r"tile(loadd|stored)\s.*%rsp", text)
    assert text.count("ldtilecfg") == text.count("tilerelease") == 1


def check_ways(text):
    """On every way through a kernel the unit is configured before the first product, and released before the end."""
    begin, multiply, end = (f"tinyldm.{name}" for name in ("begin_products", "multiply_tiles", "end_products"))
    found = [
        compiled_tiles.states(function, begin, end)
        for function in binding.parse_assembly(text).functions
        if not function.is_declaration
    ]
    (ways,) = [states for states in found if (begin, False) in states]
    calls = {(name, configured) for name, configured in ways if name in (begin, multiply, end, "ret")}
    assert calls == {(begin, False), (multiply, True), (end, True), ("ret", False)}


def test_configuration():
    """64 bytes: palette 1, eight registers of 16 rows of 64 bytes."""
    data = tiles.CONFIGURATION
    assert len(data) == 64
    assert data[0] == 1
    assert np.frombuffer(data[16:32], "<u2").tolist() == [64] * 8
    assert list(data[48:56]) == [16] * 8


@pytest.mark.parametrize("answer", [0, -1])
def test_the_system_is_asked_for_the_unit(monkeypatch, answer):
    """By the system call that Linux has for it; whatever is not granted is not used."""
    asked = []

    class Library:
        def syscall(self, *arguments):
            asked.append(arguments)
            return answer

    monkeypatch.setattr(permission.ctypes, "CDLL", lambda *_, **__: Library())
    monkeypatch.setattr(permission.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(permission.sys, "platform", "linux")
    assert permission.permitted.__wrapped__() == (answer == 0)
    assert asked == [(158, 0x1023, 18)]


def test_other_systems_are_not_asked(monkeypatch):
    monkeypatch.setattr(permission.platform, "machine", lambda: "arm64")
    assert not permission.permitted.__wrapped__()


# Which unit ---------------------------------------------------------------------------------------------------------

NAMED = """
import sys
from tinyldm.kernels.simd import target, unit
print(target().name, unit())
"""


@pytest.mark.parametrize("named", ["", "avx512", "avx2", "generic", DOTS, TILES])
def test_the_variable_names_a_unit(named):
    """A unit that the processor lacks is not used, whatever is asked for."""
    done = subprocess.run(
        [sys.executable, "-c", NAMED], env={**os.environ, "TINYLDM_SIMD": named}, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    vectors, found = done.stdout.split()
    features = binding.get_host_cpu_features()
    if named in ("avx512", "avx2", "generic"):
        assert (vectors, found) == (named, WIDENED)
    elif not features.get("amx-tile"):
        assert found == (DOTS if features.get("avx512bf16") else WIDENED)


@pytest.mark.parametrize(
    ("named", "granted", "words"),
    [
        ("", True, "the matrix unit (AMX)"),
        (TILES, True, "the matrix unit (AMX)"),
        ("", False, "vectors of pairs (AVX-512 BF16), not the matrix unit (AMX): the system does not grant it"),
        (DOTS, True, f"vectors of pairs (AVX-512 BF16), not the matrix unit (AMX): TINYLDM_SIMD is {DOTS}"),
        ("avx2", True, "widened values, not the matrix unit (AMX): TINYLDM_SIMD is avx2"),
    ],
)
def test_why_it_is_not_the_matrix_unit(monkeypatch, named, granted, words):
    """A processor that has one, whether it is granted or not."""
    there = dict.fromkeys(("avx512f", "avx512bf16", "amx-tile", "amx-bf16"), True)
    monkeypatch.setenv("TINYLDM_SIMD", named)
    monkeypatch.setattr(simd.llvm, "get_host_cpu_features", lambda: there)
    monkeypatch.setattr(simd, "permitted", lambda: granted)
    for cached in ("target", "unit"):
        monkeypatch.setattr(simd, cached, getattr(simd, cached).__wrapped__)
    assert simd.unit_in_words() == words


@pytest.mark.slow  # compiles anew; `test_targets.py` runs all tests of kernels so, slowly too
@pytest.mark.parametrize("name", ["avx512", "avx2"])
@pytest.mark.skipif(unit() == WIDENED, reason="these tests ran on widened values already")
def test_widened_values(name, tmp_path):
    """Attention once more where nothing multiplies pairs; the forms of weights are all tested above."""
    environment = {**os.environ, "TINYLDM_SIMD": name, "TINYLDM_CACHE": str(tmp_path)}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-n", "0", __file__, "-k", "test_attention"]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, cwd=Path(__file__).parents[2], check=False
    )
    assert done.returncode == 0, done.stdout[-3000:]


# What else knows of it ------------------------------------------------------------------------------------------------


def test_golden_tools_judge_it_by_what_bfloat16_costs():
    """Its tensors are float32; its products are not."""
    candidate = SimpleNamespace(metadata={"runtime": {"precision": "bf16"}})
    assert arithmetic_of(None, candidate) == "bfloat16"


def test_it_is_chosen_by_name_and_by_the_environment(monkeypatch):
    assert Runtime.choose(precision="bf16").precision == "bf16"
    monkeypatch.setenv("TINYLDM_PRECISION", "bf16")
    assert Runtime.choose().precision == "bf16"


def test_vectors_of_one_a_sample_are_never_rounded():
    """The time embedding, and what is made of it, is float32."""
    networks = [tinyldm.load(precision=precision).unet for precision in ("strict", "bf16")]
    weights = [network.weights["time_embedding"]["linear_1"] for network in networks]
    x = normal(0, 2, weights[0].weight.shape[1])
    strict, half = (nn.linear(x, w) for w in weights)
    np.testing.assert_array_equal(strict, half)
    assert (nn.linear(x[None], weights[0]) != nn.linear(x[None], weights[1])).any()


def test_info_says_what_multiplies(capsys):
    assert main(["info", "--precision", "bf16"]) == 0
    assert f"products of bfloat16 by {simd.UNITS[unit()]}" in capsys.readouterr().out
