"""A pickle is a program for a stack machine; here is the machine without the instructions that could do harm.

Python's own machine imports whatever a `GLOBAL` names and calls whatever a `REDUCE` asks for, so a pickle from the web
can run anything. This one imports nothing and calls nothing but the builders that it is given: a `GLOBAL` pushes an
inert `Name` if that name is on the list and is refused otherwise; a `REDUCE` on such a name looks its builder up.
Opcodes that torch does not write (the text forms of protocol 0, `INST`, `OBJ`, `EXT`, out-of-band buffers) are refused.

Memory and time are bounded by the pickle's length. What each opcode pushes is no larger than the bytes that it takes,
except where a builder copies a memoised argument: those copies are counted against a budget (`spend`). Keys must be
scalars or short tuples of them, since hashing is recursive in C and would overflow the stack on a deep one.

Source: the opcodes as documented in the module pickletools of Python.
"""

from __future__ import annotations

import pickletools
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tinyldm.checkpoints.base import quoted
from tinyldm.errors import CheckpointError

MAX_PROTOCOL = 5
MAX_LINE = 1000  # of the module or the name in a GLOBAL
MAX_INTEGER = 255  # bytes
MAX_KEY_TUPLE = 16
SCALARS = (str, int, float, bool, bytes, type(None))
STOP = ord(".")


@dataclass(frozen=True)
class Name:
    """The name of something that a pickle mentions, `module.name`; never the thing itself."""

    name: str


@dataclass(eq=False)
class Placeholder:
    """Stands for an object of a class that is known to be of no use here; what a pickle puts into it is dropped."""

    name: str


class Buildable:
    """A value that a `BUILD` completes."""

    def build(self, reader: PickleReader, state: Any) -> None:
        """Take the pickled state, or raise `CheckpointError`."""
        raise NotImplementedError


class PickleReader:
    """Reads the pickles that follow each other in `data`; `load()` returns the next one's value.

    `builders` is the list of allowed globals: what makes the value of a call from the reader and the arguments, or
    None for a name that may be mentioned but not called. `resolve` turns a persistent id into a value.
    """

    def __init__(
        self,
        data: memoryview,
        where: str,
        builders: Mapping[str, Builder | None],
        resolve: Callable[[Any], Any] | None = None,
    ):
        self.data = data
        self.where = where
        self.builders = builders
        self.resolve = resolve
        self.position = 0

    def load(self) -> Any:
        """Run the pickle to its STOP and return what is left on the stack; anything else is a `CheckpointError`."""
        at = self.start = self.position
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.spent = 0
        try:
            while (code := self.take(1)[0]) != STOP:
                if code not in ACTIONS:
                    raise CheckpointError(f"refuses the opcode {opcode_name(code)}, which no tensor needs")
                ACTIONS[code](self)
                at = self.position
            value = self.pop()
            if self.stack or self.marks:
                raise CheckpointError("leaves more than one value")
        except CheckpointError as error:
            raise CheckpointError(f"{self.where}: pickle at byte {at} {error}") from None
        return value

    def spend(self, amount: int) -> None:
        """Account for a copy of `amount` items; the copies of a pickle may not outgrow what was read of it."""
        self.spent += amount
        if self.spent > 4 * (self.position - self.start) + 4096:
            raise CheckpointError("builds more than its own length justifies")

    # The bytes ------------------------------------------------------------------------------------------------------

    def take(self, count: int) -> memoryview:
        """The next `count` bytes."""
        taken = self.data[self.position : self.position + count]
        if len(taken) < count:
            raise CheckpointError(f"ends where {count} more bytes are wanted (truncated?)")
        self.position += count
        return taken

    def take_unsigned(self, width: int) -> int:
        """An unsigned little-endian number of `width` bytes."""
        return int.from_bytes(self.take(width), "little")

    def take_line(self) -> str:
        """Text up to the next newline."""
        line, newline, _ = bytes(self.data[self.position : self.position + MAX_LINE]).partition(b"\n")
        if not newline:
            raise CheckpointError("has a name without end")
        self.position += len(line) + 1
        return text(line)

    # The stack ------------------------------------------------------------------------------------------------------

    def push(self, value: Any) -> None:
        """Put a value on the stack."""
        self.stack.append(value)

    def pop(self) -> Any:
        """Take the top value; one below the last mark is out of reach."""
        if len(self.stack) <= (self.marks[-1] if self.marks else 0):
            raise CheckpointError("takes a value from an empty stack")
        return self.stack.pop()

    def top(self) -> Any:
        """The top value, left in place."""
        value = self.pop()
        self.stack.append(value)
        return value

    def pop_to_mark(self) -> list[Any]:
        """Take everything above the last mark, and the mark."""
        if not self.marks:
            raise CheckpointError("goes back to a mark that was not set")
        mark = self.marks.pop()
        values = self.stack[mark:]
        del self.stack[mark:]
        return values

    def remember(self, index: int) -> None:
        """Keep the top value in the memo."""
        self.memo[index] = self.top()

    def recall(self, index: int) -> None:
        """Push a value out of the memo."""
        if index not in self.memo:
            raise CheckpointError(f"recalls the value {index}, which it has not stored")
        self.push(self.memo[index])

    # Containers -----------------------------------------------------------------------------------------------------

    def key(self, value: Any) -> Any:
        """A value that may be the key of a dict or the member of a set."""
        flat = isinstance(value, (*SCALARS, Name))
        if not flat and type(value) is tuple and len(value) <= MAX_KEY_TUPLE:
            flat = all(isinstance(part, (*SCALARS, Name)) for part in value)
        if not flat:
            raise CheckpointError(f"uses a {type(value).__name__} as a key, wanted a name, a number or a short tuple")
        return value

    def extend(self, values: list[Any]) -> None:
        """APPEND and APPENDS: the values go to the list below them."""
        target = self.top()
        if isinstance(target, list):
            target.extend(values)
        elif not isinstance(target, Placeholder):
            raise CheckpointError(f"appends to a {type(target).__name__}")

    def update(self, values: list[Any]) -> None:
        """SETITEM and SETITEMS: alternating keys and values go to the dict below them."""
        target = self.top()
        if len(values) % 2:
            raise CheckpointError("has a key without a value")
        if isinstance(target, dict):
            for key, value in zip(values[::2], values[1::2], strict=True):
                target[self.key(key)] = value
        elif not isinstance(target, Placeholder):
            raise CheckpointError(f"sets items of a {type(target).__name__}")

    def add(self, values: list[Any]) -> None:
        """ADDITEMS: the values go to the set below them."""
        target = self.top()
        if not isinstance(target, set):
            raise CheckpointError(f"adds members to a {type(target).__name__}")
        target.update(self.key(value) for value in values)

    # Names and what is made of them -----------------------------------------------------------------------------------

    def name(self, module: Any, name: Any) -> None:
        """GLOBAL and STACK_GLOBAL: push a name if it is on the list; nothing is imported."""
        if type(module) is not str or type(name) is not str:
            raise CheckpointError("names a global by something other than text")
        full = f"{module[:MAX_LINE]}.{name[:MAX_LINE]}"
        if full not in self.builders:
            raise CheckpointError(f"refuses the global {quoted(full)}: only tensors and plain containers are read")
        self.push(Name(full))

    def call(self) -> None:
        """REDUCE and NEWOBJ: a name applied to a tuple of arguments; only the builder on the list is run."""
        arguments, function = self.pop(), self.pop()
        if not isinstance(function, Name) or type(arguments) is not tuple:
            raise CheckpointError(
                f"calls a {type(function).__name__}, wanted a name on the list with a tuple of arguments"
            )
        builder = self.builders[function.name]
        if builder is None:
            raise CheckpointError(f"refuses to call {function.name}")
        self.push(builder(self, function.name, arguments))

    def build(self) -> None:
        """BUILD: give a value its state. A dict's is attributes that it carries on the side, which are dropped."""
        state, target = self.pop(), self.top()
        if isinstance(target, Buildable):
            target.build(self, state)
        elif type(target) is not dict and not isinstance(target, Placeholder):
            raise CheckpointError(f"sets the state of a {type(target).__name__}")

    def persistent(self) -> None:
        """BINPERSID: what lies outside of the pickle."""
        if self.resolve is None:
            raise CheckpointError("refers to data outside of the pickle")
        self.push(self.resolve(self.pop()))

    def take_integer(self, length: int) -> int:
        """A signed little-endian number of `length` bytes."""
        if length > MAX_INTEGER:
            raise CheckpointError(f"has an integer of {length} bytes, at most {MAX_INTEGER} are allowed")
        return int.from_bytes(self.take(length), "little", signed=True)

    def check_protocol(self) -> None:
        """PROTO: which version of the opcodes follows."""
        protocol = self.take(1)[0]
        if protocol > MAX_PROTOCOL:
            raise CheckpointError(f"is of protocol {protocol}, at most {MAX_PROTOCOL} is known")

    def discard(self) -> None:
        """POP: drop the top value, or the mark if that is on top."""
        if self.marks and self.marks[-1] == len(self.stack):
            self.marks.pop()
        else:
            self.pop()

    def take_tuple(self, count: int) -> tuple[Any, ...]:
        """The top `count` values, the first pushed first."""
        return tuple(self.pop() for _ in range(count))[::-1]


Builder = Callable[[PickleReader, str, tuple[Any, ...]], Any]


def opcode_name(code: int) -> str:
    """What the pickle documentation calls an opcode."""
    names = {opcode.code: opcode.name for opcode in pickletools.opcodes}
    return names.get(chr(code), f"0x{code:02x}")


def _counted(width: int, made: Callable[[memoryview], Any]) -> Callable[[PickleReader], None]:
    """An action that pushes what is made of bytes, in front of which `width` bytes say how many."""
    return lambda r: r.push(made(r.take(r.take_unsigned(width))))


def text(encoded: bytes | memoryview) -> str:
    """UTF-8, strictly."""
    try:
        return str(encoded, "utf-8")
    except UnicodeDecodeError:
        raise CheckpointError("has text that is not UTF-8") from None


def latin(encoded: memoryview) -> str:
    """The text of Python 2: bytes, one a character."""
    return str(encoded, "latin-1")


ACTIONS: dict[int, Callable[[PickleReader], None]] = {
    ord(code): action
    for code, action in {
        "\x80": PickleReader.check_protocol,
        "\x95": lambda r: r.take(8),  # FRAME: a hint for reading ahead
        "(": lambda r: r.marks.append(len(r.stack)),  # MARK
        "0": PickleReader.discard,  # POP
        "1": PickleReader.pop_to_mark,  # POP_MARK
        "N": lambda r: r.push(None),
        "\x88": lambda r: r.push(True),
        "\x89": lambda r: r.push(False),
        "J": lambda r: r.push(r.take_integer(4)),  # BININT
        "K": lambda r: r.push(r.take_unsigned(1)),  # BININT1
        "M": lambda r: r.push(r.take_unsigned(2)),  # BININT2
        "\x8a": lambda r: r.push(r.take_integer(r.take_unsigned(1))),  # LONG1
        "\x8b": lambda r: r.push(r.take_integer(r.take_unsigned(4))),  # LONG4
        "G": lambda r: r.push(struct.unpack(">d", r.take(8))[0]),  # BINFLOAT
        "\x8c": _counted(1, text),  # SHORT_BINUNICODE
        "X": _counted(4, text),  # BINUNICODE
        "\x8d": _counted(8, text),  # BINUNICODE8
        "U": _counted(1, latin),  # SHORT_BINSTRING
        "T": _counted(4, latin),  # BINSTRING
        "C": _counted(1, bytes),  # SHORT_BINBYTES
        "B": _counted(4, bytes),  # BINBYTES
        "\x8e": _counted(8, bytes),  # BINBYTES8
        "\x96": _counted(8, bytes),  # BYTEARRAY8
        ")": lambda r: r.push(()),
        "t": lambda r: r.push(tuple(r.pop_to_mark())),  # TUPLE
        "\x85": lambda r: r.push(r.take_tuple(1)),
        "\x86": lambda r: r.push(r.take_tuple(2)),
        "\x87": lambda r: r.push(r.take_tuple(3)),
        "]": lambda r: r.push([]),
        "a": lambda r: r.extend([r.pop()]),  # APPEND
        "e": lambda r: r.extend(r.pop_to_mark()),  # APPENDS
        "}": lambda r: r.push({}),
        "s": lambda r: r.update(list(r.take_tuple(2))),  # SETITEM
        "u": lambda r: r.update(r.pop_to_mark()),  # SETITEMS
        "\x8f": lambda r: r.push(set()),
        "\x90": lambda r: r.add(r.pop_to_mark()),  # ADDITEMS
        "\x91": lambda r: r.push(frozenset(r.key(value) for value in r.pop_to_mark())),  # FROZENSET
        "h": lambda r: r.recall(r.take_unsigned(1)),  # BINGET
        "j": lambda r: r.recall(r.take_unsigned(4)),  # LONG_BINGET
        "q": lambda r: r.remember(r.take_unsigned(1)),  # BINPUT
        "r": lambda r: r.remember(r.take_unsigned(4)),  # LONG_BINPUT
        "\x94": lambda r: r.remember(len(r.memo)),  # MEMOIZE
        "c": lambda r: r.name(r.take_line(), r.take_line()),  # GLOBAL
        "\x93": lambda r: r.name(*r.take_tuple(2)),  # STACK_GLOBAL
        "R": PickleReader.call,  # REDUCE
        "\x81": PickleReader.call,  # NEWOBJ
        "b": PickleReader.build,  # BUILD
        "Q": PickleReader.persistent,  # BINPERSID
    }.items()
}
