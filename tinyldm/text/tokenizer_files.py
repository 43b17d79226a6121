"""Reading the files of a CLIP tokenizer: the vocabulary, the merge list, the special tokens and how to find them.

A published folder has its vocabulary as `vocab.json` and `merges.txt`, as one `tokenizer.json`, or both ways; if both,
`tokenizer.json` counts. Which tokens play the special roles, and how they are recognised in a prompt, is spread over
`tokenizer_config.json`, `special_tokens_map.json`, `added_tokens.json` and `tokenizer.json`. The rules here give what
`transformers.CLIPTokenizer` 5.23 makes of them.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tinyldm.checkpoints.folder import read_json
from tinyldm.errors import CheckpointError, ConfigError

Merges = list[tuple[str, str]]

# The order matters: of two roles that one token plays, the later says how it is recognised.
ROLES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
DEFAULTS = {
    "bos_token": "<|startoftext|>",
    "eos_token": "<|endoftext|>",
    "unk_token": "<|endoftext|>",
    "pad_token": "<|endoftext|>",
}
MAX_ID = 2**31
DEFAULT_LENGTH = 77
NO_LENGTH = 10**20  # the files write "no limit" as 10^30, rounded to a float


@dataclass(frozen=True)
class AddedToken:
    """A token that is recognised where a prompt spells it out, before the prompt is cut into words.

    `normalized` tokens are looked for in the normalised text (so in any case, `<|EndOfText|>`), the others in the text
    as it was written. `special` ones are left out when ids are decoded.
    """

    content: str
    normalized: bool = False
    special: bool = True


@dataclass(frozen=True)
class TokenizerFiles:
    """What the files say: the vocabulary with the added tokens in it, the merges, the roles, the length.

    `spelled` are the added tokens that stand for several, themselves among them.
    """

    vocab: dict[str, int]
    merges: Merges
    added: list[AddedToken]
    bos_token: str
    eos_token: str
    pad_token: str
    unk_token: str
    max_length: int
    spelled: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def read_tokenizer_folder(folder: Path) -> TokenizerFiles:
    """Read a tokenizer folder.

    Raises `CheckpointError` for missing or malformed files, `ConfigError` for a tokenizer that is not CLIP's.
    """
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: no such folder; a tokenizer folder holds vocab.json and merges.txt")
    config = _read_object(folder / "tokenizer_config.json")
    whole = _read_object(folder / "tokenizer.json")
    if whole:
        vocab, merges = _parse_tokenizer_json(whole, folder / "tokenizer.json")
    elif (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
        vocab = _checked_vocabulary(_read_object(folder / "vocab.json"), folder / "vocab.json")
        merges = _parse_merges_txt(folder / "merges.txt")
    else:
        raise CheckpointError(f"{folder}: holds neither tokenizer.json nor both vocab.json and merges.txt")
    if "added_tokens_decoder" not in config:  # the older way: special tokens in a file of their own
        config = config | _read_object(folder / "special_tokens_map.json")
    _check_config(config, folder / "tokenizer_config.json")

    roles, added, indices = _special_tokens(config, whole, _read_object(folder / "added_tokens.json"), folder)
    for content, index in indices.items():
        if vocab.setdefault(content, index) != index:
            raise CheckpointError(f"{folder}: token {content!r} has two ids, {index} and {vocab[content]}")
    _check_template(whole, roles, folder / "tokenizer.json")
    length = _max_length(config, whole, folder)
    return TokenizerFiles(vocab, merges, added, max_length=length, spelled=words_of_several(added, vocab), **roles)


def words_of_several(added: Sequence[AddedToken], vocab: Mapping[str, int]) -> dict[str, tuple[str, ...]]:
    """The learned words of several vectors: `word` with the id n is followed by `word_1` with n + 1, and so on.

    That is how diffusers adds them (`load_textual_inversion`) and how a pipeline that was saved with them has them.
    """
    known = {token.content for token in added}
    found = {}
    for word in known & vocab.keys():
        tokens = [word]
        while (more := f"{word}_{len(tokens)}") in known and vocab.get(more) == vocab[word] + len(tokens):
            tokens.append(more)
        if len(tokens) > 1:
            found[word] = tuple(tokens)
    return found


def parse_openai_merges(blob: bytes, alphabet: Sequence[str]) -> tuple[dict[str, int], Merges]:
    """CLIP's vocabulary and merges from the bytes of OpenAI's `bpe_simple_vocab_16e6.txt.gz`.

    The file is a gzipped list of merges under one line of header, longer than CLIP uses. Ids are counted up through the
    256 characters of the byte `alphabet` (in the order given), the same with the end-of-word mark, one token for each
    of the first 48,894 merges, and the two special tokens: 49,408 in all.
    """
    try:
        lines = gzip.decompress(blob).decode().split("\n")[1:48895]
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise CheckpointError(f"the CLIP merge list is not a gzipped UTF-8 text: {error}") from error
    merges = [_pair(line.split(), "the CLIP merge list", number) for number, line in enumerate(lines, start=2)]
    tokens = [*alphabet, *(character + "</w>" for character in alphabet), *("".join(pair) for pair in merges)]
    tokens += [DEFAULTS["bos_token"], DEFAULTS["eos_token"]]
    return {token: index for index, token in enumerate(tokens)}, merges


def _read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file; an empty one if there is no such file."""
    return read_json(path) if path.is_file() else {}


def _checked_vocabulary(vocab: Any, path: Path) -> dict[str, int]:
    if not isinstance(vocab, dict) or not vocab:
        raise CheckpointError(f"{path}: the vocabulary must be an object that maps tokens to ids")
    for token, index in vocab.items():
        if type(index) is not int or not 0 <= index < MAX_ID:
            raise CheckpointError(
                f"{path}: token {token!r} has id {index!r}; an id is a whole number from 0 up, below 2**31"
            )
    return vocab


def _pair(parts: Any, where: str, number: int) -> tuple[str, str]:
    first, second = parts if isinstance(parts, list) and len(parts) == 2 else ("", "")
    if not (first and second and isinstance(first, str) and isinstance(second, str)):
        raise CheckpointError(f"{where}: merge at line {number} must be two tokens, found {parts!r}")
    return first, second


def _parse_merges_txt(path: Path) -> Merges:
    """One merge a line, two tokens with a space between; a first line `#version: …` does not count."""
    try:
        lines = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{path}: not UTF-8: {error}") from error
    numbered = [(number, line) for number, line in enumerate(lines, start=1) if not line.startswith("#version")]
    if numbered == [(1, "")]:
        return []
    return [_pair(line.split(" "), str(path), number) for number, line in numbered]


def _parse_tokenizer_json(whole: dict[str, Any], path: Path) -> tuple[dict[str, int], Merges]:
    """Vocabulary and merges of a `tokenizer.json`, whose processing steps must be CLIP's."""
    model = whole.get("model")
    if not isinstance(model, dict):
        raise CheckpointError(f"{path}: has no object `model`")
    allowed: dict[str, list[Any]] = {
        "type": ["BPE"],
        "end_of_word_suffix": ["</w>"],
        "continuing_subword_prefix": ["", None],
        "dropout": [None],
        "byte_fallback": [False, None],
        "ignore_merges": [False, None],
    }
    for name, values in allowed.items():
        if model.get(name) not in values:
            raise ConfigError(f"{path}: model.{name} is {model.get(name)!r}; a CLIP tokenizer has {values[0]!r}")
    for name, wanted in [("normalizer", ["NFC", "Replace", "Lowercase"]), ("pre_tokenizer", ["Split", "ByteLevel"])]:
        found = [step.get("type") for step in _steps(whole.get(name))]
        if found != wanted:
            raise ConfigError(f"{path}: the steps of {name} are {found}; those of a CLIP tokenizer are {wanted}")
    merges = model.get("merges")
    if not isinstance(merges, list):
        raise CheckpointError(f"{path}: model.merges must be a list of pairs of tokens")
    pairs = [merge.split(" ") if isinstance(merge, str) else merge for merge in merges]
    vocab = _checked_vocabulary(model.get("vocab"), path)
    return vocab, [_pair(pair, f"{path}: model.merges", number) for number, pair in enumerate(pairs)]


def _steps(step: Any) -> Iterator[dict[str, Any]]:
    """The steps of a `Sequence` in a `tokenizer.json`, in order, or the one step that stands alone."""
    if isinstance(step, dict):
        inner = step.get("normalizers", step.get("pretokenizers"))
        yield from inner if step.get("type") == "Sequence" and isinstance(inner, list) else [step]


def _check_config(config: dict[str, Any], path: Path) -> None:
    """Refuse settings that would change the ids and that CLIP tokenizers do not have."""
    supported: dict[str, list[Any]] = {
        "tokenizer_class": ["CLIPTokenizer", "CLIPTokenizerFast", None],
        "padding_side": ["right", None],
        "truncation_side": ["right", None],
        "split_special_tokens": [False, None],
    }
    for name, values in supported.items():
        if config.get(name) not in values:
            raise ConfigError(f"{path}: {name} is {config[name]!r}; only {values[0]!r} is supported")


def _check_template(whole: dict[str, Any], roles: dict[str, str], path: Path) -> None:
    """Refuse a `tokenizer.json` that would put anything but the start and the end token around a prompt."""
    step = whole.get("post_processor")
    if step is None:
        return
    wanted = [roles["bos_token"], "prompt", roles["eos_token"]]
    try:
        if step["type"] == "RobertaProcessing":
            found = [step["cls"][0], "prompt", step["sep"][0]]
        else:
            found = [part.get("SpecialToken", {"id": "prompt"})["id"] for part in step["single"]]
    except (KeyError, IndexError, TypeError, AttributeError):
        raise CheckpointError(f"{path}: post_processor is malformed; it must be a template {wanted}") from None
    if found != wanted:
        raise ConfigError(f"{path}: post_processor makes {found} of a prompt; a CLIP tokenizer makes {wanted}")


def _special_tokens(
    config: dict[str, Any], whole: dict[str, Any], extra: dict[str, Any], folder: Path
) -> tuple[dict[str, str], list[AddedToken], dict[str, int]]:
    """The token of each role, all added tokens, and the ids of those that the files give an id.

    A token may be a string or an object `{"content": …, "normalized": …}`. Where several files speak of a token,
    `added_tokens_decoder` of the configuration (or else `tokenizer.json`, then `added_tokens.json`) has the last word.
    """
    entries: list[tuple[Any, Any]] = []  # (id, token as the file has it)
    if "added_tokens_decoder" in config:
        entries += list(_object(config["added_tokens_decoder"], "added_tokens_decoder", folder).items())
    else:
        entries += [(index, {"content": content, "special": False}) for content, index in extra.items()]
        entries += [(token.get("id"), token) for token in whole.get("added_tokens") or [] if isinstance(token, dict)]
    known: dict[str, AddedToken] = {}
    indices: dict[str, int] = {}
    for index, value in entries:
        token = _added_token(value, folder)
        known[token.content] = token
        if not str(index).isdecimal():
            raise CheckpointError(f"{folder}: added token {token.content!r} has id {index!r}, which is no number")
        indices[token.content] = int(index)

    added = dict(known)
    roles = {}
    for role in ROLES:
        value = config.get(role, DEFAULTS.get(role))
        if value is not None:
            token = _added_token(value, folder)
            token = known.get(token.content, token)
            added[token.content] = AddedToken(token.content, token.normalized, special=True)
            roles[role] = token.content
    for value in config.get("extra_special_tokens") or config.get("additional_special_tokens") or []:
        token = _added_token(value, folder)
        added.setdefault(token.content, token)
    return {role: roles.get(role, token) for role, token in DEFAULTS.items()}, list(added.values()), indices


def _added_token(value: Any, folder: Path) -> AddedToken:
    """An added token from a string or an object."""
    if isinstance(value, str) and value:
        return AddedToken(value)
    if not (isinstance(value, dict) and isinstance(value.get("content"), str) and value["content"]):
        raise CheckpointError(f"{folder}: a token must be a string or an object with a `content`, found {value!r}")
    for flag in ("lstrip", "rstrip", "single_word"):
        if value.get(flag):
            raise ConfigError(f"{folder}: token {value['content']!r} has {flag}; only false is supported")
    special = bool(value.get("special", True))
    return AddedToken(value["content"], bool(value.get("normalized", not special)), special)


def _object(value: Any, name: str, folder: Path) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise CheckpointError(f"{folder}: {name} must be an object, found {value!r}")
    return value


def _max_length(config: dict[str, Any], whole: dict[str, Any], folder: Path) -> int:
    """`model_max_length`; if that is absent or unlimited the length in `tokenizer.json`; or else CLIP's 77."""
    length = config.get("model_max_length")
    if length is None or (isinstance(length, int | float) and length >= NO_LENGTH):
        length = _object(whole.get("truncation") or {}, "truncation", folder).get("max_length", DEFAULT_LENGTH)
    if type(length) is not int or length < 2:
        raise ConfigError(f"{folder}: model_max_length is {length!r}; it must be a whole number from 2 up")
    return length
