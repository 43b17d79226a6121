"""What a pickle of weights may mention: plain containers, NumPy's numbers and arrays, and names known to be inert.

A name that is not here (or in `torch_pickle`, for tensors) is refused. `INERT` lists classes of training frameworks
that published checkpoints carry beside their weights; an object of theirs becomes a `Placeholder` that keeps nothing.
"""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np

from tinyldm.checkpoints.base import HeldArray, quoted
from tinyldm.checkpoints.pickle_reader import Buildable, Builder, Name, PickleReader, Placeholder
from tinyldm.checkpoints.safetensors import countable
from tinyldm.errors import CheckpointError

BUILTINS = ("builtins", "__builtin__")  # Python 3, and 2 or protocol 2
NUMPY_CORES = ("numpy.core", "numpy._core")  # before NumPy 2, and since
LIGHTNING = ("pytorch_lightning", "lightning.pytorch")
PLAIN_DTYPE = re.compile(r"[<>|=]?(b1|i[1248]|u[1248]|f[248])")


class NumpyDtype(Buildable):
    """A plain NumPy type; a `BUILD` sets its byte order."""

    def __init__(self, dtype: np.dtype):
        self.value = dtype

    def build(self, reader: PickleReader, state: Any) -> None:
        """Take the state `(version, byte order, None, None, None, -1, -1, 0)`, of which only the order can matter."""
        order = state[1] if type(state) is tuple and len(state) > 1 else None
        if type(order) is not str or order not in ("<", ">", "|", "=") or any(part for part in state[2:5]):
            raise CheckpointError("refuses a NumPy dtype with fields or of an unknown byte order")
        self.value = self.value.newbyteorder(order)  # type: ignore[arg-type]  # one of the four above


class NumpyArray(HeldArray, Buildable):
    """An array out of a pickle, read-only and not copied; a `BUILD` gives it its shape and its bytes."""

    def __init__(self) -> None:
        super().__init__(np.zeros(0))

    def build(self, reader: PickleReader, state: Any) -> None:
        """Take the state `(version, shape, dtype, Fortran order, bytes)`."""
        if type(state) is not tuple or len(state) != 5:
            raise CheckpointError("refuses a NumPy array with a state of unknown form")
        _, shape, dtype, fortran, data = state
        data = as_bytes(reader, data)
        if not isinstance(dtype, NumpyDtype) or not is_shape(shape):
            raise CheckpointError("refuses a NumPy array of anything but plain numbers")
        if math.prod(shape) * dtype.value.itemsize != len(data):
            what = f"a NumPy array of {len(data)} bytes"
            raise CheckpointError(f"refuses {what} whose shape and dtype take another number")
        self.value = np.frombuffer(data, dtype.value).reshape(shape, order="F" if fortran else "C")


class ParameterDict(dict[Any, Any], Buildable):
    """`torch.nn.ParameterDict`, a module that is nothing but a dict of parameters (textual inversion files have it)."""

    def build(self, reader: PickleReader, state: Any) -> None:
        """Take a module's state: its `_parameters`."""
        parameters = state.get("_parameters") if type(state) is dict else None
        if type(parameters) is not dict:
            raise CheckpointError("refuses a ParameterDict without _parameters")
        self.update(parameters)


def is_shape(shape: Any) -> bool:
    """Whether a value is a tuple or list of sizes that can be counted."""
    sizes = type(shape) in (tuple, list) and all(type(size) is int and size >= 0 for size in shape)
    return sizes and countable(shape)


def as_bytes(reader: PickleReader, data: Any) -> bytes:
    """Bytes, which Python 2 and protocol 2 write as text of one character a byte."""
    if type(data) is str:
        reader.spend(len(data))
        try:
            return data.encode("latin-1")
        except UnicodeEncodeError:
            raise CheckpointError("has bytes written as text with characters beyond 255") from None
    if type(data) is not bytes:
        raise CheckpointError(f"has a {type(data).__name__} where bytes are wanted")
    return data


# The builders: from the reader, the name that is called, and the arguments, the value --------------------------------


def placeholder(reader: PickleReader, name: str, arguments: tuple[Any, ...]) -> Placeholder:
    """An object of a class that is of no use here."""
    return Placeholder(name)


def reconstructor(reader: PickleReader, name: str, arguments: tuple[Any, ...]) -> Placeholder:
    """`copyreg._reconstructor(class, base, state)`: how protocol 2 writes objects; for inert classes only."""
    cls = arguments[0] if arguments else None
    if not isinstance(cls, Name) or cls.name not in INERT:
        raise CheckpointError(f"refuses to build an object of {cls.name if isinstance(cls, Name) else 'no class'}")
    return Placeholder(cls.name)


def ordered_dict(reader: PickleReader, name: str, arguments: tuple[Any, ...]) -> dict[Any, Any]:
    """`OrderedDict()`, or from a list of pairs: a dict keeps its order anyway."""
    pairs = arguments[0] if arguments else []
    if type(pairs) is not list or len(arguments) > 1:
        raise CheckpointError("builds an OrderedDict of something other than a list")
    reader.spend(len(pairs))
    if not all(type(pair) in (list, tuple) and len(pair) == 2 for pair in pairs):
        raise CheckpointError("builds an OrderedDict of something other than pairs")
    return {reader.key(key): value for key, value in pairs}


def default_dict(reader: PickleReader, name: str, arguments: tuple[Any, ...]) -> dict[Any, Any]:
    """`defaultdict(factory)`: an empty dict; the factory is not kept."""
    return {}


def counter(reader: PickleReader, name: str, arguments: tuple[Any, ...]) -> dict[Any, Any]:
    """`Counter({…})`: the dict that it counts in."""
    if len(arguments) != 1 or type(arguments[0]) is not dict:
        raise CheckpointError("builds a Counter of something other than a dict")
    return arguments[0]


def members(reader: PickleReader, name: str, arguments: tuple[Any, ...]) -> set[Any] | frozenset[Any]:
    """`set([…])` and `frozenset([…])`."""
    if len(arguments) != 1 or type(arguments[0]) is not list:
        raise CheckpointError(f"builds a {name} of something other than a list")
    reader.spend(len(arguments[0]))
    found = {reader.key(value) for value in arguments[0]}
    return found if name.endswith(".set") else frozenset(found)


def encode(reader: PickleReader, name: str, arguments: tuple[Any, ...]) -> bytes:
    """`_codecs.encode(text, "latin1")`: how protocol 2 writes bytes."""
    if len(arguments) != 2 or type(arguments[0]) is not str or arguments[1] not in ("latin1", "latin-1"):
        raise CheckpointError("encodes something other than text to latin1")
    return as_bytes(reader, arguments[0])


def no_bytes(reader: PickleReader, name: str, arguments: tuple[Any, ...]) -> bytes:
    """`bytes()`: how protocol 2 writes none."""
    if arguments:
        raise CheckpointError(f"refuses to call {name} with arguments")
    return b""


def parameter_dict(reader: PickleReader, name: str, arguments: tuple[Any, ...]) -> ParameterDict:
    """An empty `torch.nn.ParameterDict`."""
    return ParameterDict()


def numpy_dtype(reader: PickleReader, name: str, arguments: tuple[Any, ...]) -> NumpyDtype:
    """`numpy.dtype("f8", …)` of plain numbers."""
    text = arguments[0] if arguments else None
    if type(text) is not str or not PLAIN_DTYPE.fullmatch(text):
        raise CheckpointError(f"refuses the NumPy dtype {quoted(text)}, which is not a plain number's")
    return NumpyDtype(np.dtype(text))


def numpy_scalar(reader: PickleReader, name: str, arguments: tuple[Any, ...]) -> int | float | bool:
    """`scalar(dtype, bytes)` as a Python number."""
    if len(arguments) != 2 or not isinstance(arguments[0], NumpyDtype):
        raise CheckpointError("refuses a NumPy scalar of anything but a plain number")
    dtype, data = arguments[0].value, as_bytes(reader, arguments[1])
    if len(data) != dtype.itemsize:
        raise CheckpointError(f"has a NumPy scalar {dtype} of {len(data)} bytes")
    value: int | float | bool = np.frombuffer(data, dtype)[0].item()
    return value


def numpy_array(reader: PickleReader, name: str, arguments: tuple[Any, ...]) -> NumpyArray:
    """`_reconstruct(ndarray, (0,), b"b")`: an empty array that a BUILD fills."""
    if not arguments or arguments[0] != Name("numpy.ndarray"):
        raise CheckpointError("refuses a NumPy array of another class than ndarray")
    return NumpyArray()


INERT = frozenset(
    {f"{root}.callbacks.{name}" for root in LIGHTNING for name in ("ModelCheckpoint", "EarlyStopping")}
    | {f"{root}.callbacks.model_checkpoint.ModelCheckpoint" for root in LIGHTNING}
    | {f"{root}.callbacks.early_stopping.EarlyStopping" for root in LIGHTNING}
    | {f"{root}.utilities.parsing.AttributeDict" for root in LIGHTNING}
    | {"lightning_fabric.utilities.data.AttributeDict", "lightning.fabric.utilities.data.AttributeDict"}
    | {"omegaconf.dictconfig.DictConfig", "omegaconf.listconfig.ListConfig"}
    | {f"omegaconf.base.{name}" for name in ("Metadata", "ContainerMetadata")}
    | {f"omegaconf.nodes.{kind}Node" for kind in ("Any", "Integer", "Float", "Boolean", "String", "Enum")}
    | {"argparse.Namespace", "pathlib.PosixPath", "pathlib.WindowsPath", "pathlib.PurePosixPath", "torch.device"}
)
MENTIONED = {f"typing.{name}" for name in ("Any", "Dict", "List", "Union", "Optional")} | {
    f"{module}.{name}"
    for module in BUILTINS
    for name in ("object", "int", "float", "bool", "str", "list", "dict", "tuple", "long", "unicode")
}
PLAIN: dict[str, Builder | None] = {
    **dict.fromkeys(MENTIONED),
    **dict.fromkeys(INERT, placeholder),
    **{f"{module}.{name}": members for module in BUILTINS for name in ("set", "frozenset")},
    **dict.fromkeys(("copyreg._reconstructor", "copy_reg._reconstructor"), reconstructor),
    **{f"{module}.bytes": no_bytes for module in BUILTINS},
    "collections.OrderedDict": ordered_dict,
    "collections.defaultdict": default_dict,
    "collections.Counter": counter,
    "_codecs.encode": encode,
    "torch.nn.modules.container.ParameterDict": parameter_dict,
    "numpy.ndarray": None,
    "numpy.dtype": numpy_dtype,
    **{f"{core}.multiarray.scalar": numpy_scalar for core in NUMPY_CORES},
    **{f"{core}.multiarray._reconstruct": numpy_array for core in NUMPY_CORES},
}
