"""Make the golden of BERT's tokenizer with `transformers.BertTokenizer`: `python tests/golden/make_wordpiece.py`.

Writes tests/golden/tokenizer/bert.json: texts with their padded rows, and for every code point that Unicode 14
assigns, in four surroundings, a digest of the ids for each 256 code points.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import sys
import tempfile
from pathlib import Path

from transformers import BertTokenizer

sys.path.insert(0, str(Path(__file__).parents[1]))
from golden.make_tokenizer import ROOT, TEXTS, assigned_ranges, save

VOCABULARY = ROOT / "tinyldm/text/data/bert-base-uncased-vocab.txt.gz"
SURROUNDINGS = ["{}", "a{}b", "{} {}", "un{}able"]
MORE = [
    "[CLS] a [SEP] [PAD] [UNK] [MASK] [cls]",
    "a virus monster is playing guitar, oil on canvas",
    "x" * 100,
    "x" * 101,
]


def main() -> None:
    """Write the golden."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "vocab.txt").write_bytes(gzip.decompress(VOCABULARY.read_bytes()))
        tokenizer = BertTokenizer.from_pretrained(folder)
    texts = [*TEXTS, *MORE]
    rows = tokenizer(texts, truncation=True, max_length=77, padding="max_length").input_ids
    blocks = {}
    ranges = assigned_ranges()
    for first, last in ranges:
        for code in range(first, last + 1):
            block = blocks.setdefault(code >> 8, hashlib.sha256())
            for pattern in SURROUNDINGS:
                ids = tokenizer(pattern.replace("{}", chr(code)), add_special_tokens=False).input_ids
                block.update(json.dumps(ids).encode())
    content = {
        "texts": [list(pair) for pair in zip(texts, rows, strict=True)],
        "surroundings": SURROUNDINGS,
        "ranges": [[code for run in ranges for code in run]],
        "blocks": [[[number, block.hexdigest()[:16]] for number, block in sorted(blocks.items())]],
    }
    save("bert", content)


if __name__ == "__main__":
    main()
