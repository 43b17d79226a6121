"""Solutions to the exercises of chapter 9, checkpoints."""

import json
import math
import pickle
import struct
import zipfile

import numpy as np
import pytest

import tinyldm
from tinyldm import ops
from tinyldm.checkpoints.embedded import embedded
from tinyldm.checkpoints.names.links import Link
from tinyldm.checkpoints.source import open_source
from tinyldm.ops.bfloat16 import bfloat16_to_float32


def test_1_write_one(tmp_path):
    a, b = np.arange(3, dtype="<f4"), np.arange(4, dtype="<f4").reshape(2, 2)

    def written(begin):
        header = {
            "a": {"dtype": "F32", "shape": [3], "data_offsets": [0, 12]},
            "b": {"dtype": "F32", "shape": [2, 2], "data_offsets": [begin, begin + 16]},
        }
        text = json.dumps(header).encode()
        path = tmp_path / f"{begin}.safetensors"
        path.write_bytes(struct.pack("<Q", len(text)) + text + a.tobytes() + b.tobytes())
        return path

    source = open_source(written(12))
    assert source.names == ("a", "b")
    np.testing.assert_array_equal(source.read("b"), b)
    with pytest.raises(tinyldm.CheckpointError, match="overlaps"):  # the chapter's `read` makes [2, 0, 1, 2] of it
        open_source(written(8))


def test_2_the_value_of_sixteen_bits():
    """Not covered: an exponent of 0 (no leading 1, the exponent of 1), and of 255 (infinity, NaN)."""
    bits = np.arange(65536, dtype=np.uint16)
    sign, exponent, fraction = bits >> 15, (bits >> 7 & 255).astype(int), bits & 127
    with np.errstate(invalid="ignore"):  # of signalling NaNs
        found = bfloat16_to_float32(bits).astype(float)
    normal = (exponent > 0) & (exponent < 255)
    values = np.where(sign, -1.0, 1.0) * np.exp2(exponent - 127.0) * (1 + fraction / 128)
    np.testing.assert_array_equal(values[normal], found[normal])
    small = exponent == 0
    np.testing.assert_array_equal((np.where(sign, -1.0, 1.0) * 2.0**-126 * fraction / 128)[small], found[small])
    assert np.isnan(found[(exponent == 255) & (fraction > 0)]).all()
    assert np.isinf(found[(exponent == 255) & (fraction == 0)]).all()


def test_3_all_of_q_first():
    rng = np.random.default_rng(0)
    q, k, v = rng.standard_normal((3, 12, 6))
    names, x = ("q", "k", "v"), rng.standard_normal((1, 5, 6))
    interleaved, one_after_the_other = Link("qkv", names, heads=3), Link("qkv", names)
    taken = one_after_the_other.part(interleaved.whole([q, k, v]), 0)
    np.testing.assert_array_equal(taken, np.concatenate([q[:4], k[:4], v[:4]]))  # a head of each, as three heads of q
    assert not np.allclose(ops.linear(x, taken), ops.linear(x, q))
    np.testing.assert_array_equal(Link("qkv", names, heads=1).whole([q, k, v]), one_after_the_other.whole([q, k, v]))


def test_4_a_list_of_bad_names(tmp_path, monkeypatch):
    """There are very many functions that run a text as code; `timeit.timeit(code, setup, timer, number)` is one."""

    def text(s):
        return b"X" + struct.pack("<I", len(s)) + s.encode()

    arguments = text("print('heard')") + text("pass") + b"ctime\nperf_counter\n" + b"K\1"
    attack = b"\x80\x02" + b"ctimeit\ntimeit\n" + b"(" + arguments + b"t" + b"R" + b"."
    assert not any(word in attack for word in (b"os", b"system", b"subprocess", b"builtins", b"eval", b"exec"))
    said = []
    monkeypatch.setattr("builtins.print", said.append)
    pickle.loads(attack)
    assert said == ["heard"]
    with zipfile.ZipFile(tmp_path / "attack.pt", "w") as file:
        file.writestr("model/data.pkl", attack)
    with pytest.raises(tinyldm.CheckpointError, match=r"refuses the global 'timeit\.timeit'"):
        open_source(tmp_path / "attack.pt")
    assert said == ["heard"]


def test_5_the_rank_of_a_difference():
    module = "mid_block.resnets.0.conv1"
    before = tinyldm.load(backend="reference").unet.weights.at(module).weight
    after = tinyldm.load(backend="reference", loras=["emoji-lines"]).unet.weights.at(module).weight
    difference = (after - before).astype(float).reshape(len(before), -1)
    values = np.linalg.svd(difference, compute_uv=False)
    assert values[7] > 100 * values[8]  # what is left is rounding
    lora = open_source(embedded("emoji-lines") / "pytorch_lora_weights.safetensors")
    stored = sum(math.prod(lora.shape(f"unet.{module}.lora_{x}.weight")) for x in "AB")
    assert (difference.size, stored) == (160 * 160 * 9, 8 * 160 * 9 + 160 * 8)
