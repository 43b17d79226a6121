"""Previews: a latent's colours without the decoder, by a map that is fitted on it."""

from __future__ import annotations

import dataclasses
import io
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

import tinyldm
from tinyldm.checkpoints.safetensors import read_safetensors, write_safetensors
from tinyldm.pipelines import preview as previews
from tinyldm.pipelines.preview import (
    FILE,
    digest,
    fit,
    patch_means,
    patches,
    preview,
    preview_map,
    preview_png,
    read_map,
    write_map,
)

EMOJI = Path(__file__).parents[2] / "weights" / "emoji"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TINYLDM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "previews"


@pytest.fixture
def model(checkpoint: Path) -> tinyldm.LatentDiffusion:
    return tinyldm.load(checkpoint, backend="reference")


latents = hnp.arrays(np.float32, (4, 3, 5), elements=st.floats(-3, 3, width=32))
maps = hnp.arrays(np.float32, (5, 3), elements=st.floats(-1, 1, width=32))


@given(latents, maps)
@settings(max_examples=30, deadline=None)
def test_a_pixel_is_the_map_of_its_place(z: np.ndarray, rgb: np.ndarray) -> None:
    found = np.asarray(preview(z[None], rgb))
    assert found.shape == (3, 5, 3)
    np.testing.assert_array_equal(found, np.asarray(preview(z, rgb)))
    for y in range(3):
        for x in range(5):
            colour = [sum(z[c, y, x] * rgb[c, k] for c in range(4)) + rgb[4, k] for k in range(3)]
            wanted = np.clip(np.array(colour) * 127.5 + 127.5, 0, 255)
            assert np.abs(found[y, x] - wanted).max() <= 0.51


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (16, 16), (90, 7)])
def test_the_file_is_the_preview(size: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    z, rgb = rng.standard_normal((4, *size)).astype(np.float32), rng.standard_normal((5, 3)).astype(np.float32)
    with Image.open(io.BytesIO(preview_png(z, rgb))) as found:
        assert (found.format, found.mode) == ("PNG", "RGB")
        assert found.tobytes() == preview(z, rgb).tobytes()


def test_what_overflowed_is_black_and_white() -> None:
    z = np.full((1, 1, 1), np.nan)
    assert preview(z, np.ones((2, 3))).getpixel((0, 0)) == (0, 0, 0)
    assert preview(np.full((1, 1, 1), np.inf), np.ones((2, 3))).getpixel((0, 0)) == (255, 255, 255)


def test_a_linear_decoder_is_found_exactly(model: tinyldm.LatentDiffusion) -> None:
    wanted = np.random.default_rng(0).uniform(-0.05, 0.05, (5, 3))

    class Linear:
        def unscale(self, z: np.ndarray) -> np.ndarray:
            return z

        def decode(self, z: np.ndarray) -> np.ndarray:
            pixels = np.tensordot(z, wanted[:-1], (1, 0)) + wanted[-1]
            return np.moveaxis(pixels, -1, 1).repeat(2, axis=2).repeat(2, axis=3)

    parts = dataclasses.replace(model.parts, vae=Linear())
    np.testing.assert_allclose(fit(parts, patches(4)), wanted, rtol=0, atol=1e-6)


def test_the_map_explains_what_the_decoder_makes() -> None:
    """On latents that it was not fitted on, of the embedded checkpoint: more than half of each colour's variance."""
    model = tinyldm.load()
    z = model.encode(model.text_to_image("red apple", seed=5, steps=8)[0])
    wanted = patch_means(model.vae.decode(model.vae.unscale(z)), z.shape[2:])
    found = np.asarray(preview(z, preview_map(model.parts)), np.float64).reshape(-1, 3) / 127.5 - 1
    assert np.mean((found - wanted) ** 2) < 0.5 * wanted.var()


def test_a_map_is_fitted_once(model, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = preview_map(model.parts)
    assert first.shape == (5, 3)
    assert [file.name for file in cache.iterdir()] == [f"{digest(model.parts)}.json"]
    monkeypatch.setattr(previews, "fit", lambda *_: pytest.fail("it was fitted before"))
    np.testing.assert_allclose(preview_map(model.parts), first, rtol=0, atol=1e-5)


def test_a_map_in_the_folder_is_taken_if_it_is_of_this_autoencoder(own_checkpoint: Path, cache: Path) -> None:
    model = tinyldm.load(own_checkpoint, backend="reference")
    ours = np.arange(15, dtype=np.float32).reshape(5, 3)
    write_map(own_checkpoint / FILE, digest(model.parts), ours)
    np.testing.assert_array_equal(preview_map(model.parts), ours)
    assert not cache.exists()

    file = own_checkpoint / "vae" / "diffusion_pytorch_model.safetensors"
    with read_safetensors(file) as source:
        weights = {name: np.array(source.read(name)) for name in source.names}
    weights["decoder.conv_out.bias"] = weights["decoder.conv_out.bias"] + 0.5  # trained a little longer
    write_safetensors(file, weights)
    retrained = tinyldm.load(own_checkpoint, backend="reference")
    assert digest(retrained.parts) != digest(model.parts)
    assert (preview_map(retrained.parts) != ours).all()


def test_another_scale_is_another_map(checkpoint: Path) -> None:
    plain, scaled = (
        tinyldm.load(checkpoint, backend="reference", config={"vae": {"scaling_factor": factor}})
        for factor in (0.2, 0.4)
    )
    assert digest(plain.parts) != digest(scaled.parts)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"of": "x"}', '{"of": "x", "map": [[1, 2, 3]]}', '{"of": "x", "map": 7}']
)
def test_a_file_that_is_no_map_is_passed_over(tmp_path: Path, text: str) -> None:
    (tmp_path / FILE).write_text(text)
    assert read_map(tmp_path / FILE, "x", 4) is None


def test_a_cache_that_can_not_be_written_costs_nothing(model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TINYLDM_CACHE", str(tmp_path / "file"))
    assert preview_map(model.parts).shape == (5, 3)


def test_the_embedded_map_is_a_map() -> None:
    said = json.loads((EMOJI / FILE).read_text())
    assert np.array(said["map"]).shape == (5, 3)
