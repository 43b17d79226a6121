"""The alternative first stages, the UNet without a context and the ControlNet against diffusers, in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from golden.family_cases import ADAPTED, CONTROLLED, PUBLISHED, T2I
from golden.family_files import shapes_of
from golden.provenance import load_golden
from hypothesis import given as given_by_hypothesis
from hypothesis import strategies as st

from tinyldm import cost
from tinyldm.checkpoints.base import MemorySource
from tinyldm.errors import CheckpointError, ConfigError, InputError
from tinyldm.golden.seeded import seeded_input, seeded_weights
from tinyldm.models.build import build, expected
from tinyldm.models.t2i_adapter import halved, pixel_unshuffle, taken_at
from tinyldm.models.unet import UNet
from tinyldm.models.vae import AutoencoderKL
from tinyldm.runtime import Runtime

FLOAT64 = Runtime(backend="reference", dtype=np.dtype(np.float64))
FIRST_STAGES = ("tiny", "asymmetric", "vq")


def model_of(name: str, runtime: Runtime = FLOAT64, **changes):
    class_name, config, _ = PUBLISHED[name]
    golden, _ = load_golden(f"families/published-{name}")
    return build(class_name, config | changes, MemorySource(seeded_weights(shapes_of(golden))), runtime), golden


def given(name: str, shape: tuple[int, ...]) -> np.ndarray:
    x = seeded_input(name, shape).astype(np.float64)
    return (x > 0).astype(np.float64) if name == "mask" else x


def inputs_of(name: str) -> dict[str, np.ndarray]:
    return {key: given(key, shape) for key, shape in PUBLISHED[name][2].items()}


def assert_close(found: np.ndarray, wanted: np.ndarray, bar: float = 1e-9) -> None:
    assert found.shape == wanted.shape
    assert np.abs(found - wanted).max() <= bar * np.abs(wanted).max()


@pytest.mark.parametrize("name", PUBLISHED)
def test_names_and_shapes(name: str) -> None:
    class_name, config, _ = PUBLISHED[name]
    golden, _ = load_golden(f"families/published-{name}")
    assert expected(class_name, config) == shapes_of(golden)


@pytest.mark.parametrize("name", FIRST_STAGES)
def test_first_stages(name: str) -> None:
    model, golden = model_of(name)
    x = inputs_of(name)
    mean, logvar = model.encode(x["pixels"])
    assert_close(mean, golden["mean"])
    if "logvar" in golden:
        assert_close(logvar, golden["logvar"])
    else:
        assert np.all(logvar == -np.inf)
    assert_close(model.decode(x["z"]), golden["decoded"])
    if "masked" in golden:
        assert_close(model.decode(x["z"], x["image"], x["mask"]), golden["masked"])
    np.testing.assert_allclose(model.unscale(model.scale(mean)), mean, rtol=1e-12)


@pytest.mark.parametrize("name", FIRST_STAGES)
def test_first_stages_are_asked_in_the_same_way(name: str) -> None:
    """Whoever holds a first stage needs no more than this, and the cost of it is counted without a value computed."""
    model, _ = model_of(name)
    c = model.config
    side = 2 * c.factor
    z = given("z", (1, model.latent_channels, 2, 2))
    assert model.decode(model.unscale(z)).shape == (1, c.out_channels, side, side)
    assert model.encode(np.zeros((1, c.in_channels, side, side)))[0].shape == z.shape
    assert min(*c.decoder_widths, c.sample_size, c.scaling_factor) > 0
    encoding, decoding = cost.vae_costs(model, side, side)
    assert encoding[0].shape[2:] == (side, side)
    assert decoding[-1].shape == (1, c.out_channels, side, side)


@pytest.mark.parametrize("name", FIRST_STAGES)
def test_first_stages_refuse_other_shapes(name: str) -> None:
    model, _ = model_of(name)
    with pytest.raises(InputError, match="pixels must have the shape"):
        model.encode(np.zeros((1, 5, 16, 16)))
    with pytest.raises(InputError, match="multiples of"):
        model.encode(np.zeros((1, 3, 17, 16)))
    with pytest.raises(InputError, match="z must have the shape"):
        model.decode(np.zeros((1, 9, 2, 2)))


def test_asymmetric_takes_image_and_mask_together() -> None:
    model, _ = model_of("asymmetric")
    x = inputs_of("asymmetric")
    with pytest.raises(InputError, match="together"):
        model.decode(x["z"], x["image"])
    with pytest.raises(InputError, match="pixels"):
        model.decode(x["z"], x["image"][:, :, :8], x["mask"][:, :, :8])


def test_codes_of_a_vq_model() -> None:
    model, _ = model_of("vq")
    z = inputs_of("vq")["z"]
    table = model.weights.quantize.embedding.weight
    distances = np.square(z.transpose(0, 2, 3, 1)[..., None, :] - table).sum(-1)
    np.testing.assert_array_equal(model.codes(z), distances.argmin(-1))
    exact = table[model.codes(z)].transpose(0, 3, 1, 2)
    assert_close(model.decode(exact, quantize=False), model.decode(z))


@pytest.mark.parametrize("name", ["unet2d", "unet2d_resnet"])
def test_unet_without_a_context(name: str) -> None:
    model, golden = model_of(name)
    labels = {"class_labels": np.array([3, 0])} if name == "unet2d" else {}
    assert_close(model(inputs_of(name)["z"], np.array([321, 7]), **labels), golden["epsilon"])


def test_unet_without_a_context_refuses() -> None:
    model, _ = model_of("unet2d")
    z = inputs_of("unet2d")["z"]
    with pytest.raises(InputError, match="class labels are missing"):
        model(z, 1)
    with pytest.raises(InputError, match="z must have the shape"):
        model(z[:, :1], 1, np.array([0, 0]))
    other, _ = model_of("unet2d_resnet")
    with pytest.raises(InputError, match="not this model's"):
        other(inputs_of("unet2d_resnet")["z"], 1, np.array([0, 0]))
    with pytest.raises(InputError, match="multiples of 4"):
        other(np.zeros((1, 3, 5, 4)), 1)
    with pytest.raises(ConfigError, match="attn_norm_num_groups"):
        model_of("unet2d_resnet", attn_norm_num_groups=None)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {"addition_embed_type": "text_time", "num_class_embeds": 3},
            "class_embeddings_concat with addition_embed_type",
        ),
        ({}, "class_embeddings_concat with classes"),
    ],
)
def test_class_embeddings_that_nothing_fits_are_refused(config: dict[str, Any], message: str) -> None:
    fields = {**config, "class_embeddings_concat": True, "projection_class_embeddings_input_dim": 8}
    with pytest.raises(ConfigError, match=message):
        UNet.read(fields)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"latents_mean": [0, 1, 2, 3]}, "latents_mean without latents_std"),
        ({"latents_mean": [0, 1], "latents_std": [1, 1]}, "the number of latents_mean"),
        ({"latents_mean": [0] * 4, "latents_std": [1, 1, 0, 1]}, "latents_std above 0"),
        ({"latents_mean": [0] * 4, "latents_std": [1] * 4, "shift_factor": 0.5}, "shift_factor beside latents_mean"),
    ],
)
def test_latents_that_cannot_be_standardised_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        AutoencoderKL.read(fields)


def test_standardised_latents_go_there_and_back() -> None:
    """Playground 2.5's numbers, by its pipeline's formula."""
    mean, std = [-1.6574, 1.886, -1.383, 2.5155], [8.4927, 5.9022, 6.5498, 5.2299]
    config = {"block_out_channels": [32], "latents_mean": mean, "latents_std": std, "scaling_factor": 0.5}
    source = MemorySource(seeded_weights(expected("AutoencoderKL", config)))
    z = np.random.default_rng(0).standard_normal((2, 4, 3, 5))
    vae = AutoencoderKL(config, source, FLOAT64)
    scaled = vae.scale(z)
    for c in range(4):
        np.testing.assert_allclose(scaled[:, c], (z[:, c] - mean[c]) * 0.5 / std[c], rtol=1e-12)
    np.testing.assert_allclose(vae.unscale(scaled), z, rtol=1e-12, atol=1e-12)
    assert vae.scale(z.astype(np.float32)).dtype == np.float32


def test_controlnet() -> None:
    control, golden = model_of("controlnet")
    x = inputs_of("controlnet")
    t = np.array([321, 7])
    residuals = control(x["z"], t, x["context"], x["hint"], scale=0.5)
    wanted = [golden[key] for key in sorted(golden) if key.startswith("residual")]
    assert len(residuals) == len(wanted)
    for found, value in zip(residuals, wanted, strict=True):
        assert_close(found, value)
    weights = MemorySource(seeded_weights(expected("UNet2DConditionModel", CONTROLLED)))
    unet = build("UNet2DConditionModel", CONTROLLED, weights, FLOAT64)
    assert_close(unet(x["z"], t, x["context"], residuals=residuals), golden["epsilon"])
    assert not np.allclose(unet(x["z"], t, x["context"]), golden["epsilon"])


def test_controlnet_refuses() -> None:
    control, _ = model_of("controlnet")
    x = inputs_of("controlnet")
    with pytest.raises(InputError, match=r"hint must have the shape \(2, 3, 32, 48\)"):
        control(x["z"], 1, x["context"], x["hint"][:, :, :8])
    with pytest.raises(InputError, match="context must have the shape"):
        control(x["z"], 1, x["context"][:, :, :3], x["hint"])
    with pytest.raises(ConfigError, match="surprise"):
        model_of("controlnet", surprise=1)


@pytest.mark.parametrize("name", T2I)
def test_t2i_adapters(name: str) -> None:
    adapter, golden = model_of(name)
    features = adapter(inputs_of(name)["hint"], scale=0.5)
    wanted = [golden[key] for key in sorted(golden) if key.startswith("feature")]
    for found, value in zip(features, wanted, strict=True):
        assert_close(found, value)
    config, shape = ADAPTED[name]
    unet = build(
        "UNet2DConditionModel", config, MemorySource(seeded_weights(expected("UNet2DConditionModel", config))), FLOAT64
    )
    z, context = given("z", shape), given("context", (shape[0], 5, 12))
    assert_close(unet(z, 321, context, features=features), golden["epsilon"])
    assert not np.allclose(unet(z, 321, context), golden["epsilon"])
    assert [f.shape[1] for f in features] == [width for width, _ in taken_at(unet.config)][: len(features)]
    for feature, (width, scale) in zip(features, adapter.config.scales, strict=True):
        assert feature.shape[1:] == (width, -(-shape[2] // scale), -(-shape[3] // scale))


def test_t2i_adapters_refuse() -> None:
    adapter, _ = model_of("t2i_full")
    with pytest.raises(
        InputError, match=r"shape \(N, 1, H, W\) with sides that are multiples of 4, not \(2, 3, 12, 20\)"
    ):
        adapter(np.zeros((2, 3, 12, 20)))
    with pytest.raises(InputError, match="multiples of 4"):
        adapter(np.zeros((2, 1, 14, 20)))
    with pytest.raises(ConfigError, match="adapter_type"):
        model_of("t2i_full", adapter_type="fuller_adapter")
    with pytest.raises(ConfigError, match="num_res_blocks of 1 or more"):
        model_of("t2i_full", num_res_blocks=0)
    with pytest.raises(ConfigError, match="number of channels"):
        model_of("t2i_xl", channels=[8, 16])
    with pytest.raises(ConfigError, match=r"channels\[3\]"):
        model_of("t2i_xl", channels=[8, 16, 24, 32])


@given_by_hypothesis(st.integers(1, 3), st.integers(1, 3), st.integers(1, 4), st.integers(1, 3))
def test_unshuffled_pixels_are_those_of_the_squares(h: int, w: int, r: int, c: int) -> None:
    x = np.arange(h * r * w * r * c).reshape(1, h * r, w * r, c)
    found = pixel_unshuffle(x, r)
    for i, j, k, a, b in np.ndindex(h, w, c, r, r):
        assert found[0, i, j, k * r * r + a * r + b] == x[0, i * r + a, j * r + b, k]


@given_by_hypothesis(st.integers(1, 5), st.integers(1, 5))
def test_halved_pictures_are_means_of_the_pixels_that_are_there(height: int, width: int) -> None:
    x = np.random.default_rng(0).standard_normal((1, height, width, 2))
    found = halved(x)
    for i, j in np.ndindex(found.shape[1:3]):
        np.testing.assert_allclose(found[0, i, j], x[0, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].mean((0, 1)), rtol=1e-12)


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_missing_weight_is_named(name: str) -> None:
    class_name, config, _ = PUBLISHED[name]
    weights = seeded_weights(expected(class_name, config))
    first = next(iter(weights))
    del weights[first]
    with pytest.raises(CheckpointError, match=first):
        build(class_name, config, MemorySource(weights), FLOAT64)


@pytest.mark.parametrize("name", [*FIRST_STAGES, "unet2d_resnet"])
def test_the_numba_backend_computes_the_same(name: str) -> None:
    model, golden = model_of(name, Runtime(backend="numba"))
    x = inputs_of(name)
    if name == "unet2d_resnet":
        assert_close(model(x["z"], np.array([321, 7])), golden["epsilon"], 1e-4)
    else:
        assert_close(model.encode(x["pixels"])[0], golden["mean"], 1e-4)
        assert_close(model.decode(x["z"]), golden["decoded"], 1e-4)
