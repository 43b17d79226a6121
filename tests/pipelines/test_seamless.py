"""Pictures that tile: the originals' circular padding, and noise that is rolled gives the picture, rolled."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden.provenance import load_golden
from hypothesis import given
from hypothesis import settings as how
from hypothesis import strategies as st
from tiny_checkpoints import UNET, VAE, write_controlnet

import tinyldm
from tinyldm import cli, nn, ops
from tinyldm.checkpoints.base import MemorySource
from tinyldm.errors import InputError
from tinyldm.golden.seeded import seeded_input, seeded_weights
from tinyldm.models.build import build, expected
from tinyldm.models.tiled import tiled
from tinyldm.pipelines.picture_text import read_said
from tinyldm.pipelines.request import read_metadata, request
from tinyldm.pipelines.seamless import seamless
from tinyldm.runtime import Runtime
from tinyldm.tracing import trace

GOLDEN, PROVENANCE = load_golden("models/seamless")
MODES = {
    "oracle": (Runtime(dtype="float64"), 1e-9),
    "fast": (Runtime("numba"), 1e-4),
    "strict": (Runtime("numba", precision="strict"), 2e-5),
}
AXES = ("x", "y", "both")
SIDES = ("rows", "rows", "columns", "columns")
NAMES = ("z", "context", "pixels")


def made(config: dict[str, Any], runtime: Runtime, axes: str) -> Any:
    kind = config["_class_name"]
    return seamless(build(kind, config, MemorySource(seeded_weights(expected(kind, config))), runtime), axes)


def close(found: np.ndarray, wanted: np.ndarray, tolerance: float) -> None:
    assert found.shape == wanted.shape
    assert np.abs(found - wanted).max() <= tolerance * np.abs(wanted).max()


@pytest.mark.parametrize("axes", AXES)
@pytest.mark.parametrize("mode", MODES)
def test_the_originals_with_circular_padding(mode: str, axes: str) -> None:
    runtime, tolerance = MODES[mode]
    z, context, pixels = (seeded_input(name, tuple(PROVENANCE["inputs"][name])) for name in NAMES)
    unet, vae = made(UNET, runtime, axes), made(VAE, runtime, axes)
    close(unet(z, 500, context), GOLDEN[f"{axes}/epsilon"], tolerance)
    for stage in (vae, tiled(vae, 2), tiled(vae, 6), tiled(vae, 32)):
        close(stage.decode(z), GOLDEN[f"{axes}/pixels"], tolerance)
        close(stage.encode(pixels)[0], GOLDEN[f"{axes}/mean"], tolerance)
    with trace() as told:
        close(vae.decode(z), GOLDEN[f"{axes}/pixels"], tolerance)
    assert "decoder.conv_out" in told


def test_tiles_of_the_tiny_first_stage() -> None:
    kind, config = "AutoencoderTiny", {"encoder_block_out_channels": [8] * 4, "decoder_block_out_channels": [8] * 4}
    for axes in AXES:
        stage = made({"_class_name": kind, **config}, Runtime(dtype="float64"), axes)
        z, pixels = seeded_input("z", (1, 4, 6, 5)), seeded_input("pixels", (1, 3, 48, 40))
        close(tiled(stage, 16).decode(z), stage.decode(z), 1e-10)
        close(tiled(stage, 16).encode(pixels)[0], stage.encode(pixels)[0], 1e-10)


@how(deadline=None, max_examples=40)
@given(
    st.sampled_from(AXES), st.integers(1, 7), st.integers(1, 7), st.tuples(*[st.integers(0, 2)] * 4), st.integers(0, 9)
)
def test_continued(axes: str, height: int, width: int, padding: tuple[int, int, int, int], seed: int) -> None:
    """Against indices that go around, one value at a time."""
    x = np.random.default_rng(seed).standard_normal((1, height, width, 2))
    found, left = nn.continued(x, padding, axes)
    top, bottom, before, after = padding
    wraps = {"rows": axes != "x", "columns": axes != "y"}
    assert left == tuple(0 if wraps[name] else side for name, side in zip(SIDES, padding, strict=True))
    whole = np.pad(found, ((0, 0), left[:2], left[2:], (0, 0)))
    assert whole.shape == (1, height + top + bottom, width + before + after, 2)
    for i, j in np.ndindex(whole.shape[1:3]):
        y, x_ = i - top, j - before
        inside = (wraps["rows"] or 0 <= y < height) and (wraps["columns"] or 0 <= x_ < width)
        np.testing.assert_array_equal(whole[0, i, j], x[0, y % height, x_ % width] if inside else 0)


@pytest.mark.parametrize(("mode", "levels"), [({"backend": "reference", "dtype": "float64"}, 0), ({}, 1)])
@pytest.mark.parametrize(("axes", "shift"), [("x", (0, 4)), ("y", (2, 0)), ("both", (6, 2))])
def test_noise_rolled_gives_the_picture_rolled(checkpoint: Path, axes: str, shift: Any, mode: Any, levels: int) -> None:
    model = tinyldm.load(checkpoint, **mode)
    noise = seeded_input("noise", (1, 4, 8, 8))

    def picture(noise: np.ndarray, seamless: str | None) -> np.ndarray:
        wanted = request("a", steps=3, noise=noise, seamless=seamless)
        ((made),) = model.pictures(wanted)
        return np.asarray(made.image, int)

    rolled = np.roll(noise, shift, (2, 3))
    factor = model.vae.factor
    expected_picture = np.roll(picture(noise, axes), [factor * side for side in shift], (0, 1))
    assert np.abs(picture(rolled, axes) - expected_picture).max() <= levels
    assert np.abs(picture(rolled, None) - expected_picture).max() > 3  # it is not so without


def test_with_a_control_and_in_tiles(checkpoint: Path, tmp_path: Path) -> None:
    model = tinyldm.load(checkpoint, backend="reference", dtype="float64", controlnet=write_controlnet(tmp_path / "c"))
    hint = np.random.default_rng(0).uniform(size=(1, 3, 16, 16))
    noise = seeded_input("noise", (1, 4, 8, 8))

    def picture(model: Any, by: int) -> np.ndarray:
        wanted = request("a", steps=2, noise=np.roll(noise, by, 3), seamless="x")
        ((made),) = model.controlled(np.roll(hint, 2 * by, 3)).pictures(wanted)
        return np.asarray(made.image, int)

    whole = picture(model, 0)
    np.testing.assert_array_equal(picture(model, 4), np.roll(whole, 8, 1))
    np.testing.assert_array_equal(picture(model.tiled(4), 0), whole)


def test_the_weights_are_shared_and_dropped_together() -> None:
    runtime = Runtime("numba")
    kind = VAE["_class_name"]
    vae = build(kind, VAE, MemorySource(seeded_weights(expected(kind, VAE))), runtime)
    other = seamless(vae, "both")
    z = seeded_input("z", (1, 4, 8, 8))
    whole = vae.decode(z)
    assert other.weights.decoder.conv_in._cache is vae.weights.decoder.conv_in._cache
    assert other.weights.decoder.conv_in.parent.path == "decoder"
    assert np.abs(other.decode(z) - whole).max() > 0.01
    other.weights.drop()
    assert not vae.weights.decoder.conv_in._cache
    np.testing.assert_array_equal(vae.decode(z), whole)
    assert vae.runtime.seamless is None


def test_refused_and_told(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InputError, match="seamless must be one of x, y, both, not 'z'"):
        request("a", seamless="z")
    with pytest.raises(InputError, match="seamless 'z' is unknown"):
        Runtime(seamless="z")
    words = ["--model", str(checkpoint), "--backend", "reference", "--steps", "2", "-o", str(tmp_path / "a.png")]
    assert cli.main(["sample", "a", "--seed", "1", *words, "--seamless"]) == 0
    said = read_said(tmp_path / "a.png").settings
    assert said["seamless"] == "both"
    assert read_metadata(said).seamless == "both"
    assert cli.main(["sample", *words, "--seamless", "a"]) == 2
    assert "seamless must be one of x, y, both, not 'a'" in capsys.readouterr().err


def test_the_plain_way_is_as_it_was() -> None:
    """No padding is done by hand where nothing continues."""
    assert ops.norm_silu_conv2d in nn.WITH_CONVOLUTION
    kind = VAE["_class_name"]
    vae = build(kind, VAE, MemorySource(seeded_weights(expected(kind, VAE))), Runtime("numba"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nn, "continued", None)
        patch.setattr(nn, "TakenApart", None)
        vae.decode(seeded_input("z", (1, 4, 4, 4)))
