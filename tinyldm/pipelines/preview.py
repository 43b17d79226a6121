r"""What a latent shows, at a glance: colours by a linear map, without the decoder.

A place of the latent is about a patch of the picture, and its colour is about linear in the latent's channels:
$rgb = M^T (z, 1)$, a matrix of `(C + 1, 3)`. It is fitted by least squares on the decoder that it stands in for: what
that makes of a few latents, averaged over the patch of each place. The map of a checkpoint is one that lies in its
folder, one that was fitted before (in the user's cache), or one that is fitted now; each is kept under a digest of the
autoencoder, so that none is taken for another's.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tinyldm.diffusion.random import torch_randn
from tinyldm.errors import InputError
from tinyldm.pipelines.identity import digest_of
from tinyldm.pipelines.parts import Parts
from tinyldm.pipelines.pictures import write_whole
from tinyldm.typing import Array

Bytes = NDArray[np.uint8]

FILE = "preview.json"  # in a checkpoint's folder
LATENTS, SIDE, PATCH = 6, 16, 2  # of the latents to fit on: how many, their sides, and those of their patches of colour


def preview(z: Array, rgb: Array) -> Image.Image:
    """The colours of a clean latent, one pixel a place: `(C, h, w)` or `(1, C, h, w)` to 8-bit RGB of h × w.

    `rgb` is the map of its checkpoint (`preview_map`). `step.clean` of a callback is what there is to look at.
    """
    return Image.fromarray(colours(z, rgb))


def colours(z: Array, rgb: Array) -> Bytes:  # (C, h, w) or (1, C, h, w) -> (h, w, 3)
    """The pixels of `preview`; what is no number is black."""
    channels, height, width = z.shape[-3:]
    levels = z.reshape(channels, -1).T @ rgb[:-1]  # of pixels in about [-1, 1]
    levels += rgb[-1]
    levels *= 127.5
    levels += 128  # from -1 to 1 to from 0.5 to 255.5, of which the fraction is cut off
    shown: Bytes = np.fmin(np.fmax(levels, 0), 255).astype(np.uint8)
    return shown.reshape(height, width, 3)


def preview_png(z: Array, rgb: Array) -> bytes:
    """`preview` as a PNG file, in a few microseconds; Pillow, which does more, takes ten times as long.

    PNG specification, third edition, sections 5 and 9: a signature and three chunks, each row without a filter.
    """
    pixels = colours(z, rgb)
    height, width, _ = pixels.shape
    rows = np.zeros((height, 1 + 3 * width), np.uint8)  # each begins with the number of its filter: 0, none
    rows[:, 1:] = pixels.reshape(height, -1)
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)  # 8 bits of each of red, green and blue
    stored = zlib.compressobj(0, wbits=9)  # not compressed: that saves little of noise, and takes most of the time
    chunks = (b"IHDR", header), (b"IDAT", stored.compress(rows.tobytes()) + stored.flush()), (b"IEND", b"")
    ends = [struct.pack(">I", zlib.crc32(data, zlib.crc32(kind))) for kind, data in chunks]
    packed = [struct.pack(">I", len(data)) + kind + data + end for (kind, data), end in zip(chunks, ends, strict=True)]
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


def preview_map(parts: Parts) -> Array:
    """The map of a checkpoint's latents to colours, `(C + 1, 3)` float32: stored with it, cached, or fitted now.

    To fit one takes the decoder six small pictures, once a checkpoint.
    """
    key, channels = digest(parts), parts.vae.latent_channels
    cached = cache_file(key)
    for file in (parts.path / FILE, cached):
        if file is not None and (known := read_map(file, key, channels)) is not None:
            return known
    fitted = fit(parts, patches(channels))
    if cached is not None:
        with contextlib.suppress(OSError, InputError):  # it can't be written: the map is fitted again the next time
            cached.parent.mkdir(parents=True, exist_ok=True)
            write_map(cached, key, fitted)
    return fitted


def cache_file(key: str) -> Path | None:
    """Where the map of an autoencoder is kept; None where there is no cache."""
    from tinyldm.kernels.compile import user_cache  # here, since Numba takes a while to import

    try:
        return user_cache() / "previews" / f"{key}.json"
    except RuntimeError:  # no home folder
        return None


def fit(parts: Parts, z: Array) -> Array:
    """The map that comes nearest to what the decoder makes of the latents `(N, C, h, w)`: `(C + 1, 3)` float32."""
    colours = [patch_means(parts.vae.decode(parts.vae.unscale(z[k : k + 1])), z.shape[2:]) for k in range(len(z))]
    places = np.moveaxis(z, 1, -1).reshape(-1, z.shape[1])
    ones = np.ones((len(places), 1))
    rgb: Array = np.linalg.lstsq(np.hstack([places, ones]), np.concatenate(colours))[0].astype(np.float32)
    return rgb


def patch_means(pixels: Array, size: tuple[int, ...]) -> Array:
    """The mean colour of each place's patch in pixels `(1, 3, H, W)`, clipped to [-1, 1]: `(h·w, 3)` float64."""
    (h, w), (height, width) = size, pixels.shape[2:]
    levels: Array = np.clip(np.nan_to_num(pixels[0]), -1, 1).astype(np.float64)
    means: Array = levels.reshape(3, h, height // h, w, width // w).mean((2, 4))
    return means.reshape(3, -1).T


def patches(channels: int) -> Array:
    """Latents to fit on where there are no better ones: patches of normal noise, `(N, C, h, w)`.

    Noise that is as coarse as that fits pictures better than white noise, which the decoder takes for texture.
    """
    noise = torch_randn((LATENTS, channels, SIDE // PATCH, SIDE // PATCH), seed=0)
    return noise.repeat(PATCH, axis=2).repeat(PATCH, axis=3)


def digest(parts: Parts) -> str:
    """What tells an autoencoder from another: its weights and its scale; 16 digits."""
    vae, found = parts.vae, hashlib.sha256()
    found.update(digest_of(vae.weights).encode())
    for value in (0, 1):
        found.update(vae.unscale(np.full((1, vae.latent_channels, 1, 1), value, np.float32)).tobytes())
    return found.hexdigest()[:16]


def read_map(path: Path, key: str, channels: int) -> Array | None:
    """The map of a file, `(C + 1, 3)`; None where there is none, or one of another autoencoder."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        said = json.loads(path.read_text(encoding="utf-8"))
        known = np.array(said["map"], np.float32)
        if said["of"] == key and known.shape == (channels + 1, 3) and np.isfinite(known).all():
            return known
    return None


def write_map(path: Path, key: str, rgb: Array) -> None:
    """Write a map and the digest of its autoencoder. Raises `InputError` where that can't be done."""
    rows = [[round(float(value), 5) for value in row] for row in rgb]
    text = json.dumps({"of": key, "map": rows})
    write_whole(path, lambda file: file.write(f"{text}\n".encode()))
