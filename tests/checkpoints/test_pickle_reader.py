"""Whatever Python's own unpickler makes of harmless pickles, this reader makes too; of the others it makes nothing."""

import math
import os
import pickle
import struct
import subprocess
from collections import Counter, OrderedDict, defaultdict

import numpy as np
import pytest
from checkpoints.damage import peak_memory
from checkpoints.pickles import big, call, listing, mapping, name, number, sequence, text
from hypothesis import given, settings
from hypothesis import strategies as st

from tinyldm.checkpoints.pickle_globals import INERT, PLAIN, NumpyArray, ParameterDict
from tinyldm.checkpoints.pickle_reader import Name, PickleReader, Placeholder
from tinyldm.errors import CheckpointError


def load(data):
    return PickleReader(memoryview(data), "file", PLAIN).load()


keys = st.one_of(st.text(st.characters(exclude_categories=["Cs"])), st.integers(), st.booleans(), st.none())
scalars = st.one_of(keys, st.floats(allow_nan=False), st.binary())
structures = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner),
        st.lists(inner).map(tuple),
        st.dictionaries(st.one_of(keys, st.tuples(keys, keys)), inner),
        st.dictionaries(keys, inner).map(OrderedDict),
        st.sets(keys),
        st.frozensets(keys),
    ),
    max_leaves=12,
)


@settings(deadline=None, max_examples=100)
@given(structures, st.integers(2, 5))
def test_plain_structures_come_out_as_python_reads_them(value, protocol):
    assert load(pickle.dumps(value, protocol)) == value


@settings(deadline=None, max_examples=50)
@given(structures)
def test_sharing_survives(value):
    shared = [value]
    first, second = load(pickle.dumps((shared, shared), 2))
    assert first is second


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_numpy_and_collections_are_read(protocol):
    array = np.arange(6, dtype=">f4").reshape(2, 3).T
    value = {
        "array": array,
        "fortran": np.asfortranarray(array),
        "empty": np.zeros((0, 2), bool),
        "scalars": [np.float64(0.5), np.int32(-3), np.bool_(True), np.float16(2)],
        "default": defaultdict(list, a=1),
        "counter": Counter("aab"),
    }
    if protocol == 5:  # writes arrays in another form, which torch never asks for
        value = {key: part for key, part in value.items() if not isinstance(part, np.ndarray)}
    read = load(pickle.dumps(value, protocol))
    for key in ("array", "fortran", "empty"):
        if key in read:
            assert isinstance(read[key], NumpyArray)
            assert read[key].shape == value[key].shape
            np.testing.assert_array_equal(read[key].read(None), value[key])
            assert not read[key].read(None).flags.writeable
    assert read["scalars"] == [0.5, -3, True, 2]
    assert read["default"] == {"a": 1}
    assert read["counter"] == {"a": 2, "b": 1}


def test_text_and_bytes_of_python_2_are_read():
    assert load(b"\x80\x02U\x03ab\xe9.") == "ab\xe9"
    assert load(b"\x80\x02T\x03\0\0\0ab\xe9.") == "ab\xe9"
    scalar = call("numpy.core.multiarray.scalar", call("numpy.dtype", text("f8")), b"U\x08" + struct.pack("<d", 2.5))
    assert load(scalar + b".") == 2.5


def test_inert_classes_become_placeholders_that_keep_nothing():
    cls = "pytorch_lightning.utilities.parsing.AttributeDict"
    made = load(name(cls) + b")\x81" + text("k") + number(1) + b"s" + mapping(state=number(2)) + b"b.")
    assert isinstance(made, Placeholder)
    assert made.name == cls
    made = load(name("omegaconf.listconfig.ListConfig") + b")R" + number(1) + b"a" + mapping() + b"b.")
    assert made.name == "omegaconf.listconfig.ListConfig"
    made = load(call("copy_reg._reconstructor", name(cls), name("__builtin__.dict"), mapping()) + b".")
    assert made.name == cls
    checkpoint = "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint"
    assert load(b"}" + name(checkpoint) + number(1) + b"s.") == {Name(checkpoint): 1}
    assert all(type(found) is Placeholder for found in (load(call(inert) + b".") for inert in INERT))


def test_a_parameter_dict_is_the_dict_of_its_parameters():
    made = load(
        name("torch.nn.modules.container.ParameterDict")
        + b")\x81"
        + mapping(training=b"\x88", _parameters=b"}" + text("*") + number(7) + b"s")
        + b"b."
    )
    assert isinstance(made, ParameterDict)
    assert made == {"*": 7}
    with pytest.raises(CheckpointError, match="ParameterDict without _parameters"):
        load(name("torch.nn.modules.container.ParameterDict") + b")\x81" + mapping() + b"b.")


class Hostile:
    """Runs a command when Python unpickles it."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", range(6))
def test_what_python_would_run_is_refused(tmp_path, protocol):
    canary = tmp_path / "canary"
    payload = pickle.dumps({"state_dict": Hostile(os.system, f"touch {canary}")}, protocol)
    with pytest.raises(CheckpointError, match="refuses"):
        load(payload)
    assert not canary.exists()
    pickle.loads(payload)
    assert canary.exists()  # so the payload was a live one
    for function in (eval, exec, getattr, __import__, open, subprocess.Popen, os.remove, print):
        with pytest.raises(CheckpointError, match="refuses"):
            load(pickle.dumps(Hostile(function, "x"), protocol))


HOSTILE = {
    "REDUCE": (call("os.system", text("true")), r"byte 0 refuses the global 'os\.system'"),
    "posix": (call("posix.system", text("true")), r"refuses the global 'posix\.system'"),
    "eval": (call("builtins.eval", text("1")), r"refuses the global 'builtins\.eval'"),
    "python 2": (call("__builtin__.eval", text("1")), r"refuses the global '__builtin__\.eval'"),
    "getattr": (call("builtins.getattr", text("1")), r"refuses the global 'builtins\.getattr'"),
    "torch loader": (call("torch.storage._load_from_bytes", text("1")), "refuses the global"),
    "hub": (call("torch.hub.load", text("1")), r"refuses the global 'torch\.hub\.load'"),
    "numpy file": (call("numpy.load", text("1")), r"refuses the global 'numpy\.load'"),
    "lazy import": (call("numpy.testing._private.utils.runstring", text("1")), "refuses the global"),
    "STACK_GLOBAL": (text("os") + text("system") + b"\x93", r"refuses the global 'os\.system'"),
    "STACK_GLOBAL of numbers": (number(1) + text("system") + b"\x93", "by something other than text"),
    "split elsewhere": (text("collections.x") + text("OrderedDict") + b"\x93", "refuses the global"),
    "nothing": (text("") + text("") + b"\x93", r"refuses the global '\.'"),
    "line break in a name": (text("os\n") + text("system") + b"\x93", r"'os\\n\.system'"),
    "long name": (text("o" * 10**6) + text("s" * 10**6) + b"\x93", "o…:"),
    "endless line": (b"c" + b"o" * 10**5, "a name without end"),
    "INST": (b"(" + text("true") + b"ios\nsystem\n", "refuses the opcode INST"),
    "OBJ": (b"(" + b"cos\nsystem\n" + text("true") + b"o", r"refuses the global 'os\.system'"),
    "OBJ itself": (b"(" + name("collections.OrderedDict") + b"o", "refuses the opcode OBJ"),
    "NEWOBJ": (b"cos\nsystem\n" + sequence(text("true")) + b"\x81", "refuses the global"),
    "NEWOBJ_EX": (name("collections.OrderedDict") + b")}\x92", "refuses the opcode NEWOBJ_EX"),
    "EXT1": (b"\x82\x01", "refuses the opcode EXT1"),
    "EXT2": (b"\x83\x01\x01", "refuses the opcode EXT2"),
    "EXT4": (b"\x84\x01\x01\x01\x01", "refuses the opcode EXT4"),
    "PERSID": (b"Pname\n", "refuses the opcode PERSID"),
    "BINPERSID": (text("x") + b"Q", "refers to data outside"),
    "NEXT_BUFFER": (b"\x97", "refuses the opcode NEXT_BUFFER"),
    "READONLY_BUFFER": (b"N\x98", "refuses the opcode READONLY_BUFFER"),
    "protocol 0": (b"S'text'\n", "refuses the opcode STRING"),
    "no opcode": (b"\xff", "refuses the opcode 0xff"),
    "protocol 6": (b"\x80\x06N", "of protocol 6, at most 5"),
    "BUILD of a name": (name("collections.OrderedDict") + b"}b", "sets the state of a Name"),
    "BUILD of a list": (b"]" + mapping(__setstate__=number(1)) + b"b", "sets the state of a list"),
    "BUILD of text": (text("x") + mapping(__class__=number(1)) + b"b", "sets the state of a str"),
    "call of text": (text("os.system") + sequence(text("true")) + b"R", "calls a str"),
    "call of a call": (call("collections.OrderedDict") + b")R", "calls a dict"),
    "call with a list": (name("collections.OrderedDict") + b"]R", "calls a Name, wanted .* tuple"),
    "call of bytes": (call("builtins.bytes", number(5)), r"refuses to call builtins\.bytes with arguments"),
    "call of a mention": (call("builtins.int", text("1")), r"refuses to call builtins\.int"),
    "reconstructor": (
        call("copyreg._reconstructor", name("builtins.object")),
        "refuses to build an object of builtins",
    ),
    "reconstructor of nothing": (call("copyreg._reconstructor"), "refuses to build an object of no class"),
    "OrderedDict of text": (call("collections.OrderedDict", text("ab")), "something other than a list"),
    "OrderedDict of numbers": (call("collections.OrderedDict", listing(number(1))), "other than pairs"),
    "OrderedDict of two": (call("collections.OrderedDict", b"]", b"]"), "something other than a list"),
    "Counter of text": (call("collections.Counter", text("ab")), "other than a dict"),
    "set of text": (call("builtins.set", text("ab")), "something other than a list"),
    "rot13": (call("_codecs.encode", text("ab"), text("rot13")), "other than text to latin1"),
    "encode beyond": (call("_codecs.encode", text("ж"), text("latin1")), "characters beyond 255"),
    "dtype object": (call("numpy.dtype", text("O8")), "refuses the NumPy dtype 'O8'"),
    "dtype record": (call("numpy.dtype", text("f8,f8")), "refuses the NumPy dtype"),
    "dtype list": (call("numpy.dtype", b"]"), "refuses the NumPy dtype"),
    "dtype state": (call("numpy.dtype", text("f8")) + sequence(number(3), text("?")) + b"b", "unknown byte order"),
    "scalar of a name": (call("numpy.core.multiarray.scalar", text("f8"), text("x")), "but a plain number"),
    "scalar too short": (
        call("numpy.core.multiarray.scalar", call("numpy.dtype", text("f8")), text("x")),
        "of 1 bytes",
    ),
    "scalar of a list": (
        call("numpy.core.multiarray.scalar", call("numpy.dtype", text("f8")), b"]"),
        "has a list where",
    ),
    "array subclass": (call("numpy.core.multiarray._reconstruct", name("builtins.list")), "another class than ndarray"),
    "list as a key": (b"}]Ns", "uses a list as a key"),
    "tuple of lists as a key": (b"}(]tNs", "uses a tuple as a key"),
    "list in a set": (b"\x8f(]\x90", "uses a list as a key"),
    "list in a frozenset": (b"(]\x91", "uses a list as a key"),
    "key without a value": (b"}(Nu", "a key without a value"),
    "items of text": (text("x") + b"(NNu", "sets items of a str"),
    "append to text": (text("x") + b"Na", "appends to a str"),
    "add to a list": (b"](N\x90", "adds members to a list"),
    "empty stack": (b"0", "takes a value from an empty stack"),
    "below the mark": (b"N(0a", "takes a value from an empty stack"),
    "no mark": (b"Nt", "a mark that was not set"),
    "unknown memo": (b"h\x05", "recalls the value 5"),
    "two values": (b"NN", "leaves more than one value"),
    "a mark left": (b"N(", "takes a value from an empty stack"),
    "no value": (b"", "takes a value from an empty stack"),
    "text not UTF-8": (b"X\x01\0\0\0\xff", "text that is not UTF-8"),
    "surrogate": (b"X\x03\0\0\0\xed\xa0\x80", "text that is not UTF-8"),
    "huge integer": (b"\x8b" + struct.pack("<I", 300) + bytes(300), "an integer of 300 bytes, at most 255"),
    "absurd text": (b"\x8d" + struct.pack("<Q", 2**62), "ends where 4611686018427387904 more"),
    "absurd bytes": (b"\x8e" + struct.pack("<Q", 2**64 - 1), "ends where"),
    "absurd bytearray": (b"\x96" + struct.pack("<Q", 2**64 - 1), "ends where"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_refusals_name_what_they_refuse(kind):
    code, message = HOSTILE[kind]
    with pytest.raises(CheckpointError, match=message) as caught:
        load(code + b".")
    assert str(caught.value).startswith("file: pickle at byte ")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


def array_state(shape, dtype, data):
    reconstruct = call("numpy.core.multiarray._reconstruct", name("numpy.ndarray"), sequence(number(0)), text("b"))
    return reconstruct + sequence(number(1), shape, dtype, b"\x89", data) + b"b."


def test_numpy_arrays_that_lie_are_refused():
    double = call("numpy.dtype", text("f8"))
    assert load(array_state(sequence(number(1)), double, b"C\x08" + bytes(8))).shape == (1,)
    for shape, dtype, data, message in [
        (sequence(number(2)), double, b"C\x08" + bytes(8), "of 8 bytes whose shape"),
        (sequence(number(-1)), double, b"C\x08" + bytes(8), "anything but plain numbers"),
        (sequence(big(2**62), number(0)), double, b"C\0", "anything but plain numbers"),
        (number(1), double, b"C\0", "anything but plain numbers"),
        (sequence(number(0)), text("f8"), b"C\0", "anything but plain numbers"),
        (sequence(number(0)), double, b"]", "has a list where bytes are wanted"),
    ]:
        with pytest.raises(CheckpointError, match=message):
            load(array_state(shape, dtype, data))
    with pytest.raises(CheckpointError, match="state of unknown form"):
        load(call("numpy._core.multiarray._reconstruct", name("numpy.ndarray")) + b"Nb.")


def test_every_end_but_the_last_is_refused():
    whole = pickle.dumps({"a": [1.5, "text", b"bytes", (1, 2)], "b": OrderedDict(x=np.float32(1))}, 2)
    for length in range(len(whole)):
        with pytest.raises(CheckpointError):
            load(whole[:length])


BOMBS = {
    "list repeated in OrderedDicts": b"]("
    + (b"(NNt" * 5000)
    + b"eq\x00"
    + (b"ccollections\nOrderedDict\n(h\x00tR0" * 5000),
    "text repeated in encodings": text("x" * 10**5)
    + b"q\0"
    + text("latin1")
    + b"q\1"
    + b"c_codecs\nencode\n(h\0h\1tR0" * 5000,
    "list repeated in sets": listing(*(number(i) for i in range(5000))) + b"q\0" + b"cbuiltins\nset\n(h\0tR0" * 5000,
}


@pytest.mark.parametrize("kind", BOMBS)
def test_copies_are_bounded_by_what_was_read(kind):
    with peak_memory() as peak:
        with pytest.raises(CheckpointError, match="more than its own length justifies"):
            load(BOMBS[kind] + b".")
        assert peak() < 50 * len(BOMBS[kind])


DEEP = 100_000
NESTS = {
    tuple: b"N" + b"\x85" * DEEP,
    list: b"]" * DEEP + b"a" * (DEEP - 1),
    dict: b"}N" * DEEP + b"N" + b"s" * DEEP,
    frozenset: b"(" * DEEP + b"N" + b"\x91" * DEEP,
}


@pytest.mark.parametrize("kind", NESTS)
def test_deep_nesting_does_not_overflow_the_stack(kind):
    if kind is frozenset:
        with pytest.raises(CheckpointError, match="uses a frozenset as a key"):
            load(NESTS[kind] + b".")
        return
    assert type(load(NESTS[kind] + b".")) is kind
    with pytest.raises(CheckpointError, match=f"uses a {kind.__name__} as a key"):
        load(b"}" + NESTS[kind] + b"Ns.")


def test_a_list_inside_itself_is_read():
    value = []
    value.append(value)
    read = load(pickle.dumps(value, 2))
    assert read[0] is read
    pair = ([],)
    pair[0].append(pair)
    read = load(pickle.dumps(pair, 2))
    assert read[0][0] is read


def test_floats_keep_their_bits():
    for value in (math.inf, -0.0, 5e-324, math.nan):
        assert struct.pack("<d", load(pickle.dumps(value, 2))) == struct.pack("<d", value)
