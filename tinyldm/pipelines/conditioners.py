"""What the UNet is conditioned on, and who makes it: one conditioner a family of models, chosen when it is loaded.

A condition is a context, and for some models a pooled text, the picture's size, another picture. It is made of prompts,
of class numbers, of nothing, or of arrays that the caller has. The unconditional half of a guided batch comes first,
as in the original.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, NamedTuple

import numpy as np

from tinyldm.errors import InputError
from tinyldm.models.bert import BertEncoder
from tinyldm.pipelines.layout import layout_tokens, read_layout
from tinyldm.text.clip_tokenizer import Tokenizer
from tinyldm.typing import Array, Integers

AESTHETIC_SCORES = (6.0, 2.5)  # what the XL refiner is told of a picture to make, and of one to stay away from
Prompts = Sequence[str | None]  # one a picture; None where none is given
Size = tuple[int, int]  # height and width of a picture, in pixels


@dataclass(frozen=True)
class Conditioning:
    """What the UNet is given besides the latent and the time; every array has one row a picture, or two with guidance.

    `context` is `(M, L, D)`, None for the unconditional models; `arrays` the model's further conditions by name;
    `concat` `(M, C, h, w)` stands behind the latent along the channels. `guided` says that each picture has two rows.
    `composed` stands for `context` and `arrays` where they change from call to call (`composed.Composed`).
    `images` are keys and values of pictures that are prompts, `(M, T, C)` each, by the UNet's attentions; beside what
    is `composed` they have two rows, of nothing and of the picture. `guide` is what controls say to each call.
    """

    context: Array | None = None
    arrays: Mapping[str, Array] = field(default_factory=dict)
    concat: Array | None = None
    guided: bool = False
    composed: Any = None
    images: Mapping[str, Sequence[tuple[Array, Array]]] | None = None
    guide: Any = None

    def check_fixed(self, what: str) -> None:
        """Raise `InputError` if it changes from call to call, which `what` does not take."""
        if self.composed is not None:
            raise InputError(
                f"{what} takes prompts that stay the same at every step: no AND, no [from:to:step], no [a|b]"
            )

    def each(self, change: Callable[[Array], Array]) -> Conditioning:
        """This with `change` made to the context, to `arrays` and to what stands behind the latent."""
        arrays = {name: change(array) for name, array in self.arrays.items()}
        context = None if self.context is None else change(self.context)
        return replace(
            self, context=context, arrays=arrays, concat=None if self.concat is None else change(self.concat)
        )

    def of_pictures(self, pictures: range, count: int) -> Conditioning:
        """The rows of some of the `count` pictures that this is the condition of."""
        rows = [*pictures, *(count + k for k in pictures)] if self.guided else list(pictures)
        composed = None if self.composed is None else self.composed.of_pictures(pictures)
        return replace(self.each(lambda array: array[rows]), composed=composed)

    def told(self, name: str, value: Array, rows: int) -> Conditioning:
        """This with one thing more that the model is told, the same for all of its `rows`."""
        arrays = {**self.arrays, name: np.repeat(value[None], rows, axis=0)}
        return replace(self, arrays=arrays, composed=None if self.composed is None else self.composed.told(name, value))


class TextReader(NamedTuple):
    """A text encoder with its tokenizer, the layer whose output is the context, and whether the final norm follows."""

    encoder: Any
    tokenizer: Tokenizer
    layer: int = -1
    final_norm: bool = True


class Conditioner:
    """Makes the condition of one family of models; this one, of those that are conditioned on nothing.

    `takes` says what of: `text`, `classes`, `layout`, `nothing`, or `arrays` that only the caller has. `guides` says
    whether a guidance scale makes it two predictions, `takes_negative` whether one of them may be of another text.
    """

    takes: ClassVar[str] = "nothing"
    takes_negative: ClassVar[bool] = False
    guides = False

    def __init__(self, path: object = "the model") -> None:
        self.path = path

    def check(self, prompts: Prompts) -> None:
        """Raise `InputError` for a prompt that can't be honoured, before anything is read or computed."""
        given = next((prompt for prompt in prompts if prompt is not None), None)
        if given is not None:
            raise InputError(f"{self.path}: takes no prompt; leave out {given!r}")

    def encode(self, prompts: Prompts, negatives: Sequence[str], guidance_scale: float, size: Size) -> Conditioning:
        """The condition of pictures of `size`, one for each prompt."""
        return Conditioning()

    def readers(self) -> list[TextReader]:
        """What reads a prompt token by token, which its syntax wants; none where there is no such thing."""
        return []


class ArraysOnly(Conditioner):
    """Stands for a conditioner where there is none: `reason` says why no prompt will do."""

    takes = "arrays"

    def __init__(self, path: object, reason: str) -> None:
        super().__init__(path)
        self.reason = reason

    def check(self, prompts: Prompts) -> None:
        """Raise `InputError`: whatever the prompts, the model wants arrays."""
        raise InputError(f"{self.path}: {self.reason}")


class ClassConditioner(Conditioner):
    """Class numbers; the unconditional half is the last class, which stands for none.

    Source: Ho and Salimans 2022, arXiv:2207.12598, section 3.2.
    """

    takes = "classes"
    guides = True

    def __init__(self, path: object, embedder: Any) -> None:
        super().__init__(path)
        self.embedder = embedder

    def check(self, prompts: Prompts) -> None:
        """Raise `InputError` unless every prompt is the number of a class."""
        count = self.embedder.config.num_classes
        for prompt in prompts:
            if prompt is None or not prompt.isascii() or not prompt.isdigit():
                given = "nothing" if prompt is None else repr(prompt)
                raise InputError(f"{self.path}: takes class numbers as prompts, not {given}")
            if int(prompt) >= count:
                raise InputError(f"{self.path}: class numbers are 0 to {count - 1}, not {prompt}")

    def encode(self, prompts: Prompts, negatives: Sequence[str], guidance_scale: float, size: Size) -> Conditioning:
        """A context of one token for each class: `(M, 1, D)`."""
        none, guided = self.embedder.config.num_classes - 1, guidance_scale > 1
        labels = [int(prompt or 0) for prompt in prompts]
        wanted = [none] * len(labels) * guided + labels
        return Conditioning(self.embedder(np.array(wanted, np.int64)), guided=guided)


class TextConditioner(Conditioner):
    """Prompts read by one text encoder: CLIP's, or the first text models' BERT.

    `guidance_width` is the width of the embedding that tells a distilled model its guidance scale: it makes the guided
    prediction in one call, so that no prompt is doubled. `wants_pooled` says that the pooled text is a condition, too.
    """

    takes = "text"
    wants_pooled: ClassVar[bool] = False
    takes_negative = True

    def __init__(self, path: object, encoder: Any, tokenizer: Any, guidance_width: int | None = None) -> None:
        super().__init__(path)
        self.encoder, self.tokenizer, self.guidance_width = encoder, tokenizer, guidance_width
        self.guides = guidance_width is None

    def check(self, prompts: Prompts) -> None:
        """Raise `InputError` where a prompt is missing."""
        if any(prompt is None for prompt in prompts):
            raise InputError(f"{self.path}: wants a prompt")

    def encode(self, prompts: Prompts, negatives: Sequence[str], guidance_scale: float, size: Size) -> Conditioning:
        """The context of the prompts, `(M, L, D)`; a text that stands several times is encoded once."""
        guided = guidance_scale > 1 and self.guidance_width is None
        wanted = [text or "" for text in ([*negatives, *prompts] if guided else prompts)]
        texts = list(dict.fromkeys(wanted))  # each once
        rows = [texts.index(text) for text in wanted]
        arrays = {}
        if self.guidance_width is not None:
            embedded = guidance_embedding(guidance_scale - 1, self.guidance_width)
            arrays["guidance"] = np.repeat(embedded, len(prompts), axis=0)
        return Conditioning(self.encoder(self.tokenizer.encode(texts))[rows], arrays, guided=guided)

    def readers(self) -> list[TextReader]:
        """CLIP's text encoder; BERT's knows no syntax."""
        return [TextReader(self.encoder, self.tokenizer)] if isinstance(self.tokenizer, Tokenizer) else []

    def guided(self, guidance_scale: float) -> bool:
        """Whether a guidance scale wants a prediction without the prompt."""
        return guidance_scale > 1 and self.guidance_width is None

    def zeroes(self, negative: str) -> bool:
        """Whether zeros stand for a negative prompt's context."""
        return False

    def row_arrays(self, negative: bool, guidance_scale: float, size: Size) -> dict[str, Array]:
        """What the UNet is told besides the text, for a prompt or a negative one, each `(…)`."""
        width = self.guidance_width
        return {} if width is None else {"guidance": guidance_embedding(guidance_scale - 1, width)[0]}


class XLConditioner(TextConditioner):
    """Prompts read by two text encoders, the XL models', or by the second alone, their refiner's.

    The context is the last layer but one of each encoder, side by side; beside it stand the pooled text of the second
    and what the model is told of the picture's size. Source: Podell et al. 2023, arXiv:2307.01952, sections 2.1, 2.2.
    """

    wants_pooled = True

    def __init__(self, path: object, encoders: Sequence[tuple[Any, Any]], options: Mapping[str, Any]) -> None:
        super().__init__(path, *encoders[-1])
        self.encoders, self.options = encoders, options

    def encode(self, prompts: Prompts, negatives: Sequence[str], guidance_scale: float, size: Size) -> Conditioning:
        """The context `(M, L, D)`, the pooled texts `(M, D')` and the sizes `(M, 5 or 6)`."""
        guided = guidance_scale > 1
        wanted = [text or "" for text in ([*negatives, *prompts] if guided else prompts)]
        texts = list(dict.fromkeys(wanted))  # each once
        rows = [texts.index(text) for text in wanted]
        tokens = [(encoder, tokenizer.encode(texts)) for encoder, tokenizer in self.encoders]
        contexts = [encoder(ids, layer=-2, final_norm=False) for encoder, ids in tokens]
        context = np.concatenate(contexts, axis=-1)[rows]
        pooled = tokens[-1][0].pooled(tokens[-1][1])[rows]
        if guided and self.options.get("force_zeros_for_empty_prompt") and not any(negatives):
            context[: len(negatives)], pooled[: len(negatives)] = 0, 0  # no negative prompt at all is nothing, not ""
        sizes = self.size_ids(size, len(prompts), guided)
        return Conditioning(context, {"text_embeds": pooled, "time_ids": sizes}, guided=guided)

    def readers(self) -> list[TextReader]:
        """CLIP's text encoders, each at its last layer but one."""
        return [TextReader(encoder, tokenizer, -2, final_norm=False) for encoder, tokenizer in self.encoders]

    def zeroes(self, negative: str) -> bool:
        """Whether no negative prompt is nothing, and not the text ""."""
        return not negative and bool(self.options.get("force_zeros_for_empty_prompt"))

    def row_arrays(self, negative: bool, guidance_scale: float, size: Size) -> dict[str, Array]:
        """The sizes of a picture, as a prompt or a negative one is told."""
        return {"time_ids": self.size_ids(size, 1, guided=True)[0 if negative else 1]}

    def size_ids(self, size: Size, count: int, guided: bool) -> Array:  # -> (M, 5 or 6)
        """Original size, crop, and target size, or of the refiner the aesthetic score."""
        original_and_crop = [*size, 0, 0]
        if self.options.get("requires_aesthetics_score"):
            wanted, unwanted = ([*original_and_crop, score] for score in AESTHETIC_SCORES)
        else:
            wanted = unwanted = [*original_and_crop, *size]
        return np.array([unwanted] * count * guided + [wanted] * count, np.float64)


class RetrievalConditioner(TextConditioner):
    """The retrieval-augmented model's: CLIP's embedding of the text, of length one, is the only token of the context.

    The unconditional half is zeros. Source: Blattmann et al. 2022, arXiv:2204.11824, section 3.2 and appendix.
    """

    takes_negative = False

    def readers(self) -> list[TextReader]:
        """None: a text is one vector."""
        return []

    def check(self, prompts: Prompts) -> None:
        """Raise `InputError` where a prompt is missing, or the text encoder gives no embedding."""
        super().check(prompts)
        if "text_projection" not in self.encoder.weights:
            raise InputError(
                f"{self.path}: its context is a projected embedding; this text encoder has no text_projection"
            )

    def encode(self, prompts: Prompts, negatives: Sequence[str], guidance_scale: float, size: Size) -> Conditioning:
        """A context of one token for each prompt: `(M, 1, D)`."""
        pooled = self.encoder.pooled(self.tokenizer.encode(list(prompts)))
        context = (pooled / np.linalg.norm(pooled, axis=1, keepdims=True))[:, None]
        guided = guidance_scale > 1
        return Conditioning(np.concatenate([np.zeros_like(context), context]) if guided else context, guided=guided)


class LayoutConditioner(Conditioner):
    """Layouts, as texts in JSON; the prediction is not guided.

    Source: Rombach et al. 2022, arXiv:2112.10752, section 4.3.1 (layout-to-image).
    """

    takes = "layout"
    reason = "its text encoder reads no text but layouts: `tinyldm sample --layout`, `model.layout_to_image`"

    def __init__(self, path: object, encoder: Any) -> None:
        super().__init__(path)
        self.encoder = encoder

    def tokens(self, prompts: Prompts) -> Integers:  # -> (N, L)
        """The tokens of layouts in JSON. Raises `InputError` for what is none."""
        config = self.encoder.config
        if any(prompt is None for prompt in prompts):
            raise InputError(f"{self.path}: {self.reason}")
        length, vocabulary = config.max_position_embeddings, config.vocab_size
        return np.stack([layout_tokens(read_layout(prompt or ""), length, vocabulary) for prompt in prompts])

    def check(self, prompts: Prompts) -> None:
        """Raise `InputError` unless every prompt is a layout."""
        self.tokens(prompts)

    def encode(self, prompts: Prompts, negatives: Sequence[str], guidance_scale: float, size: Size) -> Conditioning:
        """The context of the layouts: `(N, L, D)`."""
        return Conditioning(self.encoder(self.tokens(prompts)))


def choose_conditioner(
    path: object,
    networks: Mapping[str, Any],
    tokenizers: Mapping[str, Any],
    options: Mapping[str, Any],
    denoiser: Any,
    embeds_text: bool,
) -> Conditioner:
    """The conditioner that a model's networks ask for; `embeds_text` tells the retrieval-augmented ones."""
    if denoiser is None:
        return ArraysOnly(path, "it is a first stage alone; sampling wants a unet as well")
    first, second = networks.get("text_encoder"), networks.get("text_encoder_2")
    tokenizer = tokenizers.get("tokenizer")
    if "class_embedder" in networks:
        return ClassConditioner(path, networks["class_embedder"])
    if first is None and second is None:
        if not hasattr(denoiser.config, "context_dim"):
            return Conditioner(path)
        more = "; without a text encoder: give it CLIP's with projection (text_encoder=…)" if embeds_text else ""
        return ArraysOnly(path, f"this model takes no prompts{more}")
    if not tokenizers and isinstance(first, BertEncoder):
        return LayoutConditioner(path, first)
    if not tokenizers:
        return ArraysOnly(path, "its text encoder reads no text; give `from_conditions` its context")
    if embeds_text:
        return RetrievalConditioner(path, first, tokenizer)
    if second is not None:
        pairs = [(first, tokenizer), (second, tokenizers.get("tokenizer_2") or tokenizer)]
        return XLConditioner(path, [pair for pair in pairs if pair[0] is not None], options)
    return TextConditioner(path, first, tokenizer, getattr(denoiser.config, "time_cond_proj_dim", None))


def guidance_embedding(w: float, width: int) -> Array:  # -> (1, width)
    r"""What the models that were distilled with guidance are told of its scale: sines and cosines of $1000 w$.

    $w$ is the guidance scale less one. Source: Luo et al. 2023, arXiv:2310.04378, section 4.2 and appendix; Kingma et
    al. 2021, arXiv:2107.00630, for the embedding.
    """
    half = width // 2
    angles = 1000 * w * np.exp(-np.log(10000.0) / (half - 1) * np.arange(half))
    embedded = np.concatenate([np.sin(angles), np.cos(angles)])
    return np.pad(embedded, (0, width - 2 * half))[None]


def given_conditions(
    denoiser: Any,
    latent_channels: int,
    context: Array | None,
    negative_context: Array | None,
    concat: Array | None,
    guidance_scale: float,
    arrays: Mapping[str, Array],
) -> tuple[Conditioning, int]:
    """The condition that the caller's own arrays are, and the number of pictures that they are for.

    With a `negative_context` and a guidance scale above 1, everything else is given to both halves. Raises `InputError`
    where arrays are of different lengths, or are not those that the UNet takes.
    """
    config, dtype = denoiser.config, denoiser.runtime.dtype
    context = None if context is None else np.asarray(context, dtype)
    concat = None if concat is None else np.asarray(concat, dtype)
    more = config.in_channels - latent_channels
    takes_context = hasattr(config, "context_dim")
    if (context is not None) != takes_context:
        raise InputError("context is missing" if takes_context else "this UNet takes no context")
    if (0 if concat is None or concat.ndim != 4 else concat.shape[1]) != more or (concat is not None and not more):
        found = "nothing" if concat is None else f"an array of shape {concat.shape}"
        raise InputError(f"concat must have the shape (N, {more}, h, w) for this UNet, not {found}")
    given = {"context": context, "concat": concat} | {name: np.asarray(value) for name, value in arrays.items()}
    counts = {len(value) for value in given.values() if value is not None} - {1}
    if len(counts) > 1:
        raise InputError(f"the conditions are for {' and '.join(map(str, sorted(counts)))} pictures; wanted one number")
    count = counts.pop() if counts else 1
    guided = negative_context is not None and guidance_scale > 1

    def rows(conditional: Array, unconditional: Array | None = None) -> Array:
        halves = ([conditional if unconditional is None else unconditional] if guided else []) + [conditional]
        return np.concatenate([np.broadcast_to(half, (count, *half.shape[1:])) for half in halves])

    if guidance_scale > 1 and negative_context is None:
        raise InputError(f"guidance_scale {guidance_scale:g} draws away from a negative_context, which is missing")
    if guided and context is not None:
        negative = np.asarray(negative_context, dtype)
        if negative.shape[1:] != context.shape[1:] or len(negative) not in (1, count):
            raise InputError(f"negative_context must be like context, {context.shape}, not {negative.shape}")
        context = rows(context, negative)
    elif context is not None:
        context = rows(context)
    expanded = {name: rows(np.asarray(value)) for name, value in arrays.items()}
    return Conditioning(context, expanded, None if concat is None else rows(concat), guided), count
