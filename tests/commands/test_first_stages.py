"""Progress of encoding and decoding large pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import tinyldm
from tinyldm.commands import first_stages
from tinyldm.commands.first_stages import with_progress

KINDS = ["emoji", "emoji-vq", "emoji-tiny", "emoji-asymmetric"]


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(first_stages, "PATIENCE", 0.0)


@pytest.mark.parametrize("tile", [None, 32])
@pytest.mark.parametrize("vae", KINDS)
def test_the_whole_work_is_counted(monkeypatch: pytest.MonkeyPatch, vae: str, tile: int | None) -> None:
    """What the operators tell adds up to the cost, nearly, so that the time left is right; nothing else changes."""
    bars = []

    class Bar:
        def __init__(self, total: int, **said: object) -> None:
            self.total, self.n, self.said = total, 0, said
            bars.append(self)

        def update(self, n: int) -> None:
            self.n += n

        def __enter__(self) -> Bar:
            return self

        def __exit__(self, *_: object) -> None:
            pass

    monkeypatch.setattr("tqdm.tqdm", Bar)
    model = tinyldm.load(vae=None if vae == "emoji" else vae)
    model = model if tile is None else model.tiled(tile)
    shown = with_progress(model)
    picture = Image.linear_gradient("L").resize((160, 128)).convert("RGB")
    z = model.encode(picture)
    np.testing.assert_array_equal(shown.encode(picture), z)
    np.testing.assert_array_equal(np.asarray(shown.decode(z)[0]), np.asarray(model.decode(z)[0]))
    assert [bar.said["desc"] for bar in bars] == ["encoding", "decoding"]
    for bar in bars:
        assert 0.9 < bar.n / bar.total <= 1


def test_it_is_shown_on_the_command_line(run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(first_stages, "SHOWN_FROM", 16 * 16)
    Image.new("RGB", (16, 16)).save("a.png")
    for words, wanted in (
        (("encode", "a.png", "-o", "a.safetensors"), ["encoding"]),
        (("decode", "a.safetensors", "-o", "b.png"), ["decoding"]),
        (("sample", "a", "--steps", "1", "-o", "c.png"), ["decoding"]),
        (("img2img", "a", "--image", "a.png", "--steps", "2", "-o", "d.png"), ["encoding", "decoding"]),
        (("upscale", "a.png", "--steps", "4", "-o", "e.png"), ["encoding", "decoding"]),
    ):
        status, _, err = run(*words)
        assert status == 0, err
        assert [word for word in ("encoding", "decoding") if f"{word}:" in err] == wanted
    assert Path("e.png").is_file()


def test_small_pictures_and_first_stages_without_work_show_nothing(run) -> None:
    status, _, err = run("sample", "a", "--steps", "1", "-o", "a.png")
    assert (status, "decoding" in err) == (0, False)
    pixels = with_progress(tinyldm.load("emoji-pixels"))
    picture = Image.linear_gradient("L").resize((128, 128)).convert("RGB")
    assert np.abs(np.asarray(pixels.decode(pixels.encode(picture))[0], int) - np.asarray(picture, int)).max() <= 1
