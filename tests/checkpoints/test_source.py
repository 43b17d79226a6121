import json
import struct

import numpy as np
import pytest

from tinyldm.checkpoints.base import MemorySource
from tinyldm.checkpoints.safetensors import write_safetensors
from tinyldm.checkpoints.source import ShardedSource, open_source
from tinyldm.checkpoints.views import RenamedSource
from tinyldm.errors import CheckpointError


def test_memory_source_offers_arrays_as_files_do():
    values = {"a": np.arange(6.0).reshape(2, 3), "flag": np.array([True, False]), "big": np.array([1e300])}
    with MemorySource(values, path="here", metadata={"k": "v"}) as source:
        assert source.names == ("a", "flag", "big")
        assert source.metadata == {"k": "v"}
        assert (source.shape("a"), source.dtype("a"), source.path_of("a")) == ((2, 3), "F64", "here")
        assert source.original_name("a") == "a"
        assert source.read("a").dtype == np.float32
        assert np.shares_memory(source.read("a", None), values["a"])
        assert not source.read("a", None).flags.writeable
        assert values["a"].flags.writeable
        np.testing.assert_array_equal(source.read("flag", None), [True, False])
        with pytest.raises(CheckpointError, match="here: has no tensor 'b'"):
            source.dtype("b")
        with pytest.raises(CheckpointError, match="here: tensor 'big' holds values beyond the range of float32"):
            source.read("big")


def test_renamed_source_shows_the_mapped_names_only():
    inner = MemorySource({"old.weight": np.arange(3.0), "hidden": np.zeros(1)}, path="file")
    source = RenamedSource(inner, {"new.weight": "old.weight", "twin": "old.weight"})
    assert source.names == ("new.weight", "twin")
    assert "hidden" not in source
    assert "twin" in source
    assert (source.shape("twin"), source.dtype("twin"), source.path_of("twin")) == ((3,), "F64", "file")
    assert source.original_name("new.weight") == "old.weight"
    np.testing.assert_array_equal(source.read("new.weight"), [0, 1, 2])
    with pytest.raises(CheckpointError, match=r"has no tensor 'old\.weight'"):
        source.read("old.weight")
    with pytest.raises(CheckpointError, match="has no tensor 'gone'"):
        RenamedSource(inner, {"x": "gone"})
    source.close()


def sharded(folder, weight_map, metadata=None):
    write_safetensors(folder / "m-00001-of-00002.safetensors", {"a": np.arange(2.0), "b": np.arange(3.0)})
    write_safetensors(folder / "m-00002-of-00002.safetensors", {"c": np.arange(4.0), "unlisted": np.arange(5.0)})
    path = folder / "m.safetensors.index.json"
    path.write_text(json.dumps({"metadata": metadata or {}, "weight_map": weight_map}))
    return path


ONE, TWO = "m-00001-of-00002.safetensors", "m-00002-of-00002.safetensors"


def test_a_sharded_checkpoint_reads_as_one(tmp_path):
    path = sharded(tmp_path, {"c": TWO, "a": ONE, "b": ONE}, {"total_size": 112})
    with open_source(path) as source:
        assert isinstance(source, ShardedSource)
        assert source.names == ("c", "a", "b", "unlisted")
        assert source.metadata == {"total_size": "112"}
        assert source.path_of("c") == str(tmp_path / TWO)
        assert (source.shape("c"), source.dtype("c")) == ((4,), "F64")
        np.testing.assert_array_equal(source.read("b"), [0, 1, 2])
        with pytest.raises(CheckpointError, match="has no tensor 'z'"):
            source.read("z")
        view = RenamedSource(source, {"x": "c"})
        assert [file.path for file in view.files] == [tmp_path / TWO, tmp_path / ONE]
    with pytest.raises(CheckpointError, match="asked of a file of 0 bytes"):
        view.read("x")


@pytest.mark.parametrize(
    ("weight_map", "message"),
    [
        ({"a": TWO}, "says that 'm-00002-of-00002.safetensors' holds 'a', which it does not"),
        ({"a": "gone.safetensors"}, "'gone.safetensors', which is not beside it"),
        ({"a": "../m.safetensors"}, "wanted a file name in the same folder"),
        ({"a": "/etc/passwd"}, "wanted a file name in the same folder"),
        ({"a": ".."}, "wanted a file name in the same folder"),
        ({"a": "a\\b"}, "wanted a file name in the same folder"),
        ({"a": "a\0b"}, "wanted a file name in the same folder"),
        ({"a": ""}, "wanted a file name in the same folder"),
        ({"a": "m.safetensors.index.json"}, "as a file of tensors"),
        ({"a": 1}, "without a weight_map"),
        ({}, "without a weight_map"),
        ([], "without a weight_map"),
    ],
)
def test_an_index_that_lies_is_refused(tmp_path, weight_map, message):
    with pytest.raises(CheckpointError, match=message) as caught:
        open_source(sharded(tmp_path, weight_map))
    assert "m.safetensors.index.json" in str(caught.value)


def test_an_unlisted_tensor_in_two_files_is_refused(tmp_path):
    path = sharded(tmp_path, {"a": ONE, "c": TWO})
    write_safetensors(tmp_path / TWO, {"b": np.arange(3.0), "c": np.arange(4.0)})
    with pytest.raises(CheckpointError, match="does not list 'b', which both"):
        open_source(path)


def test_metadata_of_an_index_must_be_an_object(tmp_path):
    (tmp_path / "i.json").write_text('{"metadata": [], "weight_map": {"a": "b"}}')
    with pytest.raises(CheckpointError, match="metadata must be an object"):
        open_source(tmp_path / "i.json")
    (tmp_path / "i.json").write_text('{"weight_map": {"a": "b", "a": "c"}}')
    with pytest.raises(CheckpointError, match="the key 'a' twice"):
        open_source(tmp_path / "i.json")


def test_the_content_decides_and_not_the_suffix(tmp_path):
    write_safetensors(tmp_path / "model.ckpt", {"a": np.zeros(1)})
    with open_source(tmp_path / "model.ckpt") as source:
        assert source.names == ("a",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "an empty file"),
        (b"GGUF\3\0\0\0rest", "a GGUF file"),
        (b"what\3\0\0\0rest", "begins with b'what"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "a Git LFS pointer"),
        (b"<!DOCTYPE html><html>", "a web page"),
        (b"\x80\x04K\x01.", "a Python pickle, but not one that torch"),
        (bytes(257) + b"ustar" + bytes(300), "a tar archive, as the first versions of torch"),
        (struct.pack("<Q", 2**50) + b"{}", "begins with"),
    ],
)
def test_unknown_content_is_refused_in_words(tmp_path, content, message):
    (tmp_path / "model.ckpt").write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        open_source(tmp_path / "model.ckpt")


def test_a_damaged_safetensors_file_is_judged_by_its_reader(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"1234")
    with pytest.raises(CheckpointError, match="too few for a safetensors file"):
        open_source(tmp_path / "model.safetensors")
