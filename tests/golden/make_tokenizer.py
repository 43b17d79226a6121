"""Make the tokenizer's goldens with `transformers.CLIPTokenizer`: `python tests/golden/make_tokenizer.py`.

Writes to tests/golden/tokenizer/, each file with its provenance (versions, sha256 of its content):

- `texts.json`: texts and their ids, ids and their text, with CLIP's 49,408 tokens
- `sweep.json`: every code point that Unicode 14 assigns, in three surroundings, a digest of the ids per 256 code points
- `folders.json`: published folder layouts around a small vocabulary, what is read from them, and texts with their ids
- `small.json`: vocabularies without some bytes, merge lists in no order of frequency
- `emoji.json`: the embedded checkpoint's tokenizer, if weights/emoji/tokenizer exists
"""

from __future__ import annotations

import gzip
import hashlib
import json
import random
import tempfile
import unicodedata
from importlib.metadata import version
from pathlib import Path
from typing import Any

from transformers import CLIPTokenizer

HERE = Path(__file__).parent / "tokenizer"
ROOT = Path(__file__).parents[2]
MERGE_LIST = ROOT / "tinyldm/text/data/bpe_simple_vocab_16e6.txt.gz"
EMOJI = ROOT / "weights/emoji/tokenizer"
SEED = 0
START, END = "<|startoftext|>", "<|endoftext|>"
SURROUNDINGS = ["{}", "a{}b", "{} {}"]

LINES = """\
red apple
A photograph of an astronaut riding a horse
a painting of a fox, oil on canvas, 4k, trending on artstation
Hello, World! How's it going? I'M FINE; they'Re, we'VE, she'll, he'd, don't
rock'n'roll 'tis 'twas o'clock 'small' ''s 's's 'sS 'lll '' ' 'vest 'drip
12345 3.14159 1,000,000 1st 2nd 10% $5.00 x2 H2O ½ ² Ⅷ ٣ 五 ೩
!!!??? ... --- ___ a_b a-b a.b (a) [b] {c} <d> </w> a</w>b
tabs\tand\rnew\x0blines   and   spaces\x0b\x0c\x1c\x1d\x1e\x1f\x85\xa0end
\x00 nul \x07bell\x1b[0m \x7f del \x80\x9f c1
café cafe\u0301 ÅNGSTRÖM A\u030angstro\u0308m ñandú
ΟΔΥΣΣΕΥΣ ὈΔΥΣΣΕΎΣ Σ ΑΣ ς σ
İSTANBUL ISTANBUL ıstanbul Iİiı
STRASSE straße ẞ ß ﬁ ﬀ ŉ ǰ Ǆ ǅ ǆ
Привет мир МОСКВА Ёлка ё
日本語のテキスト 中文字符 한국어 텍스트 \u1112\u1161\u11ab
שלום עולם مرحبا بالعالم हिन्दी ภาษาไทย ไทย
👍 👍🏽 👩\u200d👩\u200d👧 🏳️\u200d🌈 ❤️ ☺ 🇩🇪 1️⃣ 😀😀😀
zero\u200bwidth \u200c \u200d \ufeff bom \u2060 \u00ad soft
\u0301 leading mark a\u0301\u0323\u0308 q\u0307\u0323 \u0345\u0301
\u3000ideographic\u3000space\u2003em\u2009thin\u202fnarrow\u1680ogham\u180emongolian
<|startoftext|> a <|endoftext|> b
<|STARTOFTEXT|>!! a <|EndOfText|>?! x<|endoftext|>y
<|startoftext|<|endoftext|>|> <|<|endoftext|>|> <|endoftext| >
Σ<|endoftext|>\u0301a <|endoftext|>\u0301
1\u03082\u0308 a\u07fd\u0301\u0323 \u0eba\u0e49 \U00011935\U00011930 \U00011938 a\u0301\u1abf\u0323
𝐁𝐨𝐥𝐝 𝔉𝔯𝔞𝔨𝔱𝔲𝔯 Ｆｕｌｌｗｉｄｔｈ Ⓒⓘⓡⓒⓛⓔ
supercalifragilisticexpialidocious pneumonoultramicroscopicsilicovolcanoconiosis
\ue000 private \uf8ff \U000f0000 \ufffd \uffff \U0010ffff \u0378
"""
MORE = [
    "",
    " ",
    "\n\t ",
    "a",
    "A",
    "'",
    "1",
    "!",
    "é",
    "👍",
    "a" * 300,
    "ab" * 200,
    "!" * 100,
    "é" * 99,
    "two\n\nlines\r\n",
]
TEXTS = [*LINES.split("\n")[:-1], *MORE]


def clip_vocabulary() -> tuple[dict[str, int], list[tuple[str, str]]]:
    lines = gzip.decompress(MERGE_LIST.read_bytes()).decode().split("\n")[1 : 49152 - 256 - 2 + 1]
    merges = [tuple(line.split()) for line in lines]
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    characters = [chr(b) for b in shown] + [chr(256 + n) for n in range(256 - len(shown))]
    tokens = characters + [c + "</w>" for c in characters] + ["".join(m) for m in merges] + [START, END]
    return {token: index for index, token in enumerate(tokens)}, merges


def ids(tokenizer: CLIPTokenizer, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False, truncation=False).input_ids


def save(name: str, content: dict[str, Any], **provenance: Any) -> None:
    """One line per item of the content's lists, so that a difference can be read."""
    packages = {package: version(package) for package in ("transformers", "tokenizers")}
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    record = {"versions": packages, "unicode": unicodedata.unidata_version, **provenance, "sha256": digest}
    parts = [f'"provenance": {json.dumps(record, sort_keys=True)}']
    for key, value in content.items():
        if isinstance(value, list):
            parts.append(f'"{key}": [\n' + ",\n".join(json.dumps(item) for item in value) + "\n]")
        else:
            parts.append(f'"{key}": {json.dumps(value)}')
    (HERE / f"{name}.json").write_text("{\n" + ",\n".join(parts) + "\n}\n")
    print(name, (HERE / f"{name}.json").stat().st_size, "bytes")


def assigned_ranges() -> list[list[int]]:
    """First and last code point of each run that Unicode 14 assigns; of the private-use areas only the ends."""
    assert unicodedata.unidata_version == "14.0.0", "run with Python 3.11, whose tables are Unicode 14"
    ranges: list[list[int]] = []
    for code in range(0x110000):
        category = unicodedata.category(chr(code))
        private = category == "Co" and code not in (0xE000, 0xF8FF, 0xF0000, 0xFFFFD, 0x100000, 0x10FFFD)
        if category in ("Cn", "Cs") or private:
            continue
        if ranges and ranges[-1][1] == code - 1:
            ranges[-1][1] = code
        else:
            ranges.append([code, code])
    return ranges


def make_texts(tokenizer: CLIPTokenizer, ranges: list[list[int]]) -> None:
    rng = random.Random(SEED)
    assigned = [chr(code) for first, last in ranges for code in range(first, last + 1)]
    marks = [c for c in assigned if unicodedata.category(c)[0] == "M"]
    latin = [c for c in assigned if c < "\u0250"]
    fragments = [
        START,
        END,
        START.upper(),
        "<|",
        "|>",
        "'s",
        "'Re",
        "Σ",
        "the ",
        "red apple ",
        "  ",
        "7",
        "!?",
        "\u200d",
        "e\u0301",
    ]
    texts = list(TEXTS)
    for _ in range(300):
        pools = rng.choices([assigned, marks, latin, fragments], [2, 2, 3, 3], k=rng.randint(1, 9))
        texts.append("".join(rng.choice(pool) for pool in pools))
    decoded = []
    for text in rng.sample(texts, 100):
        row = tokenizer(text, truncation=True, max_length=20).input_ids
        skip = rng.random() < 0.5
        decoded.append([row, skip, tokenizer.decode(row, skip_special_tokens=skip)])
    for _ in range(50):
        row = [rng.randrange(49408) for _ in range(rng.randint(0, 12))]
        decoded.append([row, False, tokenizer.decode(row)])
    rows = [[text, ids(tokenizer, text)] for text in texts]
    table = hashlib.sha256(json.dumps(sorted(tokenizer.get_vocab().items())).encode()).hexdigest()
    save("texts", {"vocabulary": table, "texts": rows, "decoded": decoded}, seed=SEED)


def make_sweep(tokenizer: CLIPTokenizer, ranges: list[list[int]]) -> None:
    blocks: dict[int, Any] = {}
    for first, last in ranges:
        for code in range(first, last + 1):
            block = blocks.setdefault(code >> 8, hashlib.sha256())
            for pattern in SURROUNDINGS:
                block.update(json.dumps(ids(tokenizer, pattern.replace("{}", chr(code)))).encode())
    digests = [[number, block.hexdigest()[:16]] for number, block in sorted(blocks.items())]
    save(
        "sweep",
        {"surroundings": SURROUNDINGS, "ranges": [[code for run in ranges for code in run]], "blocks": [digests]},
    )


def token(content: str, normalized: bool, **more: Any) -> dict[str, Any]:
    return {
        "content": content,
        "lstrip": False,
        "normalized": normalized,
        "rstrip": False,
        "single_word": False,
        **more,
    }


def folder_layouts() -> dict[str, dict[str, Any]]:
    """Settings as they are published with Stable Diffusion 1, 2 and XL, and what transformers 5 writes."""
    first = {
        "special_tokens_map.json": {
            "bos_token": token(START, True),
            "eos_token": token(END, True),
            "pad_token": END,
            "unk_token": token(END, True),
        },
        "tokenizer_config.json": {
            "add_prefix_space": False,
            "bos_token": token(START, True, __type="AddedToken"),
            "eos_token": token(END, True, __type="AddedToken"),
            "do_lower_case": True,
            "errors": "replace",
            "model_max_length": 77,
            "pad_token": END,
            "tokenizer_class": "CLIPTokenizer",
            "unk_token": token(END, True, __type="AddedToken"),
        },
    }
    second = json.loads(json.dumps(first))
    second["special_tokens_map.json"]["pad_token"] = second["tokenizer_config.json"]["pad_token"] = "!"
    large = {
        "special_tokens_map.json": second["special_tokens_map.json"],
        "tokenizer_config.json": {
            "added_tokens_decoder": {
                "0": token("!", False, special=True),
                "1512": token(START, True, special=True),
                "1513": token(END, True, special=True),
            },
            "bos_token": START,
            "eos_token": END,
            "pad_token": "!",
            "unk_token": END,
            "clean_up_tokenization_spaces": True,
            "do_lower_case": True,
            "model_max_length": 77,
            "tokenizer_class": "CLIPTokenizer",
        },
    }
    added = {"added_tokens.json": {"<My-Cat>": 1514}, "tokenizer_config.json": {"model_max_length": 16}}
    return {"sd1": first, "sd2": second, "sdxl2": large, "bare": {}, "added": added}


FOLDER_TEXTS = [
    "Red apple! the <My-Cat>, THE <my-cat>s",
    "<|startoftext|> a <|endoftext|> b!!",
    "<|STARTOFTEXT|> a <|EndOfText|>?!",
    "the quick brown fox jumps over the lazy dog " * 4,
    "",
]


def make_folders() -> None:
    """Each layout from its files, then as transformers saves it (one tokenizer.json), with and without added tokens."""
    vocab, merges = clip_vocabulary()
    merges = merges[:1000]
    vocab = {t: i for i, t in enumerate([*list(vocab)[:1512], START, END])}
    items = []
    with tempfile.TemporaryDirectory() as scratch:
        for name, settings in folder_layouts().items():
            folder = Path(scratch, name)
            folder.mkdir()
            (folder / "vocab.json").write_text(json.dumps(vocab))
            (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(map(" ".join, merges)) + "\n")
            for file, content in settings.items():
                (folder / file).write_text(json.dumps(content))
            tokenizer = CLIPTokenizer.from_pretrained(folder)
            items.append(describe(name, settings, tokenizer))
            if name == "bare":
                tokenizer.add_tokens(["<my-dog>"])
                tokenizer("warm up", truncation=True, padding="max_length", max_length=12)  # written into the file
            saved = Path(scratch, name + "-saved")
            tokenizer.save_pretrained(saved)
            files = {file.name: json.loads(file.read_text()) for file in sorted(saved.glob("*.json"))}
            whole = files["tokenizer.json"]
            assert whole["model"]["vocab"] == vocab
            assert [tuple(merge) for merge in whole["model"]["merges"]] == merges
            whole["model"]["vocab"] = whole["model"]["merges"] = None  # the reader of the golden fills these in
            items.append(describe(name + "-saved", files, CLIPTokenizer.from_pretrained(saved)))
    save("folders", {"merges": 1000, "folders": items})


def describe(name: str, files: dict[str, Any], tokenizer: CLIPTokenizer) -> dict[str, Any]:
    length = min(tokenizer.model_max_length, 77)
    if tokenizer.model_max_length > 77 and "tokenizer.json" in files and files["tokenizer.json"]["truncation"]:
        length = files["tokenizer.json"]["truncation"]["max_length"]
    roles = {role: getattr(tokenizer, f"{role}_token_id") for role in ("bos", "eos", "pad", "unk")}
    rows = tokenizer(FOLDER_TEXTS, truncation=True, max_length=length, padding="max_length").input_ids
    return {
        "name": name,
        "files": files,
        "max_length": length,
        "ids": roles,
        "size": len(tokenizer),
        "rows": [[text, row] for text, row in zip(FOLDER_TEXTS, rows, strict=True)],
    }


def make_small() -> None:
    rng = random.Random(SEED)
    items = []
    for _ in range(20):
        letters = "abcd"
        tokens = [START, END, *letters, *(letter + "</w>" for letter in letters[: rng.randint(2, 4)])]
        merges: list[tuple[str, str]] = []
        while len(merges) < 14:
            left, right = rng.choice(tokens[2:]), rng.choice(tokens[2:])
            if not left.endswith("</w>") and len(left + right) < 12 and (left, right) not in merges:
                merges.append((left, right))
                tokens += [left + right] * (left + right not in tokens)
        rng.shuffle(merges)
        vocab = {t: i for i, t in enumerate(tokens)}
        tokenizer = CLIPTokenizer(vocab=vocab, merges=merges)
        texts = [" ".join("".join(rng.choices("aabbccdx", k=rng.randint(1, 14))) for _ in range(3)) for _ in range(12)]
        rows = [[text, ids(tokenizer, text)] for text in texts]
        items.append({"vocab": vocab, "merges": merges, "texts": rows})
    save("small", {"vocabularies": items}, seed=SEED)


def make_emoji() -> None:
    if not EMOJI.is_dir():
        print("no", EMOJI, "- emoji.json not made")
        return
    tokenizer = CLIPTokenizer.from_pretrained(EMOJI)
    texts = [
        "red apple",
        "Smiling face with sunglasses",
        "a photo of a cat!",
        "flag: Côte d’Ivoire",
        "x" * 50,
        "日本 👍",
        "",
        *TEXTS,
    ]
    length = tokenizer.model_max_length
    rows = tokenizer(texts, truncation=True, max_length=length, padding="max_length").input_ids
    digest = hashlib.sha256((EMOJI / "tokenizer.json").read_bytes()).hexdigest()
    save("emoji", {"texts": list(map(list, zip(texts, rows, strict=True)))}, tokenizer_json=digest)


def main() -> None:
    HERE.mkdir(exist_ok=True)
    vocab, merges = clip_vocabulary()
    tokenizer = CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=77)
    ranges = assigned_ranges()
    make_texts(tokenizer, ranges)
    make_folders()
    make_small()
    make_emoji()
    make_sweep(tokenizer, ranges)


if __name__ == "__main__":
    main()
