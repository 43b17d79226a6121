"""Weighted prompts against an implementation of its own on transformers: ids, weights, contexts in float64 to 1e-9."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
from golden.model_checks import SeededSource, shapes_of
from golden.provenance import load_golden

from tinyldm.models.build import build
from tinyldm.pipelines.conditioners import TextConditioner, XLConditioner
from tinyldm.pipelines.prompted import TextEncoding, encoded_chunks, weighted
from tinyldm.pipelines.request import request
from tinyldm.runtime import Runtime
from tinyldm.text.clip_tokenizer import END_OF_TEXT, Tokenizer
from tinyldm.text.prompt_syntax import SubPrompt

GOLDEN, PROVENANCE = load_golden("text/prompts")
NAMES = sorted(name.removesuffix("/context") for name in GOLDEN if name.endswith("/context"))


@cache
def conditioner(model: str) -> Any:
    """A conditioner with the golden's text encoders."""
    pairs = []
    for config, pad, _, _ in PROVENANCE["models"][model]:
        kind = "CLIPTextModelWithProjection" if "architectures" in config else "CLIPTextModel"
        source = SeededSource(shapes_of("text_encoder", config), PROVENANCE["seed"], {})
        runtime = Runtime.choose(backend="reference", dtype="float64")
        pairs.append((build(kind, config, source, runtime), Tokenizer.clip(END_OF_TEXT if pad else "!")))
    return XLConditioner("tiny", pairs, {}) if len(pairs) > 1 else TextConditioner("tiny", *pairs[0])


def encoding(model: str) -> TextEncoding:
    skip = 2 if "skip" in model else None
    return TextEncoding(conditioner(model), request("", prompt_syntax="webui", clip_skip=skip, height=8, width=8), 4)


@pytest.mark.parametrize("name", NAMES)
def test_ids_weights_and_context(name: str) -> None:
    model, case = name.split("/")
    texts, ours = PROVENANCE["cases"][case], encoding(model)
    for k in range(len(PROVENANCE["models"][model])):
        ids, weights = GOLDEN[f"{name}/ids {k}"], GOLDEN[f"{name}/weights {k}"]
        for n, text in enumerate(texts):
            chunks = ours.chunks(text)[k]
            assert [chunk.ids for chunk in chunks] == ids[n, : len(chunks)].tolist()
            np.testing.assert_allclose([chunk.weights for chunk in chunks], weights[n, : len(chunks)], rtol=1e-15)
    stretches = ours.stretches(SubPrompt(1.0, tuple(enumerate(texts, 1))), negative=False)
    context = np.stack([row.context for row in stretches.rows])
    wanted = GOLDEN[f"{name}/context"]
    assert context.shape == wanted.shape
    assert np.abs(context - wanted).max() <= 1e-9 * np.abs(wanted).max()
    if f"{name}/pooled" in GOLDEN:
        pooled = np.stack([row.arrays["text_embeds"] for row in stretches.rows])
        assert np.abs(pooled - GOLDEN[f"{name}/pooled"]).max() <= 1e-9 * np.abs(pooled).max()


def test_the_mean_is_restored() -> None:
    """A context that is only multiplied is not the golden one, by far."""
    ours, (text,) = encoding("sd1"), PROVENANCE["cases"]["weights"]
    reader = ours.readers[0]
    ((chunk,),) = ours.chunks(text)
    plain = reader.encoder(np.array([chunk.ids]))
    multiplied = plain * np.array(chunk.weights)[:, None]
    wanted = GOLDEN["sd1/weights/context"]
    assert np.abs(multiplied - wanted).max() > 1e-3
    assert wanted.mean() == pytest.approx(plain.mean(), rel=1e-9)
    assert abs(multiplied.mean() - plain.mean()) > 1e-3 * abs(plain.mean())
    found, _ = encoded_chunks(reader, [[chunk]])
    assert found.mean() == pytest.approx(plain.mean(), rel=1e-12)


def test_the_mean_is_that_of_all_stretches() -> None:
    z = np.arange(12.0).reshape(2, 3, 2) + 1
    weights = np.array([[1.0, 2.0, 1.0], [1.0, 1.0, 1.0]])
    found = weighted(z, weights)
    assert found.mean() == pytest.approx(z.mean(), rel=1e-15)
    assert found[1, 0, 0] != z[1, 0, 0]  # though nothing of it is weighted
    np.testing.assert_array_equal(weighted(z, np.ones((2, 3))), z)
