"""The format is written out by hand here, byte by byte from its definition, so that the reader is not its own judge."""

import json
import math
import os
import random
import struct

import numpy as np
import pytest
from checkpoints.damage import mutate, peak_memory, refused
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tinyldm.checkpoints.safetensors import SafetensorsWriter, read_safetensors, write_safetensors
from tinyldm.errors import CheckpointError


def build(header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(dtype, shape, begin, end, **more):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end], **more}


def put(path, content):
    path.write_bytes(content)
    return path


SAMPLE = build(
    {
        "__metadata__": {"format": "pt"},
        "weight": entry("F32", [2, 3], 0, 24),
        "scale": entry("BF16", [], 24, 26),
        "half": entry("F16", [3], 26, 32),
        "none": entry("F64", [0, 4], 32, 32),
        "ids": entry("I64", [1, 2], 32, 48),
    },
    struct.pack("<6f", 1, 2, 3, 4, 5, 6) + b"\xc0\x3f" + struct.pack("<3e", 0.5, -2, 8) + struct.pack("<2q", -7, 2**40),
)


def test_a_file_by_the_definition_is_read(tmp_path):
    path = put(tmp_path / "model.safetensors", SAMPLE)
    with read_safetensors(path) as file:
        assert file.names == ("weight", "scale", "half", "none", "ids")
        assert list(file) == list(file.names)
        assert len(file) == 5
        assert "half" in file
        assert "other" not in file
        assert file.metadata == {"format": "pt"}
        assert file.path_of("ids") == str(path)
        assert [file.dtype(name) for name in file] == ["F32", "BF16", "F16", "F64", "I64"]
        assert file.shape("weight") == (2, 3)
        np.testing.assert_array_equal(file.read("weight"), [[1, 2, 3], [4, 5, 6]])
        assert file.read("scale") == 1.5
        assert file.read("scale", None).dtype == np.float32
        np.testing.assert_array_equal(file.read("half", np.float64), [0.5, -2, 8])
        assert file.read("half", np.float64).dtype == np.float64
        assert file.read("none").shape == (0, 4)
        np.testing.assert_array_equal(file.read("ids", None), [[-7, 2**40]])
        assert bytes(file.raw("scale")) == b"\xc0\x3f"
        with pytest.raises(CheckpointError, match="has no tensor 'other'"):
            file.read("other")


def test_reading_is_a_view_that_outlives_the_release_of_pages_and_close(tmp_path):
    write_safetensors(tmp_path / "a.safetensors", {"x": np.arange(10000, dtype=np.float32)})
    file = read_safetensors(tmp_path / "a.safetensors")
    first, second = file.read("x"), file.read("x")
    assert np.shares_memory(first, second)
    with pytest.raises(ValueError, match="read-only"):
        first[0] = 1
    np.testing.assert_array_equal(first, np.arange(10000))
    file.close()
    np.testing.assert_array_equal(first, np.arange(10000))
    with pytest.raises(CheckpointError, match="asked of a file of 0 bytes"):
        file.read("x")
    file.close()


def test_truncated_anywhere_is_an_error_of_one_line(tmp_path):
    for length in range(len(SAMPLE)):
        path = put(tmp_path / "model.safetensors", SAMPLE[:length])
        with pytest.raises(CheckpointError, match=r"model\.safetensors") as caught:
            read_safetensors(path)
        assert "\n" not in str(caught.value)


LIES = {
    "empty file": (b"", "is an empty file"),
    "no header": (struct.pack("<Q", 0), "begins with b''"),
    "header beyond the file": (struct.pack("<Q", 3) + b"{}", "header of 3 bytes in a file of 10"),
    "absurd header": (struct.pack("<Q", 2**63) + b"{}", "at most 100000000"),
    "space first": (build(b' {"a":1}'), "begins with b' '"),
    "array": (build(b"[]"), r"begins with b'\['"),
    "two objects": (build(b"{}{}"), "not JSON"),
    "unfinished": (build(b'{"a":'), "not JSON"),
    "NaN": (build(b'{"a": NaN}'), "NaN, which is not JSON"),
    "huge number": (build(b'{"a": ' + b"9" * 5000 + b"}"), "not JSON"),
    "deep": (build(b'{"a":' + b"[" * 200_000), "nested too deeply"),
    "not UTF-8": (build(b'{"\xff": 1}'), "not UTF-8 at byte 2"),
    "same name twice": (build(b'{"a": 1, "a": 2}'), "the key 'a' twice"),
    "metadata of numbers": (build({"__metadata__": {"a": 1}}), "object of strings"),
    "metadata a list": (build({"__metadata__": []}), "object of strings"),
    "entry a list": (build({"x": []}), "'x': its entry must have exactly"),
    "entry without shape": (build({"x": {"dtype": "F32", "data_offsets": [0, 0]}}), "its entry must have exactly"),
    "entry with more": (build({"x": entry("F32", [0], 0, 0, strides=[1])}), "its entry must have exactly"),
    "unknown dtype": (build({"x": entry("F33", [0], 0, 0)}), "'x' has dtype 'F33', wanted one of"),
    "dtype a list": (build({"x": entry(["F32"], [0], 0, 0)}), "wanted one of"),
    "negative size": (build({"x": entry("F32", [-1, -1], 0, 4)}, bytes(4)), "not below zero"),
    "fractional size": (build({"x": entry("F32", [1.0], 0, 4)}, bytes(4)), "not below zero"),
    "true as a size": (build({"x": entry("F32", [True], 0, 4)}, bytes(4)), "not below zero"),
    "shape a number": (build({"x": entry("F32", 1, 0, 4)}, bytes(4)), "wanted a list"),
    "overflowing shape": (build({"x": entry("U8", [2**32, 2**32], 0, 0)}), "more than any memory"),
    "overflowing beside a zero": (build({"x": entry("U8", [0, 2**62, 2**62], 0, 0)}), "more than any memory"),
    "too many sizes": (build({"x": entry("U8", [1] * 65, 0, 1)}, bytes(1)), "more than any memory"),
    "size and bytes differ": (build({"x": entry("F32", [2], 0, 4)}, bytes(4)), "4 bytes, but F32 of shape .* takes 8"),
    "offsets reversed": (build({"x": entry("F32", [1], 4, 0)}, bytes(4)), "-4 bytes"),
    "negative offset": (build({"x": entry("F32", [1], -4, 0)}, bytes(4)), "63-bit"),
    "absurd offset": (build({"x": entry("F32", [1], 2**64, 2**64 + 4)}, bytes(4)), "63-bit"),
    "three offsets": (build({"x": {"dtype": "F32", "shape": [], "data_offsets": [0, 4, 4]}}, bytes(4)), "63-bit"),
    "beyond the data": (build({"x": entry("F32", [2], 0, 8)}, bytes(4)), "but the data has 4"),
    "overlap": (build({"x": entry("U8", [4], 0, 4), "y": entry("U8", [4], 2, 6)}, bytes(6)), "'y' .* overlaps"),
    "same place": (build({"x": entry("U8", [4], 0, 4), "y": entry("U8", [4], 0, 4)}, bytes(4)), "overlaps"),
    "hole": (build({"x": entry("U8", [1], 0, 1), "y": entry("U8", [1], 2, 3)}, bytes(3)), "'y' .* leaves a hole"),
    "hole in front": (build({"x": entry("U8", [1], 1, 2)}, bytes(2)), "leaves a hole"),
    "bytes behind": (build({"x": entry("U8", [1], 0, 1)}, bytes(3)), "2 bytes follow the last"),
    "surrogate name": (build(b'{"\\ud800": {"dtype":"U8","shape":[0],"data_offsets":[0,0]}}'), "surrogate"),
    "newline in a name": (build({"a\nb": []}), r"'a\\nb'"),
    "long name": (build({"a" * 10_000: []}), "a…: its entry"),
    "deep shape": (
        build(b'{"x":{"dtype":"U8","shape":' + b"[" * 900 + b"]" * 900 + b',"data_offsets":[0,0]}}'),
        r"nested|\[\[\[",
    ),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_header_that_lies_is_refused(tmp_path, lie):
    content, message = LIES[lie]
    path = put(tmp_path / "bad.safetensors", content)
    with pytest.raises(CheckpointError, match=message) as caught:
        read_safetensors(path)
    assert "bad.safetensors" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500 + len(str(path))


def test_absurd_sizes_allocate_nothing(tmp_path):
    absurd = [2**31, 2**31]
    path = put(tmp_path / "a.safetensors", build({"x": entry("F64", absurd, 0, 2**62)}))
    with peak_memory() as peak:
        with pytest.raises(CheckpointError):
            read_safetensors(path)
        assert peak() < 1_000_000


def test_what_is_not_a_file_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="No such file"):
        read_safetensors(tmp_path / "missing.safetensors")
    with pytest.raises(CheckpointError, match="is a folder"):
        read_safetensors(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(CheckpointError, match="not a regular file"):
        read_safetensors(tmp_path / "pipe")
    with pytest.raises(CheckpointError, match="null"):
        read_safetensors("a\0b")


names = st.text(st.characters(exclude_categories=["Cs"]), max_size=12).filter(lambda name: name != "__metadata__")
dtypes = st.sampled_from(["?", "u1", "i1", "u2", "i2", "f2", "u4", "i4", "f4", "u8", "i8", "f8", ">f4", ">i8"])
shapes = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)
arrays = dtypes.flatmap(lambda dtype: hnp.arrays(dtype, shapes))


@settings(deadline=None, max_examples=100)
@given(tensors=st.dictionaries(names, arrays, max_size=5), metadata=st.dictionaries(names, names, max_size=3))
def test_what_is_written_is_read_back_byte_for_byte(tmp_path_factory, tensors, metadata):
    folder = tmp_path_factory.mktemp("round")
    path = folder / "a.safetensors"
    write_safetensors(path, tensors, metadata)
    with read_safetensors(path) as file:
        assert file.metadata == metadata
        assert set(file) == set(tensors)
        for name, value in tensors.items():
            read = file.read(name, None)
            assert read.shape == value.shape
            assert read.dtype == value.dtype.newbyteorder("=")
            assert read.tobytes() == value.astype(read.dtype).tobytes()
            assert read.flags.aligned
    again = folder / "b.safetensors"
    write_safetensors(again, reversed(tensors.items()), metadata)
    assert again.read_bytes() == path.read_bytes()


def test_the_written_header_is_the_published_one(tmp_path):
    tensors = {"b": np.ones(1, np.float16), "a": np.zeros((1, 2), np.float32), "c": np.full((), 3, np.float16)}
    write_safetensors(tmp_path / "a.safetensors", tensors, {"k": "ü"})
    text = (
        '{"__metadata__":{"k":"ü"},"a":{"dtype":"F32","shape":[1,2],"data_offsets":[0,8]},'
        '"b":{"dtype":"F16","shape":[1],"data_offsets":[8,10]},"c":{"dtype":"F16","shape":[],"data_offsets":[10,12]}}'
    ).encode()
    text += b" " * (-len(text) % 8)
    assert (tmp_path / "a.safetensors").read_bytes() == build(text, bytes(8) + struct.pack("<2e", 1, 3))


def test_floating_tensors_are_rounded_on_request_and_others_kept(tmp_path):
    tensors = {"w": np.array([1 + 2**-9, 2.0], np.float32), "ids": np.arange(3)}
    for tag, expected in (("BF16", [1, 2]), ("F16", [1 + 2**-9, 2]), ("F64", [1 + 2**-9, 2])):
        write_safetensors(tmp_path / "a.safetensors", tensors, dtype=tag)
        with read_safetensors(tmp_path / "a.safetensors") as file:
            assert file.dtype("w") == tag
            assert file.dtype("ids") == "I64"
            np.testing.assert_array_equal(file.read("w"), expected)
    with pytest.raises(CheckpointError, match="tensor 'w': holds values beyond the range of float16"):
        write_safetensors(tmp_path / "a.safetensors", {"w": np.array([1e6])}, dtype="F16")


def test_a_writer_takes_tensors_in_any_order_and_strided(tmp_path):
    values = np.arange(12, dtype=np.float32).reshape(3, 4)
    declared = {"t": ("F32", (4, 3)), "s": ("F32", [2, 2]), "e": ("F32", (0,))}
    with SafetensorsWriter(tmp_path / "a.safetensors", declared) as writer:
        writer.write("t", values.T)
        writer.write("e", np.zeros(0))
        assert not (tmp_path / "a.safetensors").exists()
        writer.write("s", values[::2, ::3])
    with read_safetensors(tmp_path / "a.safetensors") as file:
        np.testing.assert_array_equal(file.read("t"), values.T)
        np.testing.assert_array_equal(file.read("s"), [[0, 3], [8, 11]])


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ([], "'a' was declared but not written"),
        ([("a", np.zeros(2))], r"shape \(2,\), declared \(3,\)"),
        ([("b", np.zeros(3))], "'b' was not declared"),
        ([("a", np.zeros(3)), ("a", np.zeros(3))], "'a' was written before"),
        ([("a", np.arange(3))], "I64 cannot be stored as F32"),
    ],
)
def test_a_writer_that_fails_leaves_what_was_there(tmp_path, steps, message):
    path = put(tmp_path / "a.safetensors", b"the old content")

    def run():
        with SafetensorsWriter(path, {"a": ("F32", (3,))}) as writer:
            for name, value in steps:
                writer.write(name, value)

    with pytest.raises(CheckpointError, match=message):
        run()
    assert path.read_bytes() == b"the old content"
    assert list(tmp_path.iterdir()) == [path]


def test_what_cannot_be_written_is_refused(tmp_path):
    path = tmp_path / "a.safetensors"
    for tensors, metadata, message in [
        ({"__metadata__": np.zeros(1)}, {}, "not a name"),
        ({"\ud800": np.zeros(1)}, {}, "not a name"),
        ({"a": np.zeros(1, complex)}, {}, "complex128 cannot be stored"),
        ({"a": np.zeros(1)}, {"k": 1}, "text to text"),
    ]:
        with pytest.raises(CheckpointError, match=message):
            write_safetensors(path, tensors, metadata)
    with pytest.raises(CheckpointError, match="dtype 'F12'"):
        SafetensorsWriter(path, {"a": ("F12", (1,))})
    with pytest.raises(CheckpointError, match="cannot be stored"):
        SafetensorsWriter(path, {"a": ("F32", (-1,))})
    with pytest.raises(CheckpointError, match="cannot be written: No such file"):
        write_safetensors(tmp_path / "missing" / "a.safetensors", {"a": np.zeros(1)})
    (tmp_path / "folder").mkdir()
    with pytest.raises(CheckpointError, match="cannot be written"):
        write_safetensors(tmp_path / "folder", {"a": np.zeros(1)})
    assert [found.name for found in tmp_path.iterdir()] == ["folder"]


PIECES = (b"{", b"}", b'"', b"[", b"]", b",", b":", b"-", b"0", b"9", b"99999999999", b"\xff", b"\0", b"\\ud800")


def read_everything(path):
    with read_safetensors(path) as file:
        for name in file:
            assert file.read(name, None).nbytes <= 2 * path.stat().st_size
            assert math.prod(file.shape(name)) == file.read(name, None).size


def fuzz(folder, seed, count):
    rng = random.Random(seed)
    path = folder / "fuzz.safetensors"
    return sum(refused(read_everything, put(path, mutate(SAMPLE, rng, PIECES))) for _ in range(count))


@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 2**32))
def test_damaged_files_are_read_or_refused(tmp_path_factory, seed):
    assert fuzz(tmp_path_factory.getbasetemp(), seed, 50) > 0


@pytest.mark.slow
@settings(deadline=None, max_examples=1000)
@given(seed=st.integers(0, 2**32))
def test_a_hundred_thousand_damaged_files(tmp_path_factory, seed):
    assert fuzz(tmp_path_factory.getbasetemp(), seed, 100) > 0
