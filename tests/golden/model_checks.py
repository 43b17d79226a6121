"""Run tinyldm's models on the inputs of a golden and compare what comes out with what the originals computed."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from golden.model_cases import sampled
from golden.provenance import load_golden

from tinyldm import tracing
from tinyldm.checkpoints.base import TensorSource
from tinyldm.golden.seeded import seeded_input, seeded_weight
from tinyldm.models import text_encoder, unet, unet_config, vae
from tinyldm.models.network import read_config
from tinyldm.runtime import Runtime

BARS = {"float64": 1e-9, "float32": 1e-4}  # relative to the largest value


class SeededSource(TensorSource):
    """Seeded weights, made when they are read: a model of any size takes the memory of one weight."""

    path, metadata = "seeded", {}

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], seed: int, gains: Mapping[str, float]) -> None:
        self.shapes, self.seed, self.gains = dict(shapes), seed, gains

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.shapes)

    def shape(self, name: str) -> tuple[int, ...]:
        return self.shapes[name]

    def dtype(self, name: str) -> str:
        return "F32"

    def read(self, name: str, dtype: Any = np.float32) -> np.ndarray:
        values = seeded_weight(name, self.shapes[name], self.seed) * np.float32(self.gains.get(name, 1.0))
        return values.astype(dtype, copy=False)


def shapes_of(model: str, config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Name and shape of every weight that tinyldm wants for a config."""
    if model == "unet":
        fields = read_config(unet_config.UNetConfig, config, component="UNet", inert=unet_config.INERT)
        return dict(unet_config.parameters(fields))
    if model == "vae":
        return dict(vae.parameters(read_config(vae.AutoencoderConfig, config, component="VAE", inert=vae.INERT)))
    kind = text_encoder.TextEncoderConfig
    fields = read_config(kind, config, component="text encoder", inert=text_encoder.INERT)
    return dict(text_encoder.parameters(fields, "CLIPTextModelWithProjection" in config.get("architectures", ())))


def names_digest(shapes: Mapping[str, tuple[int, ...]]) -> str:
    """The sha256 over names and shapes, as `make_models.py --parameters` computes it."""
    lines = "".join(f"{name} {list(shape)}\n" for name, shape in sorted(shapes.items()))
    return hashlib.sha256(lines.encode()).hexdigest()


def outputs_of(
    model: str, config: dict[str, Any], inputs: Mapping[str, np.ndarray], source: TensorSource, runtime: Runtime
) -> dict[str, np.ndarray]:
    """What tinyldm's model makes of the inputs, under the names that the goldens have."""
    given = dict(inputs)
    if model == "unet":
        z, t, context = (given.pop(name) for name in ("z", "t", "context"))
        t = t.item() if t.size == 1 else t
        return {"epsilon": unet.UNet(config, source, runtime)(z, t, context, **given)}
    if model == "vae":
        autoencoder = vae.AutoencoderKL(config, source, runtime)
        mean, logvar = autoencoder.encode(given["pixels"])
        found = {"mean": mean, "logvar": logvar, "decoded": autoencoder.decode(given["z"])}
        return found | (
            {"scaled": autoencoder.scale(given["z"].astype(runtime.dtype))} if config.get("latents_mean") else {}
        )
    encoder, ids = text_encoder.TextEncoder(config, source, runtime), given["ids"]
    found = {"context": encoder(ids), "pooled": encoder.pooled(ids)}
    for layer in (-1, -2, 0):
        found[f"hidden {layer}"] = encoder(ids, layer, final_norm=False)
        found[f"hidden {layer}, normed"] = encoder(ids, layer, final_norm=True)
    return found


def relative_error(found: np.ndarray, wanted: np.ndarray) -> float:
    """The largest difference, relative to the largest value wanted."""
    assert found.shape == wanted.shape
    return float(np.abs(found.astype(np.float64) - wanted).max() / np.abs(wanted).max())


def check_golden(name: str, runtime: Runtime, of: str | None = None) -> None:
    """Compare every output and every recorded module with the golden `of` the runtime's dtype (or another)."""
    golden, provenance = load_golden(f"models/{name}")
    dtype = runtime.dtype.name
    model, config = provenance["model"], provenance["config"]
    inputs = {key: golden[key] for key in provenance["inputs"]}
    inputs |= {key: seeded_input(key, tuple(shape)) for key, shape in provenance["seeded_inputs"].items()}
    source = SeededSource(shapes_of(model, config), provenance["seed"], provenance["gains"])
    prefix = f"{of or dtype}/"
    wanted = {key.removeprefix(prefix): value for key, value in golden.items() if key.startswith(prefix)}
    modules = {key: value for key, value in wanted.items() if key.startswith("module/")}

    found = outputs_of(model, config, inputs, source, runtime)
    found = {key: sampled(found[key]) for key in wanted if key not in modules}
    if modules:
        with tracing.trace() as trace:
            traced = outputs_of(model, config, inputs, source, runtime)
        found |= {key: trace[key.removeprefix("module/")] for key in modules}
        for key, value in traced.items():
            assert relative_error(value, found[key]) <= BARS[dtype], f"{key}: tracing changed it"
    assert all(value.dtype == runtime.dtype for value in found.values())
    errors = {key: relative_error(found[key], wanted[key]) for key in wanted}
    above = {key: error for key, error in errors.items() if not error <= BARS[dtype]}
    assert not above, f"{name} in {dtype}: above the bar of {BARS[dtype]} are {above}"
