r"""Stable Diffusion in one file: from a prompt to a picture, in plain NumPy.

    python docs/one_file.py "red apple" -o apple.png
    python docs/one_file.py "a lighthouse at dusk" --model stable-diffusion-v1-5 --steps 20 -o lighthouse.png

Read it from top to bottom; it stands in the order of the data:

    1. The folder         names -> arrays                what a checkpoint is
    2. The tokenizer      "red apple" -> (L,)            whole numbers, one for each piece of a word
    3. The layers         x -> y                         what all three networks are made of
    4. The text encoder   (L,) -> (L, D)                 the context: what each piece means in this prompt
    5. The noise          seed -> (h, w, 4)              the latent that everything begins with
    6. The UNet           (h, w, 4), t, (L, D) -> same   the noise that it sees in a latent
    7. The sampler        (h, w, 4) -> (h, w, 4)         DDIM with guidance takes the noise away, step by step
    8. The decoder        (h, w, 4) -> (H, W, 3)         from the latent to pixels
    9. The file           (H, W, 3) -> PNG
   10. The whole way      prompt -> picture              all of it in twenty lines

The shape of what a line makes stands behind it. There is one picture at a time, so there is no axis for a batch, and
channels are the last axis everywhere: a convolution, a linear layer and attention are all products of matrices then.

It reads the folder of a published Stable Diffusion 1 with safetensors files. The model is Rombach et al. 2022,
arXiv:2112.10752; each function names the equation that it computes.
"""

import argparse
import json
import math
import re
import struct
import unicodedata
import zlib
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray

# 1. The folder --------------------------------------------------------------------------------------------------------
# A checkpoint is a folder for each network: config.json says how large it is, a safetensors file has its weights.

TYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8"}
# What is called by different names in different networks and years, by one name.
NAMES = {"q_proj": "to_q", "k_proj": "to_k", "v_proj": "to_v", "out_proj": "to_out.0"}  # the text encoder
NAMES |= {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}  # autoencoders until 2023


class Node(dict[Any, Any]):
    """A branch of the tree of weights: `w.conv1.weight` is the array "conv1.weight", `w.resnets[0]` the first block."""

    __getattr__ = dict.__getitem__


def read_safetensors(path: Path) -> dict[str, Array]:
    """The arrays of a file by name: 8 bytes with the length of a header, the header in JSON, then all the numbers."""
    blob = np.memmap(path, np.uint8, "r")
    start = 8 + int.from_bytes(blob[:8].tobytes(), "little")
    header = json.loads(blob[8:start].tobytes())
    arrays = {}
    for name in header.keys() - {"__metadata__"}:
        begin, end = (start + offset for offset in header[name]["data_offsets"])
        numbers = blob[begin:end].view(TYPES[header[name]["dtype"]])
        arrays[name] = numbers.reshape(header[name]["shape"]).astype(np.float32)
    return arrays


def read_config(path: Path, **wanted: Any) -> Node:
    """The fields of a network or of the noise schedule. Stops where one is not as it is `wanted` here."""
    config = Node(json.loads(path.read_text()))
    for field, value in wanted.items():
        if config.setdefault(field, value) != value:
            raise SystemExit(f"{path}: {field} is {config[field]!r}; this file computes {value!r} alone")
    return config


def load(folder: Path, **wanted: Any) -> tuple[Node, Node]:
    """The weights of a network as a tree, and its config."""
    weights = {}
    for name, array in read_safetensors(next(folder.glob("*model.safetensors"))).items():
        parts = ".".join(NAMES.get(part, part) for part in name.removeprefix("text_model.").split(".")).split(".")
        weights[tuple(int(part) if part.isdigit() else part for part in parts)] = array
    root = Node()
    for path in sorted(weights):  # so that block 2 stands before block 10
        node = root
        for part in path[:-1]:
            node = node.setdefault(part, Node())
        node[path[-1]] = weights[path]
    return root, read_config(folder / "config.json", **wanted)


# 2. The tokenizer -----------------------------------------------------------------------------------------------------
# Byte-pair encoding: frequent words are one token, rare ones a few pieces, and the smallest pieces are the 256 bytes
# (Sennrich et al. 2016, arXiv:1508.07909; Radford et al. 2021, arXiv:2103.00020, section 2.4).

# A word is 's, 't, …, a run of letters, one digit, or a run of anything else but space.
WORD = re.compile(r"'(?:s|t|re|ve|m|ll|d)|[^\W\d_²³¹¼-¾]+|[\d²³¹¼-¾]|(?:[^\s\w]|_)+")
# A printable character for each byte: itself where it is one, or else the next one from U+0100 up.
PRINTABLE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
OTHERS = [byte for byte in range(256) if byte not in PRINTABLE]
CHARACTER = {byte: chr(byte) for byte in PRINTABLE} | {byte: chr(256 + i) for i, byte in enumerate(OTHERS)}


def read_tokenizer(folder: Path) -> tuple[dict[str, int], dict[tuple[str, ...], int]]:
    """The id of each piece, and the place of each pair of neighbours in the list of those to join."""
    merges = (folder / "merges.txt").read_text("utf-8").split("\n")[1:]  # the first line is a version
    ranks = {tuple(line.split()): rank for rank, line in enumerate(merges)}
    return json.loads((folder / "vocab.json").read_text("utf-8")), ranks


def split(word: str, ranks: dict[tuple[str, ...], int]) -> list[str]:
    """The pieces of a word: join two neighbours, that pair first which was the most frequent in the training text.

    l o w e r</w>  ->  lo w e r</w>  ->  lo w er</w>  ->  low er</w>
    """
    pieces = [CHARACTER[byte] for byte in word.encode()]
    pieces[-1] += "</w>"
    while True:
        pairs = list(pairwise(pieces))
        best = min(pairs, key=lambda pair: ranks.get(pair, math.inf), default=None)
        if best not in ranks:
            return pieces
        i = pairs.index(best)
        pieces[i : i + 2] = ["".join(best)]


def tokenize(prompt: str, vocab: dict[str, int], ranks: dict[tuple[str, ...], int], length: int) -> Array:  # -> (L,)
    """The ids of the pieces between those of the start and the end of a text; the end fills up what is left of L."""
    words = WORD.findall(unicodedata.normalize("NFC", prompt).lower())
    ids = [vocab[piece] for word in words for piece in split(word, ranks)][: length - 2]
    start, end = vocab["<|startoftext|>"], vocab["<|endoftext|>"]
    return np.array([start, *ids] + [end] * (length - 1 - len(ids)))


# 3. The layers --------------------------------------------------------------------------------------------------------
def linear(x: Array, w: Node) -> Array:  # (…, C) -> (…, C')
    r"""$y = x W^{\mathsf T} + b$. A convolution by 1×1 is the same: its weight has two axes more, of length 1."""
    y = x @ w.weight.reshape(w.weight.shape[:2]).T
    return y + w.bias if "bias" in w else y


def conv2d(x: Array, w: Node, stride: int = 1) -> Array:  # (H, W, C) -> (⌈H/s⌉, ⌈W/s⌉, C')
    r"""$y_{i,j} = b + \sum_{u,v} x_{i s + u - 1,\, j s + v - 1} W_{u,v}^{\mathsf T}$: 3×3, zeros around the picture."""
    height, width, _ = x.shape
    x = np.pad(x, ((1, 1), (1, 1), (0, 0)))  # (H+2, W+2, C)
    taps = w.weight.transpose(2, 3, 1, 0).copy()  # (C', C, 3, 3) -> (3, 3, C, C'), a matrix for each tap
    return w.bias + sum(
        x[u : u + height : stride, v : v + width : stride] @ taps[u, v] for u in range(3) for v in range(3)
    )


def standardise(x: Array, axes: tuple[int, ...], eps: float) -> Array:
    r"""$(x - \mathrm E[x]) / \sqrt{\mathrm{Var}[x] + \epsilon}$, mean and variance over these axes."""
    return (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + np.float32(eps))


def group_norm(x: Array, w: Node, groups: int, eps: float) -> Array:  # (…, C) -> (…, C)
    """Standardise over all pixels and the channels of a group; then a gain and a bias a channel (arXiv:1803.08494)."""
    y = standardise(x.reshape(-1, groups, x.shape[-1] // groups), (0, 2), eps)  # (pixels, G, C/G)
    return y.reshape(x.shape) * w.weight + w.bias


def layer_norm(x: Array, w: Node) -> Array:  # (L, C) -> (L, C)
    """The same over the channels of each token (arXiv:1607.06450)."""
    return standardise(x, (-1,), 1e-5) * w.weight + w.bias


def silu(x: Array) -> Array:
    r"""$x\,\sigma(x)$ (arXiv:1702.03118); $\sigma(x) = 1 / (1 + e^{-x}) = (1 + \tanh(x / 2)) / 2$ so can't overflow."""
    return x * 0.5 * (1 + np.tanh(0.5 * x))


def gelu(x: Array) -> Array:
    r"""$x\,\Phi(x)$ (arXiv:1606.08415), $\Phi$ the distribution function of the normal distribution, off by $10^{-7}$.

    Abramowitz and Stegun 1964, formula 7.1.26, for $y = |x| / \sqrt 2$ and $t = 1 / (1 + 0.3275911\, y)$.
    """
    y = np.abs(x) / math.sqrt(2)
    t = 1 / (1 + 0.3275911 * y)
    tail = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))))
    above = 0.5 * tail * np.exp(-y * y)  # of the distribution lies beyond |x|
    return x * np.where(x < 0, above, 1 - above)


def softmax(x: Array) -> Array:
    r"""$e^{x_i} / \sum_j e^{x_j}$ over the last axis; the largest is taken away first, which changes nothing."""
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def attention(x: Array, context: Array, w: Node, heads: int, mask: Array | float = 0.0) -> Array:
    r"""Each token of x gathers from the context what it asks for: (P, C), (L, D) -> (P, C).

    $\mathrm{softmax}(Q K^{\mathsf T} / \sqrt d + M)\, V$ in each head, which has $d$ channels of the queries
    $Q = x W_q$, of the keys $K = c\,W_k$ and of the values $V = c\,W_v$ (arXiv:1706.03762, section 3.2).
    """
    projected = linear(x, w.to_q), linear(context, w.to_k), linear(context, w.to_v)  # (P, C), (L, C), (L, C)
    q, k, v = (y.reshape(len(y), heads, -1).swapaxes(0, 1) for y in projected)  # (heads, P, d), (heads, L, d) twice
    scores = q @ k.swapaxes(1, 2) / math.sqrt(q.shape[2])  # (heads, P, L)
    gathered = softmax(scores + mask) @ v  # (heads, P, d)
    return linear(gathered.swapaxes(0, 1).reshape(len(x), -1), w.to_out[0])  # (P, C)


# 4. The text encoder --------------------------------------------------------------------------------------------------
def text_encoder(ids: Array, w: Node, c: Node) -> Array:  # (L,) -> (L, D)
    """CLIP's transformer: a vector for each token and for its place; then each looks at those before it, and at itself.

    Radford et al. 2021, arXiv:2103.00020, section 2.4.
    """
    table, places = w.embeddings.token_embedding.weight, w.embeddings.position_embedding.weight
    x = table[ids] + places[: len(ids)]  # (L, D)
    mask = np.triu(np.full((len(ids), len(ids)), -np.inf, np.float32), 1)  # (L, L): -∞ hides what comes later
    for layer in w.encoder.layers.values():
        h = layer_norm(x, layer.layer_norm1)  # (L, D)
        x = x + attention(h, h, layer.self_attn, c.num_attention_heads, mask)
        h = linear(layer_norm(x, layer.layer_norm2), layer.mlp.fc1)  # (L, 4·D)
        x = x + linear(silu(1.702 * h) / 1.702, layer.mlp.fc2)  # (L, D); the "quick" GELU, h σ(1.702 h)
    return layer_norm(x, w.final_layer_norm)


# 5. The noise ---------------------------------------------------------------------------------------------------------
def noise(seed: int, channels: int, height: int, width: int) -> Array:  # -> (h, w, C)
    r"""Standard normals: those of `torch.randn((1, C, h, w))` for this seed, so that a seed gives its known picture.

    The words of a Mersenne Twister are uniforms $u$ in [0, 1) of 24 bits; of each 16 the first eight and the last make
    pairs, and a pair makes two normals, $\sqrt{-2 \ln(1 - u_1)}\,(\cos 2 \pi u_2, \sin 2 \pi u_2)$ (Box, Muller 1958).
    """
    size = channels * height * width
    if size % 16:
        raise SystemExit(f"a latent of {channels}×{height}×{width} numbers; wanted a multiple of 16")
    words = np.frombuffer(np.random.RandomState(seed % 2**32).bytes(4 * size), "<u4")
    u = ((words % 2**24) / 2**24).reshape(-1, 2, 8)
    radius, angle = np.sqrt(-2 * np.log1p(-u[:, :1])), 2 * math.pi * u[:, 1:]
    normals = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
    return normals.reshape(channels, height, width).transpose(1, 2, 0).astype(np.float32)


# 6. The UNet ----------------------------------------------------------------------------------------------------------
def resnet(x: Array, temb: Array | None, w: Node, groups: int, eps: float) -> Array:  # (H, W, C) -> (H, W, C')
    """Twice norm, SiLU, convolution; the time comes in between, and x goes around it (arXiv:1512.03385, 2006.11239)."""
    h = conv2d(silu(group_norm(x, w.norm1, groups, eps)), w.conv1)  # (H, W, C')
    if temb is not None:
        h = h + linear(silu(temb), w.time_emb_proj)  # the same for every pixel
    h = conv2d(silu(group_norm(h, w.norm2, groups, eps)), w.conv2)
    return h + (linear(x, w.conv_shortcut) if "conv_shortcut" in w else x)


def transformer(x: Array, context: Array, w: Node, groups: int, heads: int) -> Array:  # (H, W, C) -> (H, W, C)
    """Here the prompt comes in. The pixels look at each other, then at the context; then each thinks for itself."""
    tokens = linear(group_norm(x, w.norm, groups, 1e-6), w.proj_in).reshape(-1, x.shape[2])  # (H·W, C)
    for block in w.transformer_blocks.values():
        h = layer_norm(tokens, block.norm1)
        tokens = tokens + attention(h, h, block.attn1, heads)
        tokens = tokens + attention(layer_norm(tokens, block.norm2), context, block.attn2, heads)
        value, gate = np.split(linear(layer_norm(tokens, block.norm3), block.ff.net[0].proj), 2, -1)  # (H·W, 4·C) each
        tokens = tokens + linear(value * gelu(gate), block.ff.net[2])
    return x + linear(tokens, w.proj_out).reshape(x.shape)


def time_embedding(t: int, w: Node, width: int) -> Array:  # -> (4·width,)
    r"""$(\cos \omega_k t \,|\, \sin \omega_k t)$, $\omega_k = 10000^{-k / (width / 2)}$, through two linear layers."""
    angles = t * 10_000.0 ** (-np.arange(width // 2) / (width // 2))
    waves = np.concatenate([np.cos(angles), np.sin(angles)]).astype(np.float32)  # (width,)
    return linear(silu(linear(waves, w.linear_1)), w.linear_2)


def unet(z: Array, t: int, context: Array, w: Node, c: Node) -> Array:  # (h, w, 4), (L, D) -> (h, w, 4)
    r"""$\epsilon_\theta(z, t, c)$, the noise in z: down to ever fewer pixels, and up again with what the way down left.

    Ronneberger et al. 2015, arXiv:1505.04597; Rombach et al. 2022, section 3.3.
    """
    groups, eps, heads = c.norm_num_groups, c.norm_eps, c.attention_head_dim  # the last is the number of heads
    temb = time_embedding(t, w.time_embedding, c.block_out_channels[0])  # (T,)
    x = conv2d(z, w.conv_in)  # (h, w, C)
    skips = [x]
    for block in w.down_blocks.values():
        for i, layer in block.resnets.items():
            x = resnet(x, temb, layer, groups, eps)
            if "attentions" in block:
                x = transformer(x, context, block.attentions[i], groups, heads)
            skips.append(x)
        if "downsamplers" in block:
            x = conv2d(x, block.downsamplers[0].conv, stride=2)  # (H/2, W/2, C)
            skips.append(x)
    x = resnet(x, temb, w.mid_block.resnets[0], groups, eps)
    x = transformer(x, context, w.mid_block.attentions[0], groups, heads)
    x = resnet(x, temb, w.mid_block.resnets[1], groups, eps)
    for block in w.up_blocks.values():
        for i, layer in block.resnets.items():
            x = resnet(np.concatenate([x, skips.pop()], axis=-1), temb, layer, groups, eps)
            if "attentions" in block:
                x = transformer(x, context, block.attentions[i], groups, heads)
        if "upsamplers" in block:
            x = conv2d(x.repeat(2, axis=0).repeat(2, axis=1), block.upsamplers[0].conv)  # (2H, 2W, C)
    return conv2d(silu(group_norm(x, w.conv_norm_out, groups, eps)), w.conv_out)


# 7. The sampler -------------------------------------------------------------------------------------------------------
def ddim(z: Array, predict: Callable[[Array, int], Array], steps: int, c: Node) -> Array:  # (h, w, 4) -> (h, w, 4)
    r"""From noise to a clean latent: guess it, and take a step towards the guess (Song et al. 2021, arXiv:2010.02502).

    At timestep t it is $z = \sqrt{\bar\alpha_t}\, x_0 + \sqrt{1 - \bar\alpha_t}\, \epsilon$, a clean latent and noise;
    $\bar\alpha_t = \prod_{s \le t} (1 - \beta_s)$ (Ho et al. 2020, arXiv:2006.11239, equation 4). The noise that the
    UNet sees gives $x_0$; a step puts as much of it back as the next timestep has (equation 12 without fresh noise).
    """
    alpha_bar = np.cumprod(1 - np.linspace(c.beta_start**0.5, c.beta_end**0.5, c.num_train_timesteps) ** 2)  # (T,)
    stride, last = c.num_train_timesteps // steps, 1.0 if c.set_alpha_to_one else alpha_bar[0]
    for t in reversed(range(c.steps_offset, c.steps_offset + stride * steps, stride)):  # 961, 921, …, 1 for 25 steps
        a, a_next = float(alpha_bar[t]), float(alpha_bar[t - stride] if t >= stride else last)
        epsilon = predict(z, t)  # (h, w, 4)
        x0 = (z - math.sqrt(1 - a) * epsilon) / math.sqrt(a)  # (h, w, 4)
        z = math.sqrt(a_next) * x0 + math.sqrt(1 - a_next) * epsilon
    return z


# 8. The decoder -------------------------------------------------------------------------------------------------------
def decoder(z: Array, w: Node, c: Node) -> Array:  # (h, w, 4) -> (H, W, 3)
    """The second half of the autoencoder: the latent, as large as its encoder makes it, becomes a picture in [-1, 1].

    Rombach et al. 2022, section 3.1 and appendix G.
    """
    groups, eps = c.norm_num_groups, 1e-6
    w, x = w.decoder, linear(z, w.post_quant_conv)  # (h, w, 4)
    x = resnet(conv2d(x, w.conv_in), None, w.mid_block.resnets[0], groups, eps)  # (h, w, C)
    look = w.mid_block.attentions[0]
    tokens = group_norm(x, look.group_norm, groups, eps).reshape(-1, x.shape[2])  # (h·w, C)
    x = x + attention(tokens, tokens, look, heads=1).reshape(x.shape)
    x = resnet(x, None, w.mid_block.resnets[1], groups, eps)
    for block in w.up_blocks.values():
        for layer in block.resnets.values():
            x = resnet(x, None, layer, groups, eps)
        if "upsamplers" in block:
            x = conv2d(x.repeat(2, axis=0).repeat(2, axis=1), block.upsamplers[0].conv)  # (2H, 2W, C)
    return conv2d(silu(group_norm(x, w.conv_norm_out, groups, eps)), w.conv_out)


# 9. The file ----------------------------------------------------------------------------------------------------------
def write_png(path: Path, pixels: Array) -> None:  # (H, W, 3) uint8
    """A PNG: a signature, then chunks of length, kind, data and checksum; 0 before a row says that it is unfiltered."""
    height, width, _ = pixels.shape
    rows = np.pad(pixels.reshape(height, -1), ((0, 0), (1, 0)))  # (H, 1 + 3·W)
    header = struct.pack(">2I5B", width, height, 8, 2, 0, 0, 0)  # 8 bits a colour, RGB
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows.tobytes())), (b"IEND", b"")]
    parts = [struct.pack(">I", len(data)) + kind + data for kind, data in chunks]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(p + struct.pack(">I", zlib.crc32(p[4:])) for p in parts))


# 10. The whole way ----------------------------------------------------------------------------------------------------
def text_to_image(
    folder: Path, prompt: str, negative: str = "", steps: int = 25, guidance: float = 7.5, seed: int = 0
) -> Array:  # -> (H, W, 3) uint8
    r"""A picture of a prompt.

    $\tilde\epsilon = \epsilon_\theta(z, t, \varnothing) + s\,(\epsilon_\theta(z, t, c) - \epsilon_\theta(z, t,
    \varnothing))$, guidance, goes $s$ times as far from what the model sees without the prompt (arXiv:2207.12598).
    """
    w, c = load(folder / "text_encoder", hidden_act="quick_gelu")
    vocab, ranks = read_tokenizer(folder / "tokenizer")
    rows = (tokenize(text, vocab, ranks, c.max_position_embeddings) for text in (prompt, negative))  # (L,)
    context, without = (text_encoder(ids, w, c) for ids in rows)  # (L, D)

    w, c = load(folder / "unet", norm_eps=1e-5, use_linear_projection=False)
    wanted = {"beta_schedule": "scaled_linear", "prediction_type": "epsilon", "clip_sample": False}
    schedule = read_config(folder / "scheduler" / "scheduler_config.json", **wanted, timestep_spacing="leading")

    def predict(z: Array, t: int) -> Array:  # (h, w, 4) -> (h, w, 4)
        epsilon = unet(z, t, without, w, c)
        return epsilon + guidance * (unet(z, t, context, w, c) - epsilon)

    z = noise(seed, c.in_channels, c.sample_size, c.sample_size)  # (h, w, 4)
    z = ddim(z, predict, steps, schedule)

    w, c = load(folder / "vae")
    pixels = decoder(z / c.get("scaling_factor", 0.18215), w, c)  # (H, W, 3) in [-1, 1]
    return np.round(255 * np.clip(pixels / 2 + 0.5, 0, 1)).astype(np.uint8)


def main() -> None:
    """Read the command line, write the picture."""
    parser = argparse.ArgumentParser()
    parser.add_argument("prompt")
    parser.add_argument("-o", "--output", type=Path, default=Path("picture.png"))
    parser.add_argument("--model", type=Path, default=Path(__file__).parents[1] / "weights" / "emoji")
    parser.add_argument("--negative", default="")
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--guidance", type=float, default=7.5)
    parser.add_argument("--seed", type=int, default=0)
    a = parser.parse_args()
    write_png(a.output, text_to_image(a.model, a.prompt, a.negative, a.steps, a.guidance, a.seed))


if __name__ == "__main__":
    main()
