"""The Python on the page of the server runs as it stands, against a server of the embedded checkpoint."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from PIL import Image
from serving import WITHOUT, Serving

import tinyldm

pytestmark = pytest.mark.extra
PAGE = Path(__file__).parents[2] / "docs" / "serve.md"


def test_the_snippets_run(tmp_path, monkeypatch):
    for name in ("uvicorn", "webuiapi", "openai"):
        pytest.importorskip(name, reason=WITHOUT)
    snippets = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), flags=re.DOTALL | re.MULTILINE)
    assert len(snippets) == 2
    monkeypatch.chdir(tmp_path)
    with Serving(tinyldm.load(), tmp_path) as running:
        for snippet in snippets:
            exec(compile(snippet.replace("7860", str(running.port)), str(PAGE), "exec"), {})
    with Image.open("green.png") as image:
        assert image.size == (64, 64)
