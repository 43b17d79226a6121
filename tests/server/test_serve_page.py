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


def test_the_snippets_run_and_unknown_words_are_told_of(tmp_path, monkeypatch):
    for name in ("uvicorn", "webuiapi", "openai"):
        pytest.importorskip(name, reason=WITHOUT)
    requests = pytest.importorskip("requests", reason=WITHOUT)
    snippets = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), flags=re.DOTALL | re.MULTILINE)
    assert len(snippets) == 2
    monkeypatch.chdir(tmp_path)
    with Serving(tinyldm.load(), tmp_path) as running:
        asked = {"prompt": "zeppelin", "steps": 1}
        told = requests.post(f"{running.url}/page/pictures", json=asked, timeout=60).text
        assert "event: note" in told
        assert "does not know 'zeppelin'" in told
        for snippet in snippets:
            exec(compile(snippet.replace("7860", str(running.port)), str(PAGE), "exec"), {})
    with Image.open("green.png") as image:
        assert image.size == (64, 64)
