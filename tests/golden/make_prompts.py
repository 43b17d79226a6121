"""Make the goldens of weighted prompts: `python tests/golden/make_prompts.py`. Needs `pip install ".[golden]"`.

What the web interface AUTOMATIC1111 makes of a prompt with weights and of more than 77 tokens, by an implementation of
its own on transformers' tokenizer and text encoders: a weight for every character instead of a list of parts, and
chunks cut from the whole row of tokens instead of filled one by one. The text encoders have CLIP's vocabulary, few
channels and seeded weights, and compute in float64, the casts inside them lifted.

A case is the texts of a prompt at each of its stretches, which are encoded as one batch. Stored are, for each model,
the ids and weights of the chunks and the weighted context, and of two encoders the pooled text.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import CLIPTokenizer

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE.parents[1])]

from golden.make_models import fill, lifted, original, patches  # noqa: E402
from golden.make_tokenizer import clip_vocabulary  # noqa: E402
from golden.provenance import save_golden  # noqa: E402

LONG = "a very long tale of " + " ".join(f"a fox number {k}, and an owl" for k in range(8)) + " (in the fog:1.2)"
CASES = {
    "words": ["a red apple"],
    "nothing": [""],
    "weights": ["a (red:1.3) apple, ((green)) [leaf] on a (big (oak:0.5) table)"],
    "escapes": [r"apple \(fruit\) (a \[b\]:0.7) \\ c:d"],
    "unbalanced": ["a (red apple [on] a ((table"],
    "break": ["a red apple BREAK (on a table:1.4) BREAK"],
    "long": [LONG],
    "comma far back": ["one, " + "two " * 90 + "(three:1.5)"],
    "comma at the end": ["one " * 75 + ", two (three:1.5)"],
    "comma before the end": ["one " * 60 + ", " + "two " * 30],
    "stretches": ["a (red:1.3) apple", "a (green:0.6) apple " + "and a leaf " * 30],
}
SKIPPED = ("weights", "stretches")  # the cases that another layer is read for
SMALL = {"vocab_size": 49408, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2}
FIRST = {**SMALL, "hidden_size": 6, "eos_token_id": 49407}
SECOND = {**SMALL, "hidden_size": 8, "hidden_act": "gelu", "eos_token_id": 49407}
PROJECTED = {**SECOND, "architectures": ["CLIPTextModelWithProjection"], "projection_dim": 6}
# Of each text encoder its config, the id behind the end of a chunk, the layer from the last, whether the norm follows.
MODELS: dict[str, list[tuple[dict[str, Any], int, int, bool]]] = {
    "sd1": [(FIRST, 49407, 1, True)],
    "sd1 skip 2": [(FIRST, 49407, 2, True)],
    "sd2": [(SECOND, 0, 1, True)],
    "xl": [(FIRST, 49407, 2, False), (PROJECTED, 0, 2, False)],
}
START, END, COMMA, ROOM, BACK = 49406, 49407, 267, 75, 20


def weighted_characters(text: str) -> list[tuple[str, float]]:
    """Every character that is no syntax, with its weight."""
    found: list[list[Any]] = []
    opened: list[tuple[str, int]] = []

    def close(bracket: str, weight: float) -> bool:
        of_kind = [k for k, (kind, _) in enumerate(opened) if kind == bracket]
        if of_kind:
            _, first = opened.pop(of_kind[-1])
            for cell in found[first:]:
                cell[1] *= weight
        return bool(of_kind)

    place = 0
    while place < len(text):
        here, place = text[place], place + 1
        number = re.match(r"\s*([-+]?[.\d]+)\s*\)", text[place:]) if here == ":" else None
        if here == "\\":
            if text[place : place + 1] in tuple("()[]\\"):
                found.append([text[place], 1.0])
                place += 1
        elif here in "([":
            opened.append((here, len(found)))
        elif number and close("(", float(number[1])):
            place += number.end()
        elif not (here in ")]" and close("(["[here == "]"], 1.1 if here == ")" else 1 / 1.1)):
            found.append([here, 1.0])
    while opened:
        close(opened[-1][0], 1.1 if opened[-1][0] == "(" else 1 / 1.1)
    return [(character, weight) for character, weight in found]


def runs(text: str) -> list[list[tuple[str, float]]]:
    """The runs of one weight, between one BREAK and the next."""
    pages: list[list[tuple[str, float]]] = [[]]
    written, last = "", None
    for character, weight in [*weighted_characters(text), ("", None)]:
        if weight != last and written:
            first, *others = re.split(r"\s*\bBREAK\b\s*", written) if last == 1 else [written]
            pages[-1].append((first, last))
            pages += [[(other, last)] for other in others]
            written = ""
        written, last = written + character, weight
    return pages


def cut(row: list[tuple[int, float]]) -> list[list[tuple[int, float]]]:
    """The tokens of what stands between one BREAK and the next, cut into what a text encoder reads at once."""
    pages = []
    while len(row) > ROOM:
        end = ROOM
        if row[ROOM][0] != COMMA:
            end = next((k + 1 for k in range(ROOM - 1, ROOM - 1 - BACK, -1) if row[k][0] == COMMA), ROOM)
        pages.append(row[:end])
        row = row[end:]
    return [*pages, row]


def rows_of(text: str, tokenizer: CLIPTokenizer, pad: int) -> list[tuple[list[int], list[float]]]:
    """The ids and weights of the chunks of a text."""
    pages = []
    for page in runs(text):
        ids = [(i, w) for part, w in page for i in tokenizer(part, add_special_tokens=False).input_ids]
        pages += cut(ids)
    pages = pages if pages[-1] or len(pages) == 1 else pages[:-1]
    chunks = []
    for page in pages:
        empty = ROOM - len(page)
        ids = [START, *(i for i, _ in page), END, *[pad] * empty]
        chunks.append((ids, [1.0, *(w for _, w in page), *[1.0] * (empty + 1)]))
    return chunks


def model_of(config: dict[str, Any]) -> torch.nn.Module:
    """The original text encoder of a config, in float64, with seeded weights."""
    model = original("text_encoder", config).double()
    fill(model, {})
    return model.eval()


@torch.inference_mode()
def encode(
    texts: list[str], model: torch.nn.Module, pad: int, layer: int, norm: bool, tokenizer: Any
) -> dict[str, Any]:
    """Ids and weights, each (texts, chunks, 77), the weighted context (texts, chunks · 77, D), and the pooled texts."""
    chunks = [rows_of(text, tokenizer, pad) for text in texts]
    count = max(map(len, chunks))
    chunks = [[*own, *rows_of("", tokenizer, pad) * (count - len(own))] for own in chunks]
    ids = torch.tensor([[i for i, _ in own] for own in chunks])
    weights = torch.tensor([[w for _, w in own] for own in chunks], dtype=torch.float64)
    contexts, pooled = [], None
    for k in range(count):
        with lifted():
            out = model(ids[:, k], output_hidden_states=True)
        z = out.hidden_states[-layer]
        z = getattr(model, "text_model", model).final_layer_norm(z) if norm else z
        mean = z.mean()
        z = z * weights[:, k, :, None]
        contexts.append(z * (mean / z.mean()))
        pooled = out[0] if pooled is None else pooled
    return {"ids": ids, "weights": weights, "context": torch.cat(contexts, dim=1), "pooled": pooled}


def main() -> None:
    torch.set_num_threads(1)
    vocabulary, merges = clip_vocabulary()
    tokenizer = CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=77)
    found: dict[str, np.ndarray] = {}
    for model, encoders in MODELS.items():
        loaded = [(model_of(config), *how) for config, *how in encoders]
        for case, texts in CASES.items():
            if "skip" in model and case not in SKIPPED:
                continue
            each = [encode(texts, *encoder, tokenizer) for encoder in loaded]
            name = f"{model}/{case}"
            found[f"{name}/context"] = torch.cat([one["context"] for one in each], dim=-1).numpy()
            for k, one in enumerate(each):
                found |= {f"{name}/ids {k}": one["ids"].numpy(), f"{name}/weights {k}": one["weights"].numpy()}
            if len(each) > 1:
                found[f"{name}/pooled"] = each[-1]["pooled"].numpy()
    packages = ("torch", "transformers")
    path = save_golden("text/prompts", found, packages, cases=CASES, models=MODELS, seed=0, patches=patches())
    print(f"{path}: {len(found)} tensors, {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
