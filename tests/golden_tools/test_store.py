import json
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tinyldm.errors import TinyldmError
from tinyldm.golden import Golden, GoldenWriter
from tinyldm.golden.store import sample_positions, statistics

ARRAYS = st.one_of(
    *[hnp.arrays(t, hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=3)) for t in ("f4", "f8", "i8", "u1")]
)


@settings(deadline=None, max_examples=50)
@given(st.dictionaries(st.text("abc/:.#0", min_size=1), ARRAYS, min_size=1, max_size=5))
def test_what_is_written_is_read_back_in_order(tmp_path_factory, tensors):
    tensors = {key: value for key, value in tensors.items() if ":input." not in key}
    path = tmp_path_factory.mktemp("store") / "a.safetensors"
    with GoldenWriter(path, {"settings": {"seed": 7}}) as writer:
        for key, value in tensors.items():
            writer.add(key, value)
    with Golden(path) as golden:
        assert golden.order == list(tensors)
        assert golden.metadata["settings"] == {"seed": 7}
        for key, value in tensors.items():
            np.testing.assert_array_equal(golden[key], value)
            assert golden[key].dtype == value.dtype
            assert golden.shape(key) == value.shape


def test_any_safetensors_reader_can_read_it(tmp_path):
    path = tmp_path / "a.safetensors"
    with GoldenWriter(path) as writer:
        writer.add("0000/unet/conv_in", np.arange(6, dtype=np.float32).reshape(1, 2, 3))
    blob = path.read_bytes()
    (length,) = struct.unpack("<Q", blob[:8])
    header = json.loads(blob[8 : 8 + length])
    entry = header["0000/unet/conv_in"]
    begin, end = entry["data_offsets"]
    assert np.frombuffer(blob[8 + length :][begin:end], "<f4").tolist() == [0, 1, 2, 3, 4, 5]
    assert header["__metadata__"]["format"] == "tinyldm-golden"
    assert json.loads(header["__metadata__"]["order"]) == ["0000/unet/conv_in"]


def test_inputs_that_are_in_the_file_are_referred_to(tmp_path):
    x, y, other = np.ones(3, np.float32), np.zeros(3, np.float32), np.full(3, 2, np.float32)
    with GoldenWriter(tmp_path / "a") as writer:
        writer.add("a", x)
        writer.add("b", y, (x, other))
    with Golden(tmp_path / "a") as golden:
        assert golden.inputs == {"b": ["a", "b:input.1"]}
        np.testing.assert_array_equal(golden["b:input.1"], other)
        assert golden.order == ["a", "b"]


def test_a_sample_keeps_values_at_stated_positions_and_statistics(tmp_path):
    x = np.random.default_rng(0).standard_normal((5, 40)).astype(np.float32)
    with GoldenWriter(tmp_path / "a", sample=8) as writer:
        writer.add("big", x)
        writer.add("small", x[0, :8])
    with Golden(tmp_path / "a") as golden:
        assert golden.shape("big") == (5, 40)
        np.testing.assert_array_equal(golden["big"], x.reshape(-1)[sample_positions("big", 200, 8)])
        np.testing.assert_array_equal(golden["small"], x[0, :8])
        assert golden.statistics["big"] == statistics(x)
        assert golden.statistics["big"].mean == pytest.approx(x.mean(), rel=1e-6)


def test_sample_positions_are_those_that_the_page_gives():
    assert sample_positions("0000/unet/conv_in", 1000, 4).tolist() == [488, 505, 562, 246]


def test_statistics_alone(tmp_path):
    with GoldenWriter(tmp_path / "a", values=False) as writer:
        writer.add("x", np.array([1.0, np.nan, 3.0]))
    with Golden(tmp_path / "a") as golden:
        assert golden.order == ["x"]
        assert not golden.has_values("x")
        assert (golden.statistics["x"].mean, golden.statistics["x"].nonfinite) == (2.0, 1)
        with pytest.raises(TinyldmError, match="only statistics"):
            golden["x"]


def test_memory_stays_flat(tmp_path):
    import tracemalloc

    x = np.zeros(1 << 18, np.float32)
    tracemalloc.start()
    with GoldenWriter(tmp_path / "a") as writer:
        for i in range(40):
            writer.add(f"{i:04d}/unet/conv_in", x)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10 * x.nbytes
    assert (tmp_path / "a").stat().st_size > 40 * x.nbytes


def test_an_error_leaves_nothing_behind(tmp_path):
    def write():
        with GoldenWriter(tmp_path / "a") as writer:
            writer.add("x", np.zeros(3))
            raise KeyError

    with pytest.raises(KeyError):
        write()
    assert list(tmp_path.iterdir()) == []


def test_a_key_twice_is_an_error(tmp_path):
    with GoldenWriter(tmp_path / "a") as writer:
        writer.add("x", np.zeros(3))
        with pytest.raises(TinyldmError, match="twice"):
            writer.add("x", np.zeros(3))


def write_raw(path, tensors, metadata):
    from tinyldm.checkpoints.safetensors import write_safetensors

    write_safetensors(path, tensors, metadata)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({}, "not a golden file"),
        ({"format": "tinyldm-golden", "format_version": "99"}, "version"),
        ({"format": "tinyldm-golden", "format_version": "1", "order": "[1"}, "not JSON"),
        ({"format": "tinyldm-golden", "format_version": "1", "order": '["y"]'}, "of which the file has nothing"),
        ({"format": "tinyldm-golden", "format_version": "1", "order": '["x","x"]'}, "once"),
        ({"format": "tinyldm-golden", "format_version": "1", "order": "{}"}, "JSON list"),
        ({"format": "tinyldm-golden", "format_version": "1", "order": "[]"}, "not listed"),
        ({"format": "tinyldm-golden", "format_version": "1", "order": '["x"]', "inputs": '{"x":["y"]}'}, "refer"),
        ({"format": "tinyldm-golden", "format_version": "1", "order": '["x"]', "sampled": '{"x":[9]}'}, "sampled"),
        ({"format": "tinyldm-golden", "format_version": "1", "order": '["x"]', "statistics": '{"x":1}'}, "malformed"),
    ],
)
def test_a_file_that_lies_is_an_error_that_says_so(tmp_path, metadata, message):
    write_raw(tmp_path / "a", {"x": np.zeros(2)}, metadata)
    with pytest.raises(TinyldmError, match=message):
        Golden(tmp_path / "a")


def test_a_truncated_file_is_an_error(tmp_path):
    with GoldenWriter(tmp_path / "a") as writer:
        writer.add("x", np.zeros(100))
    whole = (tmp_path / "a").read_bytes()
    for size in (0, 4, 20, len(whole) - 8):
        (tmp_path / "b").write_bytes(whole[:size])
        with pytest.raises(TinyldmError):
            Golden(tmp_path / "b")


def test_what_was_written_can_be_read_back_while_writing(tmp_path):
    x = np.arange(40, dtype=np.float32).reshape(5, 8)
    with GoldenWriter(tmp_path / "a", sample=16) as writer:
        writer.add("big", x)
        writer.add("small", x[:2], tag="BF16")
        np.testing.assert_array_equal(writer.stored("big"), x.reshape(-1)[sample_positions("big", 40, 16)])
        np.testing.assert_array_equal(writer.stored("small"), x[:2])
        writer.add("more", x[0])
    with Golden(tmp_path / "a") as golden:
        np.testing.assert_array_equal(golden["more"], x[0])
        np.testing.assert_array_equal(golden["big"], x.reshape(-1)[sample_positions("big", 40, 16)])
