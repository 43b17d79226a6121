"""Where the entries of a zip archive lie, so that those stored without compression can be read where they are."""

from __future__ import annotations

import zipfile
import zlib
from dataclasses import dataclass

from tinyldm.checkpoints.base import MappedFile, quoted
from tinyldm.errors import CheckpointError

LOCAL_HEADER = 30  # bytes in front of an entry's name and extra field
ENCRYPTED = 1  # flag bit
# How far a compressed entry may grow: weights shrink to half at best, but deflate could claim a thousand times as much.
MAX_GROWTH = 4  # times the size of the whole file
ALWAYS_ALLOWED = 1 << 16  # bytes, however small the file is


@dataclass(frozen=True)
class ZipEntry:
    """The bytes of an entry in the file, and its size once decompressed."""

    begin: int
    end: int
    size: int
    deflated: bool
    checksum: int


def read_directory(file: MappedFile) -> dict[str, ZipEntry]:
    """The entries by name; what is damaged, encrypted, doubled or overlapping is a `CheckpointError`."""
    try:
        with zipfile.ZipFile(file.path) as archive:
            found = archive.infolist()
    except Exception as error:  # on a damaged directory zipfile raises whatever it stumbles over
        what = error or type(error).__name__
        raise CheckpointError(f"{file.path}: damaged zip archive (truncated?): {what}") from None
    entries: dict[str, ZipEntry] = {}
    position = 0
    for info in sorted(found, key=lambda info: info.header_offset):
        if info.filename in entries:
            raise CheckpointError(f"{file.path}: zip entry {quoted(info.filename)} is there twice")
        if info.header_offset < position:
            raise CheckpointError(f"{file.path}: zip entry {quoted(info.filename)} overlaps the one before")
        entry = locate(file, info)
        entries[info.filename] = entry
        position = entry.end
    return entries


def locate(file: MappedFile, info: zipfile.ZipInfo) -> ZipEntry:
    """Find the data of an entry behind its local header."""
    where = f"{file.path}: zip entry {quoted(info.filename)}"
    if info.flag_bits & ENCRYPTED:
        raise CheckpointError(f"{where} is encrypted")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise CheckpointError(f"{where} is compressed by method {info.compress_type}, wanted none or deflate")
    deflated = info.compress_type == zipfile.ZIP_DEFLATED
    if info.header_offset + LOCAL_HEADER > file.size:
        raise CheckpointError(f"{where} begins behind the end of the file (truncated?)")
    header = bytes(file.view(info.header_offset, info.header_offset + LOCAL_HEADER))
    if not header.startswith(b"PK\3\4"):
        raise CheckpointError(f"{where} has no header where the directory says")
    variable = int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
    begin = info.header_offset + LOCAL_HEADER + variable
    end = begin + info.compress_size
    if end > file.size:
        raise CheckpointError(f"{where} ends behind the end of the file (truncated?)")
    allowed = max(MAX_GROWTH * file.size, ALWAYS_ALLOWED) if deflated else info.compress_size
    if info.file_size > allowed or (not deflated and info.file_size != info.compress_size):
        raise CheckpointError(f"{where} claims {info.file_size} bytes out of {info.compress_size}")
    return ZipEntry(begin, end, info.file_size, deflated, info.CRC)


def read_entry(file: MappedFile, entry: ZipEntry) -> memoryview:
    """The bytes of an entry: a view of the file, or decompressed. Raises `CheckpointError` where they are damaged."""
    where = f"{file.path}: damaged zip entry at byte {entry.begin}"
    data = file.view(entry.begin, entry.end)
    if entry.deflated:
        try:
            data = memoryview(zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, entry.size + 1))
        except zlib.error as error:
            raise CheckpointError(f"{where}: {error}") from None
        if len(data) != entry.size:
            raise CheckpointError(f"{where}: not the {entry.size} bytes claimed")
    if entry.checksum and zlib.crc32(data) != entry.checksum:  # a sum of 0 was not computed
        raise CheckpointError(f"{where}: its checksum is another")
    return data
