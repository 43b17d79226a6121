"""What a file is by its first bytes, in words: for messages about a file that is not the one wanted."""

from __future__ import annotations

# What files begin with that are mistaken for weights.
BEGINNINGS = {
    b"GGUF": "a GGUF file (quantised weights), which is not supported; the same weights are published as safetensors",
    b"\x89PNG": "a picture (PNG)",
    b"\xff\xd8\xff": "a picture (JPEG)",
    b"GIF8": "a picture (GIF)",
    b"BM": "a picture (BMP)",
    b"II*\0": "a picture (TIFF)",
    b"MM\0*": "a picture (TIFF)",
    b"%PDF": "a PDF document",
    b"\x1f\x8b": "compressed by gzip; unpack it first",
    b"7z\xbc\xaf": "a 7z archive; unpack it first",
    b"Rar!": "a RAR archive; unpack it first",
    b"\xfd7zXZ": "compressed by xz; unpack it first",
    b"\x28\xb5\x2f\xfd": "compressed by zstd; unpack it first",
    b"\x89HDF": "an HDF5 file, as Keras writes weights, which is not supported",
    b"\x93NUMPY": "a NumPy array, not a checkpoint",
    b"version https://git-lfs": "a Git LFS pointer, not the file that it points to (fetch it with `git lfs pull`)",
}
LATER = {(257, b"ustar"): "a tar archive, as the first versions of torch wrote checkpoints (save it with torch ≥ 1.6)"}
LATER |= {(8, b"WEBP"): "a picture (WebP)", (4, b"ftyp"): "a picture or a film (HEIF, AVIF or MP4)"}


def kind_in_words(head: bytes) -> str | None:
    """What a file that begins with these bytes is, where it is known and no checkpoint; None for anything else."""
    if head[8:9] == b"{":  # a safetensors file, the length of whose header may look like anything
        return None
    for begin, kind in BEGINNINGS.items():
        if head.startswith(begin):
            return kind
    for (place, mark), kind in LATER.items():
        if head[place : place + len(mark)] == mark:
            return kind
    if head.lstrip()[:1] == b"<":
        return "a web page, not a checkpoint (a download that needed a login?)"
    return None if head else "an empty file"
