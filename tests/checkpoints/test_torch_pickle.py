import random
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from checkpoints.damage import mutate, peak_memory, refused
from checkpoints.pickles import (
    DATA,
    archive,
    big,
    call,
    legacy,
    listing,
    mapping,
    name,
    number,
    sequence,
    sizes,
    storage,
    tensor,
    text,
)
from golden.provenance import load_golden
from hypothesis import given, settings
from hypothesis import strategies as st

from tinyldm.checkpoints.opening import open_tensors
from tinyldm.checkpoints.pickle_globals import NumpyArray
from tinyldm.checkpoints.pickle_reader import Name, Placeholder
from tinyldm.checkpoints.source import open_source
from tinyldm.checkpoints.torch_pickle import MAX_DEPTH, read_torch
from tinyldm.errors import CheckpointError

GOLDEN = Path(__file__).parents[1] / "golden" / "checkpoints"
FILES = sorted(path.name for path in GOLDEN.glob("*.pt"))
TAGS = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "int64": "I64",
    "int32": "I32",
    "int16": "I16",
    "int8": "I8",
    "uint8": "U8",
    "uint16": "U16",
    "uint32": "U32",
    "uint64": "U64",
    "bool": "BOOL",
}


def put(path, content):
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("file", FILES)
def test_files_that_torch_wrote_hold_what_torch_reads(file):
    tensors, _ = load_golden("checkpoints/expected")
    expected = {tuple(key.split("|")[1:]): value for key, value in tensors.items() if key.startswith(f"{file}|")}
    with open_source(GOLDEN / file) as source:
        assert {(name, source.dtype(name)) for name in source} == {(name, TAGS[dtype]) for name, dtype in expected}
        for (name, _), value in expected.items():
            read = source.read(name, None)
            assert read.tobytes() == value.tobytes()
            assert read.flags.c_contiguous
            assert read.flags.aligned
            assert not read.flags.writeable
            assert source.shape(name) == read.shape
            assert source.read(name).dtype == np.float32
            assert source.path_of(name) == str(GOLDEN / file)


def test_every_golden_file_has_its_values():
    tensors, provenance = load_golden("checkpoints/expected")
    assert {key.split("|")[0] for key in tensors} == set(FILES)
    assert set(provenance["versions"]) == {"torch", "numpy"}


def test_views_share_their_storage_and_contiguous_ones_are_not_copied():
    with read_torch(GOLDEN / "views_zip.pt") as source:
        base = source.read("base")
        assert np.shares_memory(base, source.read("again"))
        assert np.shares_memory(base, source.read("row"))
        assert not np.shares_memory(base, source.read("transposed"))
        np.testing.assert_array_equal(source.read("transposed"), base.T)
        np.testing.assert_array_equal(source.read("every_second"), base[::2, 1::2])
        np.testing.assert_array_equal(source.read("expanded"), np.full(5, base[0, 0]))
        assert source.read("channels_last").shape == (1, 3, 2, 2)


@pytest.mark.parametrize("kind", ["zip", "legacy", "protocol4", "legacy4"])
def test_what_training_leaves_beside_the_weights_is_passed_over(kind):
    with read_torch(GOLDEN / f"training_{kind}.pt") as source:
        assert source.names == ("weight", "bias")
        assert source.extras["optimizer_states"] == "list of 1"
        assert source.extras["epoch"] == "int"
        assert "state_dict" not in source.extras
        root = source.root
    assert (root["epoch"], root["global_step"], root["loss"]) == (3, 12, 0.5)
    expected = (None, True, 2**40, -1, 2**70, 1.5, b"bytes", {1, 2}, frozenset({3}), (1, 2))
    assert root["odds"] == expected
    assert root["counts"] == {"a": 1}
    assert root["lr_schedulers"] == [{"milestones": {5: 1}, "last": -1}]
    assert root["callbacks"] == {
        Name("pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint"): {
            "best": 0.25,
            "dtype": Name("torch.float16"),
        }
    }
    assert isinstance(root["hyper_parameters"], Placeholder)
    assert isinstance(root["device"], Placeholder)
    assert isinstance(root["rng"], NumpyArray)
    np.testing.assert_array_equal(root["rng"].read(None), [[0, 1], [2, 3]])


def test_a_textual_inversion_file_is_read():
    with read_torch(GOLDEN / "inversion_zip.pt") as source:
        assert source.names == ("string_to_token.*", "string_to_param.*")
        assert source.read("string_to_token.*", None) == 265
        assert source.extras == {"name": "str", "step": "int"}


def test_a_sharded_torch_checkpoint_reads_as_one():
    with open_source(GOLDEN / "pytorch_model.bin.index.json") as source:
        assert source.names == ("a", "b")
        np.testing.assert_array_equal(source.read("a"), [0, 1, 2])
        assert source.path_of("b").endswith("00002-of-00002.bin")


def test_reading_is_lazy(tmp_path):
    size = 8 << 20
    content = mapping(a=tensor((size // 4,), (1,), 0, storage(count=size // 4)))
    path = put(tmp_path / "a.ckpt", archive(content, {"0": bytes(size)}))
    with peak_memory() as peak, read_torch(path) as source:
        assert source.shape("a") == (size // 4,)
        assert peak() < size // 8
        assert not source.read("a").any()


# Files put together by hand -------------------------------------------------------------------------------------------


def six_fields(key="0", count=6):
    return storage(key, count=count, more=(b"N",))


def test_files_by_hand_are_read_in_either_format(tmp_path):
    zipped = read_torch(put(tmp_path / "zip.pt", archive(mapping(w=tensor((3, 2), (1, 3))))))
    old = read_torch(put(tmp_path / "old.pt", legacy(mapping(w=tensor((3, 2), (1, 3), 0, six_fields())))))
    for source in (zipped, old):
        np.testing.assert_array_equal(source.read("w"), np.arange(6.0).reshape(2, 3).T)
        source.close()
        with pytest.raises(CheckpointError, match="asked of a file of 0 bytes"):
            source.read("w")
        with pytest.raises(CheckpointError, match="has no tensor 'v'"):
            source.read("v")


def test_a_component_is_told_by_the_content_of_its_file(tmp_path):
    content = archive(mapping(**{"w": tensor((3, 2), (1, 3)), "vision_model.w": tensor((3, 2), (1, 3))}))
    file = put(tmp_path / "model.safetensors", content)
    assert open_tensors(file, "UNet2DModel").names == ("w", "vision_model.w")
    assert open_tensors(file, "CLIPVisionModelWithProjection").names == ("w",)
    with pytest.raises(CheckpointError, match=r"a picture \(PNG\)"):
        open_tensors(put(tmp_path / "model.safetensors", b"\x89PNG...."), "UNet2DModel")


def test_compressed_and_big_endian_archives_are_read(tmp_path):
    for options in ({"compression": zipfile.ZIP_DEFLATED}, {"byteorder": b"little"}, {"version": b"3\n"}):
        with read_torch(put(tmp_path / "a.pt", archive(mapping(w=tensor()), **options))) as source:
            np.testing.assert_array_equal(source.read("w"), [[0, 1, 2], [3, 4, 5]])
    swapped = {"0": struct.pack(">6f", *range(6)), "1": struct.pack(">2H", 0x3FC0, 0xC000)}
    half = storage("1", "torch.BFloat16Storage", 2)
    content = mapping(w=tensor(), b=tensor((2,), (1,), 0, half))
    with read_torch(put(tmp_path / "a.pt", archive(content, swapped, byteorder=b"big"))) as source:
        for dtype in (None, np.float32, np.float64):
            np.testing.assert_array_equal(source.read("w", dtype), [[0, 1, 2], [3, 4, 5]])
            np.testing.assert_array_equal(source.read("b", dtype), [1.5, -2])
        assert source.read("w", None).dtype == np.dtype("f4")


def test_other_ways_to_write_a_tensor_are_read(tmp_path):
    plain = sequence(storage(), number(0), sizes((2, 3)), sizes((3, 1)))
    v2 = sequence(storage(), number(0), sizes((2, 3)), sizes((3, 1)), b"\x89", b"}")
    untyped = storage(kind="torch.storage.UntypedStorage", count=24)
    parts = {
        "v1": name("torch._utils._rebuild_tensor") + plain + b"R",
        "v2m": call(
            "torch._utils._rebuild_tensor_v2", storage(), big(0), sizes((6,)), sizes((1,)), b"\x89", b"}", b"}"
        ),
        "v3": call(
            "torch._utils._rebuild_tensor_v3",
            untyped,
            number(1),
            sizes((2,)),
            sizes((4,)),
            b"\x89",
            b"}",
            name("torch.float32"),
        ),
        "parameter": call("torch._utils._rebuild_parameter", tensor(), b"\x88", b"}"),
        "state": call("torch._utils._rebuild_parameter_with_state", tensor(), b"\x88", b"}", mapping(note=number(1))),
        "typed": call(
            "torch._tensor._rebuild_from_type_v2",
            name("torch._utils._rebuild_tensor_v2"),
            name("torch.nn.parameter.Parameter"),
            v2,
            b"}",
        ),
        "numpy": call(
            "torch._utils._rebuild_device_tensor_from_numpy",
            call("numpy._core.multiarray._reconstruct", name("numpy.ndarray"), sequence(number(0)), text("b"))
            + sequence(number(1), sizes((2,)), call("numpy.dtype", text("b1")), b"\x89", b"C\x02\x00\x01")
            + b"b",
            name("torch.bool"),
            text("cpu"),
            b"\x89",
        ),
    }
    with read_torch(put(tmp_path / "a.pt", archive(mapping(**parts)))) as source:
        for key in ("v1", "parameter", "state", "typed"):
            np.testing.assert_array_equal(source.read(key), [[0, 1, 2], [3, 4, 5]])
        np.testing.assert_array_equal(source.read("v2m"), range(6))
        np.testing.assert_array_equal(source.read("v3"), [1, 5])
        np.testing.assert_array_equal(source.read("numpy", None), [False, True])
        assert source.dtype("numpy") == "BOOL"


def test_a_class_with_its_source_is_read_as_its_name(tmp_path):
    cls = name("torch.nn.modules.container.ParameterDict")
    identity = sequence(text("module"), cls, text("container.py"), text("class ParameterDict: ...")) + b"Q"
    made = identity + b")\x81" + mapping(_parameters=mapping(x=tensor(source=six_fields()))) + b"b"
    with read_torch(put(tmp_path / "a.pt", legacy(mapping(p=made)))) as source:
        assert source.names == ("p.x",)
    for bad in (sequence(text("module")), sequence(text("module"), text("x"), text(""), text(""))):
        with pytest.raises(CheckpointError, match="a class with its source"):
            read_torch(put(tmp_path / "a.pt", legacy(bad + b"Q")))


def rebuilt(*arguments):
    return call("torch._utils._rebuild_tensor_v2", *arguments)


LIES = {
    "beyond the storage": (tensor((7,), (1,)), "reaches element 6 of a storage of 24 bytes"),
    "beyond by its offset": (tensor((2, 3), (3, 1), 1), "reaches element 6"),
    "beyond by its strides": (tensor((2, 3), (4, 1)), "reaches element 6"),
    "absurd stride": (tensor((2,), (2**80,)), "reaches element"),
    "absurd offset": (tensor((1,), (1,), 2**80), "reaches element"),
    "negative offset": (tensor((1,), (1,), -1), "integers from zero up"),
    "negative stride": (tensor((2,), (-1,), 5), "integers from zero up"),
    "negative size": (tensor((-2,), (1,)), "sizes and strides are not two lists"),
    "absurd size": (tensor((2**40, 2**40), (0, 0)), "sizes and strides are not two lists"),
    "absurd size beside zero": (tensor((2**62, 0), (0, 0)), "sizes and strides are not two lists"),
    "strides missing": (tensor((2, 3), (1,)), "sizes and strides are not two lists"),
    "repeated": (tensor((10**9,), (0,)), "1000000000 elements that repeats"),
    "no storage": (tensor(source=text("x")), "a tensor without a storage"),
    "few arguments": (rebuilt(storage()), "with 1 arguments"),
    "sizes as text": (rebuilt(storage(), number(0), text("ab"), text("ab"), b"N", b"N"), "not two lists"),
    "float offset": (rebuilt(storage(), b"G" + bytes(8), sizes((1,)), sizes((1,)), b"N", b"N"), "from zero up"),
    "negation": (
        rebuilt(storage(), number(0), sizes((1,)), sizes((1,)), b"N", b"N", mapping(neg=b"\x88")),
        "refuses a tensor with metadata",
    ),
    "unknown dtype": (
        call("torch._utils._rebuild_tensor_v3", storage(), number(0), sizes((1,)), sizes((1,)), b"N", b"N", text("x")),
        "a tensor of an unknown dtype",
    ),
    "v3 arguments": (call("torch._utils._rebuild_tensor_v3"), "with 0 arguments"),
    "parameter of text": (call("torch._utils._rebuild_parameter", text("x")), "other than a tensor"),
    "array of text": (call("torch._utils._rebuild_device_tensor_from_numpy", text("x")), "other than a NumPy array"),
    "size of text": (call("torch.Size", text("x")), "something other than sizes"),
    "by way of": (
        call("torch._tensor._rebuild_from_type_v2", name("collections.OrderedDict"), name("torch.Tensor"), b")", b"N"),
        r"refuses to call collections\.OrderedDict by way of",
    ),
    "by way of nothing": (call("torch._tensor._rebuild_from_type_v2", text("x")), "in an unknown form"),
    "by way of itself": (
        call(
            "torch._tensor._rebuild_from_type_v2",
            name("torch._tensor._rebuild_from_type_v2"),
            name("torch.Tensor"),
            b")",
            b"N",
        ),
        "refuses to call .* by way of",
    ),
    "other persistent id": (text("storage") + b"Q", "refuses a persistent id that is not a storage's of 5 fields"),
    "other kind": (sequence(*map(text, "abcde")) + b"Q", "refuses a persistent id that is not a storage's"),
    "legacy fields": (storage(more=(b"N",)), "refuses a persistent id that is not a storage's of 5"),
    "storage type of text": (
        sequence(text("storage"), text("torch.FloatStorage"), text("0"), text("cpu"), number(6)) + b"Q",
        "without a storage type",
    ),
    "storage type unknown": (storage(kind="torch.ComplexFloatStorage"), r"global 'torch\.ComplexFloatStorage'"),
    "storage type a dtype": (storage(kind="torch.float32"), "without a storage type"),
    "negative count": (storage(count=-1), "two texts and a number"),
    "storage missing": (storage("7"), "the storage '7', which is not in the archive"),
    "storage outside": (storage("../data.pkl"), "which is not in the archive"),
    "storage of another size": (storage(count=5), "says 5 elements F32 of the storage '0' of 24 bytes"),
    "os.system": (call("os.system", text("true")), r"refuses the global 'os\.system'"),
    "a module": (call("torch.nn.modules.linear.Linear"), r"refuses the global 'torch\.nn\.modules\.linear\.Linear'"),
}


@pytest.mark.parametrize("lie", LIES)
def test_pickles_that_lie_about_tensors_are_refused(tmp_path, lie):
    code, message = LIES[lie]
    path = put(tmp_path / "bad.ckpt", archive(mapping(w=code)))
    with peak_memory() as peak:
        with pytest.raises(CheckpointError, match=message) as caught:
            open_source(path)
        assert peak() < 1_000_000
    assert "bad.ckpt" in str(caught.value)
    assert "'model/data.pkl': pickle at byte " in str(caught.value)
    assert "\n" not in str(caught.value)


def test_refusals_hold_in_the_legacy_format_too(tmp_path):
    for code, message in [
        (call("os.system", text("true")), r"refuses the global 'os\.system'"),
        (storage(), "not a storage's of 6 fields"),
        (storage(more=(sequence(text("0"), number(0), number(6)),)), "refuses a view of a storage"),
        (sequence(six_fields(), six_fields(count=5)), "says 20 and 24 bytes of the same storage '0'"),
        (sequence(six_fields("1")), "the list of storages is not that"),
    ]:
        with pytest.raises(CheckpointError, match=message):
            read_torch(put(tmp_path / "a.pt", legacy(code)))
    good = mapping(w=tensor(source=six_fields()))
    for options, message in [
        ({"little": b"\x89"}, "not written by a little-endian machine"),
        ({"keys": b"]"}, "the list of storages is not that"),
        ({"keys": listing(text("0"), text("0"))}, "the list of storages is not that"),
        ({"keys": listing(number(0))}, "the list of storages is not that"),
        ({"keys": text("0")}, "the list of storages is not that"),
        ({"width": 8}, "has 3 elements, wanted 6"),
    ]:
        with pytest.raises(CheckpointError, match=message):
            read_torch(put(tmp_path / "a.pt", legacy(good, **options)))
    with pytest.raises(CheckpointError, match="not a torch checkpoint of version 1001"):
        read_torch(put(tmp_path / "a.pt", b"\x80\x02K\x01." * 5))


@pytest.mark.parametrize("build", [archive, legacy])
def test_truncated_anywhere_is_an_error(tmp_path, build):
    whole = build(mapping(w=tensor(source=storage() if build is archive else six_fields())))
    for length in range(len(whole)):
        assert refused(open_source, put(tmp_path / "a.ckpt", whole[:length]))


def test_archives_that_lie_are_refused(tmp_path):
    path = tmp_path / "a.pt"

    def check(content, message):
        with pytest.raises(CheckpointError, match=message):
            read_torch(put(path, content)).read("w")

    good = archive(mapping(w=tensor()))
    check(good.replace(b"data.pkl", b"data.txt"), "without the data.pkl")
    check(archive(mapping(w=tensor()), **{"constants.pkl": b""}), "a TorchScript program")
    check(archive(mapping(w=tensor()), byteorder=b"middle"), "has the byte order b'middle'")
    with pytest.warns(UserWarning, match="Duplicate"):
        twice = archive(mapping(w=tensor()), **{"data/0": DATA["0"]})
    check(twice, "'model/data/0' is there twice")
    directory = good.index(b"PK\1\2")
    check(good[:directory] + good[directory:].replace(b"PK\1\2", b"PK\1\3"), "damaged zip archive")
    check(good[: directory + 8] + b"\1" + good[directory + 9 :], "is encrypted")
    check(good[: directory + 10] + b"\x0e" + good[directory + 11 :], "compressed by method 14")
    check(good[: directory + 24] + struct.pack("<I", 5) + good[directory + 28 :], "claims 5 bytes out of")
    check(good[: directory + 42] + struct.pack("<I", 3) + good[directory + 46 :], "no header where")
    check(good[: directory + 42] + struct.pack("<I", len(good) - 3) + good[directory + 46 :], "begins behind the end")
    second = good.index(b"PK\1\2", directory + 1)
    check(good[: second + 42] + bytes(4) + good[second + 46 :], "'model/data/0' overlaps the one before")
    check(
        good[: second + 20] + struct.pack("<II", 2**31, 2**31) + good[second + 28 :],
        "'model/data/0' ends behind the end",
    )


def test_compressed_entries_are_bounded(tmp_path):
    zeros = bytes(60_000)
    packed = archive(mapping(w=tensor((4,), (1,), 0, storage(count=15_000))), {"0": zeros}, zipfile.ZIP_DEFLATED)
    with read_torch(put(tmp_path / "a.pt", packed)) as source:
        assert not source.read("w").any()
    size = struct.pack("<I", len(zeros))
    for claimed, message in [(2**31, "claims 2147483648 bytes out of"), (59_996, "not the 59996 bytes claimed")]:
        elsewhere = archive(mapping(w=tensor((4,), (1,), 0, storage(count=claimed // 4))), {"0": zeros}, 8)
        with pytest.raises(CheckpointError, match=message):
            read_torch(put(tmp_path / "a.pt", elsewhere.replace(size, struct.pack("<I", claimed)))).read("w")
    bomb = archive(mapping(w=tensor((4,), (1,), 0, storage(count=10**7))), {"0": bytes(4 * 10**7)}, 8)
    assert len(bomb) < 50_000
    with peak_memory() as peak:
        with pytest.raises(CheckpointError, match="claims 40000000 bytes out of"):
            read_torch(put(tmp_path / "a.pt", bomb))
        assert peak() < 10**6
    body = zlib.compress(zeros, 6)[2:-4]
    assert body[:10] in packed
    with pytest.raises(CheckpointError, match="damaged zip entry"):
        read_torch(put(tmp_path / "a.pt", packed.replace(body[:10], b"\xff" * 10))).read("w")


# From the structure to names ------------------------------------------------------------------------------------------


def names_of(path, structure):
    with read_torch(put(path, archive(structure))) as source:
        return source.names, source.extras


def test_names_are_joined_and_training_state_is_left_out(tmp_path):
    path = tmp_path / "a.pt"
    w = tensor()
    assert names_of(path, mapping(b=w, a=w)) == (("b", "a"), {})
    assert names_of(path, mapping(model=mapping(a=w), optimizer=mapping(a=w))) == (
        ("model.a",),
        {"optimizer": "dict of 1"},
    )
    assert names_of(path, mapping(state_dict=mapping(a=w, note=text("x")), ema=mapping(a=w))) == (
        ("a",),
        {"ema": "dict of 1", "note": "str"},
    )
    assert names_of(path, w) == (("tensor",), {})
    assert names_of(path, listing(w, sequence(b"N", w))) == (("0", "1.1"), {"1.0": "NoneType"})
    assert names_of(path, b"}(" + number(7) + w + name("torch.float32") + w + b"N" + w + b"u")[0] == (
        "7",
        "torch.float32",
        "None",
    )
    with pytest.raises(CheckpointError, match=r"holds the tensor 'a\.b' twice"):
        names_of(path, b"}(" + text("a") + mapping(b=w) + text("a.b") + w + b"u")
    with pytest.raises(CheckpointError, match="holds no tensors"):
        names_of(path, mapping(a=number(1)))
    with pytest.raises(CheckpointError, match="holds no tensors"):
        names_of(path, mapping(state_dict=mapping(), other=w))


def laughs(levels, width):
    """A list of the same list, over and over, and at the end of it all a tensor."""
    code = listing(tensor()) + b"q\0"
    for _ in range(levels):
        code += b"0](" + b"h\0" * width + b"eq\0"
    return code


def nested(depth):
    return b"](" * depth + tensor() + b"e" * depth


def test_structures_larger_than_their_pickle_are_refused(tmp_path):
    path = tmp_path / "a.pt"
    long = text("x" * 5000)
    prefixed = b"}" + long + b"](" + b"]" * 20_000 + b"es"
    repeated = b"](}" + long + b"]sq\0" + b"h\0" * 5000 + b"e"
    itself = b"]q\0h\0a"
    for bomb in (laughs(20, 20), laughs(10, 1000), itself, nested(MAX_DEPTH + 1), nested(10**4), prefixed, repeated):
        with peak_memory() as peak:
            with pytest.raises(CheckpointError, match="nested too deeply or refers to itself"):
                names_of(path, bomb)
            assert peak() < 200 * len(bomb) + 3_000_000
    assert len(names_of(path, nested(MAX_DEPTH))[0]) == 1


def test_tensors_that_repeat_elements_are_bounded_together(tmp_path):
    def file(count):
        return archive(mapping(**{f"t{i}": tensor((5000,), (0,)) for i in range(count)}), {"0": bytes(24)})

    with read_torch(put(tmp_path / "a.pt", file(50))) as source:
        assert len(source) == 50
    with pytest.raises(CheckpointError, match="its tensors repeat elements: 10000000 bytes out of a file of"):
        read_torch(put(tmp_path / "a.pt", file(500)))


# Damaged files --------------------------------------------------------------------------------------------------------

PIECES = (
    *(b"." + bytes([code]) for code in b"()]}0Nb\x81\x85\x86\x87\x93\x94Rstuae\x90\x91"),
    *(bytes([code]) for code in b"()]}0Nb\x81\x85\x86\x87\x93\x94Rstuae\x90\x91Q1"),
    b"h\0",
    b"h\1",
    b"q\0",
    b"\x8b\xff\xff\xff\xff",
    b"X\xff\xff\xff\xff",
    b"J\xff\xff\xff\xff",
    number(-1),
    big(2**63),
    name("os.system"),
    name("torch.Size"),
    name("collections.OrderedDict"),
    name("torch._utils._rebuild_tensor_v2"),
    sizes((2**31, 2**31)),
    storage(),
    tensor(),
)
SMALL = {
    archive: mapping(
        state_dict=mapping(a=tensor(), b=tensor((2,), (0,))), epoch=number(3), x=call("torch.Size", sizes((1,)))
    ),
    legacy: mapping(a=tensor(source=six_fields()), b=listing(b"N", b"\x88", sizes((4,)))),
}


def read_everything(path):
    with open_source(path) as source:
        for key in source:
            value = source.read(key, None)
            assert value.nbytes <= 16 * path.stat().st_size
            assert value.shape == source.shape(key)


def fuzz(folder, seed, count):
    """Damage whole files, torch's and those made by hand, and pickles before they are put into an archive."""
    rng = random.Random(seed)
    path = folder / "fuzz.pt"
    whole = [(GOLDEN / file).read_bytes() for file in FILES] + [build(code) for build, code in SMALL.items()]
    total = 0
    for _ in range(count):
        if rng.random() < 0.5:
            content = mutate(rng.choice(whole), rng, PIECES)
        else:
            build = rng.choice(tuple(SMALL))
            content = build(mutate(SMALL[build], rng, PIECES))
        total += refused(read_everything, put(path, content))
    return total


@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 2**32))
def test_damaged_files_are_read_or_refused(tmp_path_factory, seed):
    assert fuzz(tmp_path_factory.getbasetemp(), seed, 50) > 0


@pytest.mark.slow
@settings(deadline=None, max_examples=1000)
@given(seed=st.integers(0, 2**32))
def test_a_hundred_thousand_damaged_files(tmp_path_factory, seed):
    assert fuzz(tmp_path_factory.getbasetemp(), seed, 100) > 0


def test_bytes_that_are_not_those_that_were_written(tmp_path):
    """One bit of a weight is another: the archive's checksum tells. A checksum of 0 was never computed."""
    file = tmp_path / "a.ckpt"
    blob = bytearray(archive(mapping(w=tensor())))
    place = blob.index(DATA["0"])
    blob[place + 5] ^= 1
    file.write_bytes(blob)
    with read_torch(file) as source, pytest.raises(CheckpointError, match="its checksum is another"):
        source.read("w")
    checksum = zlib.crc32(DATA["0"]).to_bytes(4, "little")
    file.write_bytes(bytes(blob).replace(checksum, bytes(4)))
    with read_torch(file) as source:
        assert source.read("w").shape == (2, 3)
