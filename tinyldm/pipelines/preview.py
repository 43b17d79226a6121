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
from pathlib import Path

import numpy as np
from PIL import Image

from tinyldm.diffusion.random import torch_randn
from tinyldm.errors import InputError
from tinyldm.pipelines.identity import digest_of
from tinyldm.pipelines.parts import Parts
from tinyldm.pipelines.pictures import write_whole
from tinyldm.typing import Array

FILE = "preview.json"  # in a checkpoint's folder
LATENTS, SIDE, PATCH = 6, 16, 2  # of the latents to fit on: how many, their sides, and those of their patches of colour


def preview(z: Array, rgb: Array) -> Image.Image:
    """The colours of a clean latent, one pixel a place: `(C, h, w)` or `(1, C, h, w)` to 8-bit RGB of h × w.

    `rgb` is the map of its checkpoint (`preview_map`). `step.clean` of a callback is what there is to look at.
    """
    z = z.reshape(z.shape[-3:])
    pixels = np.tensordot(z, rgb[:-1], (0, 0)) + rgb[-1]  # (h, w, 3) in about [-1, 1]
    levels = np.nan_to_num(np.clip(pixels * 127.5 + 127.5, 0, 255))
    return Image.fromarray(np.round(levels).astype(np.uint8))


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
