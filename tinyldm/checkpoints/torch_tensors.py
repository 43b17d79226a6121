"""Tensors as torch pickles them: a view (offset, sizes, strides) of a typed storage whose bytes lie elsewhere."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from tinyldm.checkpoints.base import STORED, TAG_OF_NUMPY, from_stored, quoted
from tinyldm.checkpoints.pickle_globals import PLAIN, NumpyArray, is_shape
from tinyldm.checkpoints.pickle_reader import Builder, Name, PickleReader
from tinyldm.errors import CheckpointError

TORCH_DTYPES = {f"torch.{dtype.name}": tag for dtype, tag in TAG_OF_NUMPY.items()} | {"torch.bfloat16": "BF16"}
TORCH_STORAGES = {
    "torch.DoubleStorage": "F64",
    "torch.FloatStorage": "F32",
    "torch.HalfStorage": "F16",
    "torch.BFloat16Storage": "BF16",
    "torch.LongStorage": "I64",
    "torch.IntStorage": "I32",
    "torch.ShortStorage": "I16",
    "torch.CharStorage": "I8",
    "torch.ByteStorage": "U8",
    "torch.BoolStorage": "BOOL",
    "torch.storage.UntypedStorage": "U8",
}


@dataclass(frozen=True)
class Storage:
    """The bytes of one storage: of which type, how many, where to get them, and in which order.

    `available` is the size of the whole file, by which a tensor that repeats elements (stride 0) is bounded.
    """

    tag: str
    size: int
    available: int
    load: Callable[[], memoryview]
    big_endian: bool = False


@dataclass(frozen=True, eq=False)
class LazyTensor:
    """A tensor whose values are read from its storage when asked for; offset and strides count elements."""

    storage: Storage
    tag: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def read(self, dtype: DTypeLike | None) -> np.ndarray:
        """The tensor in `dtype`, contiguous and read-only; `None` keeps the stored type."""
        stored_type = STORED[self.tag].newbyteorder(">" if self.storage.big_endian else "<")
        width = stored_type.itemsize
        if math.prod(self.shape) == 0:
            stored = np.zeros(self.shape, stored_type)
        else:
            # Sizes of 1 have strides that nothing constrains.
            strides = [stride * width if size > 1 else 0 for size, stride in zip(self.shape, self.strides, strict=True)]
            data = self.storage.load()
            stored = np.ndarray(self.shape, stored_type, data, offset=self.offset * width, strides=strides)
        return from_stored(stored, self.tag, dtype)


def typed_storage(identity: Any, fields: int) -> tuple[str, str, int]:
    """Take a persistent id `("storage", type, key, location, count, …)` apart: the key, the tag and the count."""
    if type(identity) is not tuple or len(identity) != fields or identity[0] != "storage":
        raise CheckpointError(f"refuses a persistent id that is not a storage's of {fields} fields")
    _, kind, key, location, count, *view = identity
    tag = TORCH_STORAGES.get(kind.name) if isinstance(kind, Name) else None
    if tag is None:
        raise CheckpointError("refuses a persistent id without a storage type")
    if type(key) is not str or type(location) is not str or type(count) is not int or not 0 <= count < 2**48:
        raise CheckpointError("refuses a persistent id whose key, location and size are not two texts and a number")
    if view not in ([], [None]):
        raise CheckpointError("refuses a view of a storage: only whole storages are read")
    return key, tag, count


def make_tensor(storage: Any, tag: str | None, offset: Any, shape: Any, strides: Any) -> LazyTensor:
    """Check that a tensor lies in its storage, and that it is no larger than the file can justify."""
    if not isinstance(storage, Storage):
        raise CheckpointError("builds a tensor without a storage")
    if not is_shape(shape) or type(strides) not in (tuple, list) or len(strides) != len(shape):
        raise CheckpointError("builds a tensor whose sizes and strides are not two lists of the same length")
    if type(offset) is not int or offset < 0 or not all(type(stride) is int and stride >= 0 for stride in strides):
        raise CheckpointError("builds a tensor whose offset and strides are not integers from zero up")
    tag = tag or storage.tag
    width, count = STORED[tag].itemsize, math.prod(shape)
    if count:
        last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
        if (last + 1) * width > storage.size:
            reach = f"reaches element {quoted(last)} of a storage of {storage.size} bytes"
            raise CheckpointError(f"builds a tensor {tag} of shape {quoted(tuple(shape))} that {reach}")
        if count > max(storage.size, storage.available):
            raise CheckpointError(f"builds a tensor of {count} elements that repeats those of a smaller storage")
    return LazyTensor(storage, tag, offset if count else 0, tuple(shape), tuple(strides))


# The builders: from the reader, the name that is called, and the arguments, the value --------------------------------


def rebuild_tensor(reader: PickleReader, name: str, arguments: tuple[Any, ...]) -> LazyTensor:
    """`_rebuild_tensor(storage, offset, size, stride)`; `_v2` adds `requires_grad, hooks[, metadata]`.

    `_v3` has a dtype in front of the metadata, which torch writes for tensors that are to be conjugated or negated when
    read; weights are not.
    """
    fewest = {"_v2": 6, "_v3": 7}.get(name[-3:], 4)
    if not fewest <= len(arguments) <= (fewest + 1 if fewest > 4 else 4):
        raise CheckpointError(f"calls {name} with {len(arguments)} arguments")
    if any(arguments[fewest:]):
        raise CheckpointError("refuses a tensor with metadata (a lazily conjugated or negated one)")
    storage, offset, shape, strides, *more = arguments
    if fewest < 7:
        return make_tensor(storage, None, offset, shape, strides)
    tag = TORCH_DTYPES.get(more[2].name) if isinstance(more[2], Name) else None
    if tag is None:
        raise CheckpointError("builds a tensor of an unknown dtype")
    return make_tensor(storage, tag, offset, shape, strides)


def rebuild_parameter(reader: PickleReader, name: str, arguments: tuple[Any, ...]) -> LazyTensor:
    """`_rebuild_parameter(tensor, requires_grad, hooks)`, `_with_state` one more: the tensor."""
    if not arguments or not isinstance(arguments[0], LazyTensor):
        raise CheckpointError("builds a parameter of something other than a tensor")
    return arguments[0]


def rebuild_from_numpy(reader: PickleReader, name: str, arguments: tuple[Any, ...]) -> NumpyArray:
    """`_rebuild_device_tensor_from_numpy(array, dtype, device, requires_grad)`: the array."""
    if not arguments or not isinstance(arguments[0], NumpyArray):
        raise CheckpointError("builds a tensor of something other than a NumPy array")
    return arguments[0]


def rebuild_from_type(reader: PickleReader, name: str, arguments: tuple[Any, ...]) -> LazyTensor:
    """`_rebuild_from_type_v2(function, type, arguments, state)`: a tensor with attributes, which are dropped."""
    if len(arguments) != 4 or not isinstance(arguments[0], Name) or type(arguments[2]) is not tuple:
        raise CheckpointError(f"calls {name} in an unknown form")
    function = arguments[0].name
    if function not in REBUILD:
        raise CheckpointError(f"refuses to call {function} by way of {name}")
    return REBUILD[function](reader, function, arguments[2])


def size(reader: PickleReader, name: str, arguments: tuple[Any, ...]) -> tuple[int, ...]:
    """`torch.Size([…])` as a tuple."""
    if len(arguments) != 1 or not is_shape(arguments[0]):
        raise CheckpointError("builds a torch.Size of something other than sizes")
    return tuple(arguments[0])


REBUILD: dict[str, Callable[[PickleReader, str, tuple[Any, ...]], LazyTensor]] = {
    "torch._utils._rebuild_tensor": rebuild_tensor,
    "torch._utils._rebuild_tensor_v2": rebuild_tensor,
    "torch._utils._rebuild_tensor_v3": rebuild_tensor,
    "torch._utils._rebuild_parameter": rebuild_parameter,
    "torch._utils._rebuild_parameter_with_state": rebuild_parameter,
}
BUILDERS: dict[str, Builder | None] = {
    **PLAIN,
    **REBUILD,
    **dict.fromkeys([*TORCH_DTYPES, *TORCH_STORAGES]),
    **dict.fromkeys(("torch.Tensor", "torch._tensor.Tensor", "torch.nn.parameter.Parameter")),
    "torch._tensor._rebuild_from_type_v2": rebuild_from_type,
    "torch._utils._rebuild_device_tensor_from_numpy": rebuild_from_numpy,
    "torch.Size": size,
}
