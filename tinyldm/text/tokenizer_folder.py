"""The tokenizer of a text encoder that comes without one, as in a single file: which it is, and as a folder's files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tinyldm.checkpoints.published_folder import Tokenizers
from tinyldm.checkpoints.recognised import Component
from tinyldm.text.clip_tokenizer import END_OF_TEXT, Tokenizer
from tinyldm.text.wordpiece import WordPiece

OPENCLIP_PAD = "!"  # the token of id 0, where OpenAI's pads with the end token


def usual_tokenizer(component: Component) -> Tokenizer | WordPiece | None:
    """The package's own tokenizer for a text encoder: CLIP's, or BERT's; None where its context is no text.

    OpenCLIP's encoders, which have the plain GELU, pad with the token of id 0. The layout model's
    text encoder reads the classes and corners of boxes for words, which no tokenizer makes of a text.
    """
    config = component.config
    if component.class_name.startswith("CLIP"):
        openclip = config.get("hidden_act") == "gelu"
        return Tokenizer.clip(pad_token=OPENCLIP_PAD if openclip else END_OF_TEXT)
    length = config.get("max_position_embeddings")
    if component.class_name != "LDMBertModel" or not isinstance(length, int):
        return None
    words = WordPiece.bert(length)
    return words if words.vocab_size == config.get("vocab_size") else None


def tokenizer_folder(component: Component) -> tuple[str, dict[str, str]] | None:
    """The published folder of a text encoder's usual tokenizer: its class, and the files' texts by name."""
    tokenizer = usual_tokenizer(component)
    if isinstance(tokenizer, WordPiece):
        config = {"tokenizer_class": "BertTokenizer", "model_max_length": tokenizer.max_length, "do_lower_case": True}
        vocab = "".join(f"{token}\n" for token in tokenizer.vocab)
        return "BertTokenizer", {"vocab.txt": vocab, "tokenizer_config.json": as_json(config)}
    if tokenizer is None:
        return None
    roles = ("bos_token", "eos_token", "unk_token", "pad_token")
    special = {role: getattr(tokenizer, role) for role in roles}
    length = {"tokenizer_class": "CLIPTokenizer", "model_max_length": tokenizer.max_length, "do_lower_case": True}
    return "CLIPTokenizer", {
        "vocab.json": as_json(tokenizer.vocab),
        "merges.txt": "".join(f"{line}\n" for line in ["#version: 0.2", *map(" ".join, tokenizer.ranks)]),
        "special_tokens_map.json": as_json(special),
        "tokenizer_config.json": as_json(special | length),
    }


def is_usual(component: Component, folder: Path) -> bool:
    """Whether a folder's tokenizer gives the ids that the text encoder's usual one gives."""
    usual = usual_tokenizer(component)
    if usual is None:
        return False
    here = type(usual).load(folder)
    same = here.vocab == usual.vocab and here.max_length == usual.max_length
    if isinstance(here, Tokenizer) and isinstance(usual, Tokenizer):
        same = same and here.ranks == usual.ranks and here.pad_id == usual.pad_id
    return same


TOKENIZERS = Tokenizers(tokenizer_folder, is_usual)


def as_json(value: Any) -> str:
    """JSON as published files have it."""
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"
