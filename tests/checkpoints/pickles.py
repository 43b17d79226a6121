"""Pickles and torch files put together by hand, opcode by opcode, so that they can say what torch never would."""

import io
import struct
import zipfile

STOP = b"."


def text(value):
    raw = value.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def number(value):
    return b"J" + struct.pack("<i", value)


def big(value):
    raw = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(raw)]) + raw


def name(full):
    module, _, last = full.rpartition(".")
    return f"c{module}\n{last}\n".encode()


def sequence(*items):
    return b"(" + b"".join(items) + b"t"


def listing(*items):
    return b"](" + b"".join(items) + b"e"


def mapping(**items):
    return b"}(" + b"".join(text(key) + value for key, value in items.items()) + b"u"


def call(function, *arguments):
    return name(function) + sequence(*arguments) + b"R"


def storage(key="0", kind="torch.FloatStorage", count=6, more=()):
    return sequence(text("storage"), name(kind), text(key), text("cpu"), number(count), *more) + b"Q"


def sizes(values):
    return sequence(*(big(value) for value in values))


def tensor(shape=(2, 3), strides=(3, 1), offset=0, source=None):
    hooks = call("collections.OrderedDict")
    arguments = [source or storage(), big(offset), sizes(shape), sizes(strides), b"\x89", hooks]
    return call("torch._utils._rebuild_tensor_v2", *arguments)


DATA = {"0": struct.pack("<6f", *range(6))}


def archive(pickle, storages=DATA, compression=zipfile.ZIP_STORED, protocol=b"\x80\x02", **more):
    """A zip checkpoint of one pickle."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as zipped:
        zipped.writestr("model/data.pkl", protocol + pickle + STOP)
        for key, value in storages.items():
            zipped.writestr(f"model/data/{key}", value)
        for key, value in more.items():
            zipped.writestr(f"model/{key}", value)
    return file.getvalue()


def legacy(pickle, storages=DATA, width=4, keys=None, little=b"\x88"):
    """A legacy checkpoint of one pickle; storages are referred to with six fields there."""
    start = b"".join(
        b"\x80\x02" + part + STOP
        for part in (
            big(0x1950A86A20F9469CFC6C),
            b"M" + struct.pack("<H", 1001),
            mapping(protocol_version=number(1001), little_endian=little),
            pickle,
            listing(*map(text, storages)) if keys is None else keys,
        )
    )
    return start + b"".join(struct.pack("<q", len(value) // width) + value for value in storages.values())
