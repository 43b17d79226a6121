"""A first stage for large pictures: the same numbers from less memory, band by band.

The activations of a decoder are largest where the picture is: at 1024×1024 one of 128 channels is 512 MB, and a
residual block holds five. Convolutions look no further than a row, so that everything but the smallest size is computed
here in **tiles**: bands of rows, as wide as the picture, each with the row above and the row below of its neighbours,
and given up as soon as the next layer has read it. Rows of zeros stand only where the picture ends, as in the whole.

What does look further is the group norm: its mean and variance are those of the whole picture. The moments of bands add
up, so that a norm is a halt: all bands before it are made and kept, then their sums give one gain and one shift a
channel (`ops.gain_and_shift`), and the bands go on. Between two norms a picture is there once, and its residual. No
value is computed twice, nothing is blended, and no seam can be seen.

The middle, and levels with attention over all pixels, which are small, run whole.
"""

from __future__ import annotations

import copy
import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import numpy as np

from tinyldm.errors import InputError
from tinyldm.models import asymmetric, tiny, vae
from tinyldm.models.first_stage import FirstStage
from tinyldm.models.vq import VQModel
from tinyldm.nn import affine_silu_conv2d, conv2d, frugal, moments, norm_silu_conv2d, upsample_conv2d
from tinyldm.ops import gain_and_shift, upsample_nearest
from tinyldm.tracing import tracing
from tinyldm.tree import Weights
from tinyldm.typing import Array

Bands = Iterable[Array]  # of an image, from its top down: (N, rows, W, C) each
F = TypeVar("F", bound=FirstStage[Any])

TILE = 32  # rows of a picture in a band: more save no time, fewer little memory


def tiled(first_stage: F, tile: int = TILE) -> F:
    """The same first stage, computed in bands of `tile` rows of pixels; it shares the weights.

    A trace of it is that of the whole. Raises `InputError` for a tile that is no positive multiple of the factor, and
    for a first stage that has no tiles: a flow.
    """
    factor = first_stage.factor
    if isinstance(tile, bool) or not isinstance(tile, int) or tile < factor or tile % factor:
        raise InputError(f"tile must be a multiple of {factor} rows of pixels, not {tile!r}")
    if type(first_stage) not in WALKS:
        raise InputError(f"{first_stage.component}: is not computed in tiles")
    (whole_down, down_in_bands), (whole_up, up_in_bands) = WALKS[type(first_stage)]
    result = copy.copy(first_stage)
    result.tile = tile
    result.walk_down = in_tiles(whole_down, down_in_bands, tile)
    result.walk_up = in_tiles(whole_up, up_in_bands, tile // factor)
    return result


def in_tiles(whole: Callable[..., Array], in_bands: Callable[..., Bands], rows: int) -> Callable[..., Array]:
    """What computes as `whole` does, by `in_bands` of so many rows of its input."""

    def walk(x: Array, *args: Any) -> Array:
        if tracing():
            return whole(x, *args)
        with frugal(args[-1]):
            return stacked(*in_bands(x, *args, rows=rows))

    return walk


# Bands ----------------------------------------------------------------------------------------------------------------


def split(x: Array, rows: int) -> Iterator[Array]:
    """The bands of an image, of so many rows each; the last may have fewer."""
    return (x[:, top : top + rows] for top in range(0, x.shape[1], rows))


def given_up(bands: deque[Array]) -> Iterator[Array]:
    """Bands that are kept, each let go of as it is handed out: its memory is free when its reader is done."""
    while bands:
        yield bands.popleft()


def with_neighbours(
    bands: Bands, w: Weights, above: int = 1, below: int = 1
) -> Iterator[tuple[Array, Array, tuple[int, int]]]:
    """Each band; the same with so many rows (0 or 1) of its neighbours; the rows of zeros above and below that.

    Zeros stand for the rows that the picture does not have; where it continues on its other side, by the runtime of the
    layer `w`, it has them all.
    """
    before: Array | None = None
    around: Array | None = None
    if w.runtime.seamless in ("y", "both"):
        kept = deque(bands)
        before, around, bands = kept[-1][:, -1:].copy(), kept[0][:, :1].copy(), given_up(kept)
    bands = iter(bands)
    band = next(bands, None)
    while band is not None:
        after = next(bands, None)
        under = around if after is None else after[:, :1]
        zeros = above if before is None else 0, below if under is None else 0
        yield band, stacked(before if above else None, band, under if below else None), zeros
        before, band = band[:, -1:].copy(), after


def stacked(*parts: Array | None) -> Array:
    """Those that are there, one below the other."""
    there = [part for part in parts if part is not None]
    return there[0] if len(there) == 1 else np.concatenate(there, axis=1)


# Layers, each of bands to bands ---------------------------------------------------------------------------------------


def convolved(bands: Bands, w: Weights, stride: int = 1, above: int = 1, below: int = 1) -> Iterator[Array]:
    """A 3×3 convolution, padded by `above` and to the left, by `below` and to the right.

    Where it halves even sizes, it looks no further than by one row and column: above and to the left, or the others.
    """
    for _, band, (top, bottom) in with_neighbours(bands, w, above, below):
        yield conv2d(band, w, stride, (top, bottom, above, below))


def upsampled(bands: Bands, w: Weights) -> Iterator[Array]:
    """`blocks.upsample` to twice the size."""
    for band, wider, (top, _) in with_neighbours(bands, w):
        first = 2 * (1 - top)
        yield upsample_conv2d(wider, w, inner=slice(first, first + 2 * band.shape[1]))


def norm_of(bands: Iterable[Array], norm: Weights) -> tuple[Array, Array]:
    """Gain and shift of the group norm over all bands, `(N, C)` each."""
    sums, pixels = np.zeros(()), 0
    for band in bands:
        sums, pixels = sums + moments(band, norm), pixels + band.shape[1] * band.shape[2]
    return gain_and_shift(sums, pixels, norm.weight, norm.bias, norm.settings["groups"], norm.settings["eps"])


def normed_and_convolved(bands: Bands, norm: Weights, conv: Weights) -> Iterator[Array]:
    """Group norm, SiLU, convolution."""
    kept = deque(bands)
    gain_shift = norm_of(kept, norm)
    for _, band, zeros in with_neighbours(given_up(kept), conv):
        yield affine_silu_conv2d(band, gain_shift, conv, (*zeros, 1, 1))


def resnet_block(bands: Bands, w: Weights) -> Iterator[Array]:
    """`blocks.resnet_block` of the autoencoder: two halts, before each of which the picture is there as a whole."""
    x = deque(bands)
    gain_shift = norm_of(x, w.norm1)
    h, shortcut = deque[Array](), deque[Array]()
    for band, wider, zeros in with_neighbours(given_up(x), w):
        h.append(affine_silu_conv2d(wider, gain_shift, w.conv1, (*zeros, 1, 1)))
        shortcut.append(conv2d(band, w.conv_shortcut) if "conv_shortcut" in w else band)
        del band, wider  # before the next are made
    gain_shift = norm_of(h, w.norm2)
    for _, wider, zeros in with_neighbours(given_up(h), w):
        yield affine_silu_conv2d(wider, gain_shift, w.conv2, (*zeros, 1, 1), shortcut.popleft())


def level(bands: Bands, w: Weights) -> Iterator[Array]:
    """`vae.level`; whole where it has attention."""
    if "attentions" in w:
        kept = list(bands)
        y = vae.level(stacked(*kept), w)
        return split(y, kept[0].shape[1] * y.shape[1] // sum(band.shape[1] for band in kept))
    for resnet in w.resnets:
        bands = resnet_block(bands, resnet)
    if "downsamplers" in w:
        return convolved(bands, w.downsamplers[0].conv, stride=2, above=0)
    return upsampled(bands, w.upsamplers[0].conv) if "upsamplers" in w else iter(bands)


# The walks ------------------------------------------------------------------------------------------------------------


def encoder(x: Array, w: Weights, rows: int) -> Bands:  # (N,H,W,3) -> (N,h,w,2·C)
    """`vae.encoder`: down in bands, then whole."""
    bands: Bands = convolved(split(x, rows), w.conv_in)
    for block in w.down_blocks:
        bands = level(bands, block)
    return [norm_silu_conv2d(vae.middle(stacked(*bands), w.mid_block), w.conv_norm_out, w.conv_out)]


def decoder(z: Array, w: Weights, rows: int) -> Bands:  # (N,h,w,C) -> (N,H,W,3)
    """`vae.decoder`: the middle whole, then up in bands."""
    bands: Bands = split(vae.middle(conv2d(z, w.conv_in), w.mid_block), rows)
    for block in w.up_blocks:
        bands = level(bands, block)
    return normed_and_convolved(bands, w.conv_norm_out, w.conv_out)


def asymmetric_decoder(z: Array, known: object, w: Weights, rows: int) -> Bands:  # (N,h,w,C) -> (N,H,W,3)
    """`asymmetric.decoder` where nothing is known. Raises `InputError` for a known part."""
    if known is not None:
        raise InputError("VAE: a decoder that is shown the known part of the picture is not computed in tiles")
    return decoder(z, w, rows)


def tiny_block(bands: Bands, w: Weights) -> Iterator[Array]:
    """`tiny.block`."""
    bands, around = itertools.tee(bands)
    h: Bands = (np.maximum(band, 0) for band in convolved(bands, w.conv[0]))
    h = (np.maximum(band, 0) for band in convolved(h, w.conv[2]))
    return (np.maximum(a + b, 0) for a, b in zip(convolved(h, w.conv[4]), around, strict=True))


def tiny_encoder(x: Array, w: Weights, rows: int) -> Bands:  # (N,H,W,3) -> (N,h,w,C)
    """`tiny.encoder`: there is no norm in it, so that the bands pass through it one after the other."""
    bands: Bands = ((band + 1) / 2 for band in split(x, rows))
    for layer in w.layers:
        if "conv" in layer:
            bands = tiny_block(bands, layer)
        else:
            bands = convolved(bands, layer) if "bias" in layer else convolved(bands, layer, stride=2, below=0)
    return bands


def tiny_decoder(z: Array, config: tiny.TinyConfig, w: Weights, rows: int) -> Bands:  # (N,h,w,C) -> (N,H,W,3)
    """`tiny.decoder`, likewise."""
    squeezed = (np.tanh(band / tiny.LIMIT) * tiny.LIMIT for band in split(z, rows))
    bands: Bands = (np.maximum(band, 0) for band in convolved(squeezed, w.layers[0]))
    layers = iter(list(w.layers)[1:])
    for blocks in config.num_decoder_blocks:
        for layer in itertools.islice(layers, blocks):
            bands = tiny_block(bands, layer)
        convolution = next(layers)
        bands = convolved(bands if "bias" in convolution else map(upsample_nearest, bands), convolution)
    return (2 * band - 1 for band in bands)


USUAL = ((vae.encoder, encoder), (vae.decoder, decoder))
# Of each kind, what walks down and up: as a whole, and in bands.
WALKS: dict[type[FirstStage[Any]], Any] = {
    vae.AutoencoderKL: USUAL,
    VQModel: USUAL,
    asymmetric.AsymmetricAutoencoderKL: (USUAL[0], (asymmetric.decoder, asymmetric_decoder)),
    tiny.AutoencoderTiny: ((tiny.encoder, tiny_encoder), (tiny.decoder, tiny_decoder)),
}
