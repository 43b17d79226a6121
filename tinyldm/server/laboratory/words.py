r"""Where the words look: the weights of the cross-attentions, as maps over the picture.

Each place of a feature map asks, each token answers, and $\mathrm{softmax}(q k^{\mathsf T} / \sqrt d)$ says how much a
place takes from each token (Rombach et al. 2022, arXiv:2112.10752, section 3.3; Hertz et al. 2022, arXiv:2208.01626,
look at these maps). They show where information came from, not what it was used for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image

from tinyldm import ops
from tinyldm.pipelines.conditioners import RetrievalConditioner
from tinyldm.pipelines.parts import Parts
from tinyldm.pipelines.request import Request
from tinyldm.server.refusals import Refusal
from tinyldm.text.clip_tokenizer import END_OF_WORD, Tokenizer, token_bytes
from tinyldm.typing import Array

CROSS_ATTENTION = "*attn2.to_[qk]"  # the modules whose outputs are queries and keys
MOST_TOKENS = 24  # of a prompt that maps are kept of
START, END = "start", "first end"


def check_has_words(parts: Parts) -> None:
    """Raise `Refusal` for a model whose cross-attention has no words to look at."""
    conditioner, name = parts.conditioner, parts.path.name
    if conditioner.takes != "text":
        raise Refusal(f"{name} takes no text, so that there is no cross-attention by word", "prompt")
    if isinstance(conditioner, RetrievalConditioner):
        raise Refusal(f"{name} sees a prompt as one vector, so that there is no cross-attention by word", "prompt")


def tokens_of(parts: Parts, prompt: str | None) -> list[str]:
    """The tokens of a prompt as a person reads them; one that goes on in the next ends with …"""
    tokenizer = parts.tokenizers.get("tokenizer") or parts.tokenizers.get("tokenizer_2")
    if tokenizer is None or prompt is None:
        return []
    tokens: list[str] = tokenizer.tokenize(prompt)
    if not isinstance(tokenizer, Tokenizer):
        return tokens
    texts = [token_bytes(token.removesuffix(END_OF_WORD)).decode(errors="replace") for token in tokens]
    return [text if token.endswith(END_OF_WORD) else f"{text}…" for text, token in zip(texts, tokens, strict=True)]


def looked_at(parts: Parts, prompt: str | None) -> list[str]:
    """The tokens that there are maps of: the start, those of the prompt, and the end behind it."""
    read = [tokenizer.max_length for tokenizer in parts.tokenizers.values()]
    room = min([MOST_TOKENS, *read]) - 2
    return [START, *tokens_of(parts, prompt)[:room], END]


def attention_maps(seen: Mapping[str, Array], parts: Parts, request: Request, size: Sequence[int]) -> dict[str, Array]:
    """The maps of every cross-attention by its path, from queries and keys of the last call: `(tokens, h', w')` each.

    `size` is that of the latent; a feature map has it, or half of it some times. Those with the prompt stand last.
    """
    count, found = len(looked_at(parts, request.prompts[0])), {}
    for path in (path.removesuffix(".to_q") for path in seen if path.endswith(".to_q")):
        heads = parts.predictor.weights.at(path).settings["heads"]
        weights = attention_weights(seen[f"{path}.to_q"][-1], seen[f"{path}.to_k"][-1], heads)
        h, w = (int(side) for side in size)
        while h * w > len(weights):
            h, w = (h + 1) // 2, (w + 1) // 2
        found[path] = weights[:, :count].T.reshape(-1, h, w).astype(np.float16)
    return found


def attention_weights(q: Array, k: Array, heads: int) -> Array:  # (P, C), (L, C) -> (P, L)
    r"""What each place takes from each token, $\mathrm{softmax}(q k^{\mathsf T} / \sqrt d)$: the mean of all heads."""
    each = zip(np.split(q, heads, axis=1), np.split(k, heads, axis=1), strict=True)
    weights: Array = np.mean([ops.softmax(qs @ ks.T / np.sqrt(qs.shape[1])) for qs, ks in each], axis=0)
    return weights


def layers_of(maps: Mapping[str, Array]) -> dict[str, list[str]]:
    """What one may look at, by name: all layers, those of each size, and each by itself; the paths of each choice."""
    sizes: dict[str, list[str]] = {}
    for path, found in maps.items():
        sizes.setdefault("{}×{}".format(*found.shape[1:]), []).append(path)
    return {"all": list(maps), **sizes, **{path: [path] for path in maps}}


def joined(maps: Mapping[str, Array], layer: str = "all") -> Array:  # -> (tokens, h, w)
    """The mean of the maps of a choice of `layers_of`, each brought to the size of the largest.

    Raises `Refusal` for a layer that there is not.
    """
    choices = layers_of(maps)
    if layer not in choices:
        raise Refusal(f"layer {layer!r} is none of {', '.join(choices)}", "layer")
    chosen = [maps[path].astype(np.float32) for path in choices[layer]]
    h, w = max(found.shape[1:] for found in chosen)
    mean: Array = np.mean([[enlarged(one, h, w) for one in found] for found in chosen], axis=0)
    return mean


def enlarged(x: Array, height: int, width: int) -> Array:  # (h, w) -> (height, width)
    """A map in another size, between its places by straight lines."""
    if x.shape == (height, width):
        return x
    return np.asarray(Image.fromarray(x).resize((width, height), Image.Resampling.BILINEAR))
