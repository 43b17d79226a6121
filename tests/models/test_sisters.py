"""The embedded checkpoint's sisters against the PyTorch classes that trained them, and what a flow must be."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from golden.provenance import load_golden
from golden.sister_pictures import digest, pictures
from hypothesis import given, settings
from hypothesis import strategies as st

import tinyldm
from tinyldm.checkpoints.base import MemorySource
from tinyldm.checkpoints.embedded import SISTERS, embedded
from tinyldm.checkpoints.folder import find_weights
from tinyldm.checkpoints.source import open_source
from tinyldm.errors import CheckpointError, ConfigError, InputError
from tinyldm.golden.seeded import seeded_weight
from tinyldm.models.build import build, expected
from tinyldm.models.flow import Flow, FlowConfig, pack, squeeze, unsqueeze
from tinyldm.runtime import Runtime

RUNTIMES = {
    "reference float64": (Runtime("reference", "float64"), 1e-12),
    "reference float32": (Runtime("reference", "float32"), 1e-5),
    "numba strict": (Runtime("numba", "float32", "strict"), 1e-5),
    "numba fast": (Runtime("numba", "float32", "fast"), 1e-4),
}
AUTOENCODERS = ["emoji-asymmetric", "emoji-tiny", "emoji-vq"]


def sister(name: str, runtime: Runtime):
    folder = embedded(name)
    config = json.loads((folder / "config.json").read_text())
    return build(config["_class_name"], config, open_source(find_weights(folder)), runtime)


def small_flow(dtype: str = "float64", **changes) -> Flow:
    """An untrained flow of 8×8 pictures: random couplings, well-conditioned matrices."""
    config = {"levels": 2, "depth": 2, "hidden": 8, "side": 8, "channels": 3} | changes
    weights = {}
    for name, shape in expected("Flow", config).items():
        value = 0.1 * seeded_weight(name, shape)
        if name.endswith("permutation"):
            value = np.eye(shape[0])[::-1]
        elif name.endswith("sign"):
            value = np.where(np.arange(shape[0]) % 2, -1, 1)
        weights[name] = value.astype(np.float32)
    return build("Flow", config, MemorySource(weights), Runtime("reference", dtype))


@pytest.mark.parametrize("name", SISTERS)
def test_goldens_are_of_these_weights(name: str) -> None:
    assert digest(embedded(name)) == load_golden(f"sisters/{name}")[1]["weights"], "run make_sisters.py"


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("name", AUTOENCODERS)
def test_autoencoder_is_the_original(name: str, runtime: str) -> None:
    golden, _ = load_golden(f"sisters/{name}")
    model = sister(name, RUNTIMES[runtime][0])
    tolerance = {"float64": 1e-9, "float32": 2e-3}[model.runtime.dtype.name]
    encoded = model.encode(pictures())
    mean = encoded[0] if isinstance(encoded, tuple) else encoded
    assert np.abs(mean - golden["mean"]).max() <= tolerance * np.abs(golden["mean"]).max()
    assert np.abs(model.decode(golden["mean"]) - golden["decoded"]).max() <= tolerance


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_flow_is_the_original(runtime: str) -> None:
    """Pictures within the tolerance; latents, which the map spreads out, as near as PyTorch's own float32 comes."""
    golden, _ = load_golden("sisters/emoji-flow")
    chosen, tolerance = RUNTIMES[runtime]
    flow = sister("emoji-flow", chosen)
    latents, log_p = flow.forward(pictures())
    for level, z in enumerate(latents):
        own = np.abs(golden[f"float32/z{level}"] - golden[f"z{level}"]).max()
        wanted = tolerance if chosen.dtype == np.float64 else max(tolerance, 4 * own)
        assert np.abs(z - golden[f"z{level}"]).max() <= wanted
    np.testing.assert_allclose(log_p, golden["log_p"], rtol=max(tolerance, 1e-12))
    wanted_latents = [golden[f"z{level}"] for level in range(3)]
    assert np.abs(flow.inverse(wanted_latents) - golden["decoded"]).max() <= tolerance
    sampled = flow.sample([golden[f"noise{level}"] for level in range(3)])
    assert np.abs(sampled - golden["sampled"]).max() <= tolerance


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-12), ("float32", 1e-5)])
def test_nothing_is_lost(dtype: str, tolerance: float) -> None:
    flow = sister("emoji-flow", Runtime("reference", dtype))
    z, logvar = flow.encode(pictures())
    assert z.shape == (4, flow.config.latent_channels, 8, 8)
    assert z[0].size == pictures()[0].size
    assert (logvar == -np.inf).all()
    assert np.abs(flow.decode(z) - pictures()).max() <= tolerance


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 3), st.integers(1, 3), st.integers(1, 3))
def test_inverse_of_any_picture(seed: int, count: int, height: int, width: int) -> None:
    flow = small_flow()
    x = np.random.default_rng(seed).uniform(-1, 1, (count, 3, 4 * height, 4 * width))
    latents, _ = flow.forward(x)
    assert [z.shape for z in latents] == flow.shapes(count, 4 * height, 4 * width)
    np.testing.assert_allclose(flow.inverse(latents), x, atol=1e-10)
    np.testing.assert_array_equal(flow.decode(flow.encode(x)[0]), flow.inverse(latents))


def test_density_is_that_of_the_map() -> None:
    """log p is the latents' density plus log |det| of the Jacobian, which finite differences give."""
    flow = small_flow(levels=1, side=2)
    x = np.random.default_rng(0).uniform(-0.9, 0.9, (1, 3, 2, 2))
    _, log_p = flow.forward(x)

    def noise(values: np.ndarray) -> np.ndarray:
        (z,) = (z.transpose(0, 2, 3, 1) for z in flow.forward(values.reshape(x.shape))[0])
        mean, log_std = flow.prior(0, z, z[..., :0])
        return ((z - mean) / np.exp(log_std)).ravel()

    step = 1e-5
    columns = [(noise(x.ravel() + step * e) - noise(x.ravel() - step * e)) / (2 * step) for e in np.eye(x.size)]
    log_det = np.linalg.slogdet(np.stack(columns))[1] - x.size * math.log(255 / 512)  # in the flow's own unit
    density = -0.5 * np.square(noise(x)).sum() - 0.5 * x.size * math.log(2 * math.pi)
    np.testing.assert_allclose(log_p, density + log_det, rtol=1e-7)


def test_bits_per_dimension() -> None:
    flow = small_flow()
    x = np.round(np.random.default_rng(0).uniform(0, 255, (2, 3, 8, 8))) / 127.5 - 1
    _, log_p = flow.forward(x)
    np.testing.assert_allclose(flow.bits_per_dimension(x), 8 - log_p / (192 * math.log(2)))
    spread = flow.bits_per_dimension(x, np.random.default_rng(1))
    assert spread.shape == (2,)
    assert (spread != flow.bits_per_dimension(x)).all()


@given(st.integers(1, 3), st.integers(1, 4), st.integers(1, 4), st.integers(1, 3), st.sampled_from([1, 2, 4]))
def test_squeeze_moves_blocks_into_channels(n: int, h: int, w: int, c: int, scale: int) -> None:
    x = np.arange(n * h * scale * w * scale * c).reshape(n, h * scale, w * scale, c)
    y = squeeze(x, scale)
    for k, i, j, colour, dy, dx in np.ndindex(n, h, w, c, scale, scale):
        assert y[k, i, j, colour * scale**2 + dy * scale + dx] == x[k, i * scale + dy, j * scale + dx, colour]
    np.testing.assert_array_equal(unsqueeze(y, scale), x)


def test_packing_is_undone() -> None:
    flow = small_flow()
    latents = [np.random.default_rng(0).normal(size=(n, h, w, c)) for n, c, h, w in flow.shapes(2)]
    packed = pack(latents)
    assert packed.shape == (2, 2, 2, 48)
    for found, wanted in zip(flow.unpack(packed), latents, strict=True):
        np.testing.assert_array_equal(found, wanted)


def test_flow_refuses() -> None:
    flow = small_flow()
    with pytest.raises(InputError, match=r"flow: pixels must have the shape \(N, 3, height, width\)"):
        flow.forward(np.zeros((1, 4, 8, 8)))
    with pytest.raises(InputError, match="multiples of 4"):
        flow.encode(np.zeros((1, 3, 8, 6)))
    with pytest.raises(InputError, match="2 levels, got 1"):
        flow.inverse([np.zeros((1, 6, 4, 4))])
    with pytest.raises(InputError, match="do not fit together"):
        flow.sample([np.zeros((1, 6, 4, 4)), np.zeros((1, 24, 4, 4))])
    with pytest.raises(InputError, match=r"z must have the shape \(N, 48"):
        flow.decode(np.zeros((1, 12, 2, 2)))
    with pytest.raises(ConfigError, match="surprise"):
        small_flow(surprise=1)


def test_widths() -> None:
    assert FlowConfig().widths() == [(12, 6), (24, 12), (48, 48)]
    assert FlowConfig().latent_channels == 192


EXACT = {"backend": "reference", "dtype": "float64"}


def inputs(channels: int, side: int) -> tuple[np.ndarray, int, np.ndarray]:
    """As `make_sisters.py` draws them."""
    random = np.random.RandomState(0)
    return random.standard_normal((1, channels, side, side)), 500, random.standard_normal((1, 16, 128))


def distance(found: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.abs(found - wanted).max() / np.abs(wanted).max())


def test_pixels_against_diffusers() -> None:
    model = tinyldm.load("emoji-pixels", **EXACT)
    assert distance(model.unet(*inputs(3, 64)), load_golden("sisters/emoji-pixels")[0]["epsilon"]) < 1e-9


@given(st.integers(1, 2), st.integers(1, 9), st.integers(1, 9), st.integers(0, 999))
@settings(max_examples=20, deadline=None)
def test_pixels_are_all_there_again(n: int, h: int, w: int, seed: int) -> None:
    model = tinyldm.load("emoji-pixels", **EXACT)
    x = np.random.default_rng(seed).uniform(-1, 1, (n, 3, h, w))
    z, logvar = model.vae.encode(x)
    assert z.shape == x.shape
    assert np.all(np.isneginf(logvar))
    np.testing.assert_allclose(model.vae.decode(z), x, atol=1e-14)


@pytest.mark.parametrize("name", ["emoji-lcm", "emoji-lines"])
def test_lora_against_diffusers(name: str) -> None:
    model = tinyldm.load(loras=[name], **EXACT)
    wanted = load_golden(f"sisters/{name}")[0]["epsilon"]
    assert distance(model.unet(*inputs(4, 16)), wanted) < 1e-9
    assert distance(tinyldm.load(**EXACT).unet(*inputs(4, 16)), wanted) > 1e-3


def test_learned_word_against_diffusers() -> None:
    model = tinyldm.load(words=["emoji-word"], **EXACT)
    golden = load_golden("sisters/emoji-word")[0]
    ids = model.tokenizer.encode(["red <chequered-flag> emoji"])
    np.testing.assert_array_equal(ids, golden["ids"])
    assert distance(model.text_encoder(ids), golden["context"]) < 1e-9


def test_controlnet_against_diffusers() -> None:
    model = tinyldm.load(controlnet="emoji-edges", **EXACT)
    golden = load_golden("sisters/emoji-edges")[0]
    *down, middle = model.controlnet(*inputs(4, 16), (pictures()[:1] + 1) / 2)
    for found, name in ((down[0], "first"), (down[-1], "last"), (middle, "middle")):
        assert distance(found, golden[name]) < 1e-9


def test_a_first_stage_alone_encodes_and_decodes() -> None:
    model = tinyldm.load("emoji-vq")
    z = model.encode(pictures())
    assert z.shape == (4, 4, 16, 16)
    assert model.decode(z)[0].size == (64, 64)
    with pytest.raises(InputError, match="a first stage alone; sampling wants a unet as well"):
        model.text_to_image("red apple")


def test_names_of_embedded_checkpoints(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    for name in SISTERS:
        assert (embedded(name) / "README.md").is_file()
    assert (embedded() / "model_index.json").is_file()
    with pytest.raises(CheckpointError, match=r"emoji-x: not the name of an embedded checkpoint; these are: emoji, "):
        embedded("emoji-x")
    monkeypatch.setattr("tinyldm.checkpoints.embedded.SISTER_PACKAGE", "not_installed")
    monkeypatch.setattr("tinyldm.checkpoints.embedded.__file__", str(tmp_path / "a" / "b" / "embedded.py"))
    with pytest.raises(CheckpointError, match=r"pip install \./weights"):
        embedded("emoji-vq")
    with pytest.raises(CheckpointError, match="install the package again"):
        embedded()
