"""Make the goldens of the models with diffusers and transformers: `python tests/golden/make_models.py [name …]`.

Without names, all small ones; `--full` those of full published width, one after the other (up to 8 GB of memory);
`--parameters` the weights' names and shapes of published models. Needs `pip install ".[golden]"`.

Every model is filled with `tinyldm.golden.seeded` weights under its original's names and shapes. It runs as it is in
float32, and in float64 with the float32 casts inside the originals lifted: see `lifted`.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import inspect
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, StableDiffusionXLImg2ImgPipeline, UNet2DConditionModel
from diffusers.models import embeddings
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection
from transformers.models.clip import modeling_clip

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE.parents[1])]

from golden.model_cases import FULL_WIDTH, LARGE, TEXT_ENCODERS, UNETS, VAES, Case, sampled  # noqa: E402
from golden.provenance import save_golden  # noqa: E402

from tinyldm.golden.seeded import seeded_input, seeded_weight  # noqa: E402

SEED = 0
PACKAGES = ("torch", "diffusers", "transformers")
DTYPES = {"float64": torch.float64, "float32": torch.float32, "bfloat16": torch.bfloat16}

# The originals in float64 --------------------------------------------------------------------------------------------

# (module, function, text in its source, text instead): the function is compiled anew from its own changed source
PATCHES: list[tuple[ModuleType, str, str, str]] = [
    (embeddings, "get_timestep_embedding", "dtype=torch.float32", "dtype=torch.float64"),
    (embeddings, "get_timestep_embedding", ".float()", ".double()"),
    (modeling_clip, "eager_attention_forward", "dtype=torch.float32", "dtype=torch.float64"),
]


def patches() -> list[str]:
    """The patches in words, for the provenance."""
    return [f"{module.__name__}.{name}: {old} -> {new}" for module, name, old, new in PATCHES]


@contextmanager
def lifted() -> Iterator[None]:
    """Lift the casts to float32 inside the originals, so that a float64 model computes in float64 throughout."""
    originals = {(module, name): getattr(module, name) for module, name, _, _ in PATCHES}
    try:
        for (module, name), original in originals.items():
            source = inspect.getsource(original)
            for _, _, old, new in (patch for patch in PATCHES if patch[:2] == (module, name)):
                assert source.count(old) == 1, f"{module.__name__}.{name} has changed: it has no single {old!r}"
                source = source.replace(old, new)
            exec(compile(source, f"{name}, patched", "exec"), vars(module))
        yield
    finally:
        for (module, name), original in originals.items():
            setattr(module, name, original)


# Filling and running a model -----------------------------------------------------------------------------------------


def published_name(name: str) -> str:
    """The name under which the weight is seeded: a text encoder's without the prefix that some files have."""
    return name.removeprefix("text_model.")


def fill(model: nn.Module, gains: dict[str, float]) -> None:
    """Give every weight its seeded values, one at a time."""
    with torch.no_grad():
        for full_name, parameter in model.state_dict().items():
            if not full_name.endswith("position_ids"):
                name = published_name(full_name)
                values = seeded_weight(name, tuple(parameter.shape), SEED) * np.float32(gains.get(name, 1.0))
                parameter.copy_(torch.from_numpy(values))


def original(model: str, config: dict[str, Any]) -> nn.Module:
    """The original model of a config, with whatever weights."""
    if model == "text_encoder":
        kind = CLIPTextModelWithProjection if "CLIPTextModelWithProjection" in config.get("architectures", ()) else None
        config = {name: value for name, value in config.items() if name != "torch_dtype"}
        return (kind or CLIPTextModel)._from_config(CLIPTextConfig(**config), attn_implementation="eager")
    return {"unet": UNet2DConditionModel, "vae": AutoencoderKL}[model].from_config(config)


def seeded_model(case: Case, dtype: torch.dtype) -> nn.Module:
    """The original model of a case, in the dtype, with seeded weights."""
    torch.set_default_dtype(dtype)
    try:
        with skipped_initialisation():
            model = original(case.model, case.config)
    finally:
        torch.set_default_dtype(torch.float32)
    fill(model, case.gains)
    return model.eval().requires_grad_(False)


@contextmanager
def skipped_initialisation() -> Iterator[None]:
    """Leave out the random initial values, which take longer than all the rest at full width."""
    kinds = (nn.Linear, nn.Conv2d, nn.Embedding)
    resets = [kind.reset_parameters for kind in kinds]
    try:
        for kind in kinds:
            kind.reset_parameters = lambda self: None
        yield
    finally:
        for kind, reset in zip(kinds, resets, strict=True):
            kind.reset_parameters = reset


def arrays(case: Case) -> dict[str, np.ndarray]:
    """The inputs of a case."""
    return {
        name: seeded_input(name, value, SEED) if isinstance(value, tuple) else np.array(value)
        for name, value in case.inputs.items()
    }


def tensors(inputs: dict[str, np.ndarray], dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """The inputs as the original takes them: whole numbers as they are, and t, which it converts itself."""
    given = {name: torch.from_numpy(array) for name, array in inputs.items()}
    return {name: x.to(dtype) if x.is_floating_point() and name != "t" else x for name, x in given.items()}


# What goes in and what comes out of each model -----------------------------------------------------------------------


def run_unet(model: nn.Module, given: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """`z, t, context -> epsilon`, with the further conditions under the names that tinyldm gives them."""
    added = {name: given[name] for name in ("text_embeds", "time_ids") if name in given}
    epsilon = model(
        given["z"],
        given["t"] if len(given["t"]) > 1 else given["t"][0],
        given["context"],
        class_labels=given.get("class_labels"),
        timestep_cond=given.get("guidance"),
        added_cond_kwargs=added or None,
    ).sample
    return {"epsilon": epsilon}


def run_vae(model: nn.Module, given: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """`pixels -> mean, logvar`, `z -> decoded`, and where each channel has a scale of its own `z -> scaled`."""
    posterior = model.encode(given["pixels"]).latent_dist
    found = {"mean": posterior.mean, "logvar": posterior.logvar, "decoded": model.decode(given["z"]).sample}
    if model.config.latents_mean is not None:
        encoded = SimpleNamespace(config=model.config, encode=lambda pixels: SimpleNamespace(latents=given["z"]))
        pipeline, dtype = SimpleNamespace(vae=encoded), given["z"].dtype
        prepare = StableDiffusionXLImg2ImgPipeline.prepare_latents
        found["scaled"] = prepare(pipeline, given["pixels"], None, 1, 1, dtype, "cpu", add_noise=False)
    return found


def run_text_encoder(model: nn.Module, given: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """`ids -> context` and pooled; the layers before the last as they are and behind the final norm."""
    out = model(given["ids"], output_hidden_states=True)
    hidden, norm = out.hidden_states, getattr(model, "text_model", model).final_layer_norm.forward
    found = {"context": out.last_hidden_state, "pooled": out[0] if "text_embeds" in out else out.pooler_output}
    for layer in (-1, -2, 0):
        found |= {f"hidden {layer}": hidden[layer], f"hidden {layer}, normed": norm(hidden[layer])}
    return found


RUN = {"unet": run_unet, "vae": run_vae, "text_encoder": run_text_encoder}


@contextmanager
def recorded(model: nn.Module, patterns: tuple[str, ...]) -> Iterator[dict[str, torch.Tensor]]:
    """Keep the outputs of the modules whose paths match; each must be called once."""
    outputs: dict[str, torch.Tensor] = {}

    def hook(path: str) -> Any:
        def keep(_module: nn.Module, _inputs: Any, output: Any) -> None:
            assert path not in outputs, f"{path} is called more than once"
            outputs[path] = (output[0] if isinstance(output, tuple) else output).clone()

        return keep

    paths = [(published_name(path), module) for path, module in model.named_modules()]
    for pattern in patterns:
        assert any(fnmatchcase(path, pattern) for path, _ in paths), f"no module is called {pattern}"
    hooks = [
        module.register_forward_hook(hook(path))
        for path, module in paths
        if any(fnmatchcase(path, pattern) for pattern in patterns)
    ]
    yield outputs
    for handle in hooks:
        handle.remove()


def compute(case: Case, inputs: dict[str, np.ndarray], dtype: str) -> dict[str, np.ndarray]:
    """Outputs and recorded modules of a case in a dtype, as `<dtype>/<output>` and `<dtype>/module/<path>`."""
    model = seeded_model(case, DTYPES[dtype])
    with torch.inference_mode(), recorded(model, case.modules) as modules:
        found = RUN[case.model](model, tensors(inputs, DTYPES[dtype]))
    found |= {f"module/{path}": output for path, output in modules.items()}
    for name, tensor in found.items():
        assert tensor.dtype == DTYPES[dtype], f"{case.name}: {name} is {tensor.dtype}"
        check_sane(f"{case.name}: {name}", tensor)
    wide = {name: tensor.float() if tensor.dtype == torch.bfloat16 else tensor for name, tensor in found.items()}
    return {f"{dtype}/{name}": tensor.numpy() for name, tensor in wide.items()}


def check_sane(name: str, tensor: torch.Tensor) -> None:
    """A golden that is constant, vanishing, exploded or not a number tests nothing."""
    spread = float(tensor.std()) if tensor.numel() > 1 else 1.0
    assert torch.isfinite(tensor).all(), f"{name} is not finite"
    assert 1e-3 < spread < 1e3, f"{name} has the standard deviation {spread}"


# Writing -------------------------------------------------------------------------------------------------------------


def make(case: Case, dtypes: tuple[str, ...], full: bool = False) -> None:
    """Compute a case and write its golden; at full width, what is large is kept in part."""
    inputs = arrays(case)
    found: dict[str, np.ndarray] = {}
    for dtype in dtypes:
        if dtype == "float64":
            with lifted():
                found |= compute(case, inputs, dtype)
        else:
            found |= compute(case, inputs, dtype)
        gc.collect()
    print(f"{case.name}: " + ", ".join(statistics(found)), flush=True)
    seeded = {name: inputs.pop(name).shape for name in [*inputs] if inputs[name].size > LARGE} if full else {}
    found = {name: sampled(value) for name, value in found.items() if not full or "/hidden" not in name}
    path = save_golden(
        f"models/{case.name}",
        {**inputs, **found},
        PACKAGES,
        model=case.model,
        config=case.config,
        seed=SEED,
        gains=case.gains,
        inputs=sorted(inputs),
        seeded_inputs=seeded,
        patches=patches(),
        command="python tests/golden/make_models.py" + (" --full" if full else ""),
    )
    print(f"{path.name}: {path.stat().st_size} bytes", flush=True)


def statistics(found: dict[str, np.ndarray]) -> list[str]:
    """Standard deviation of each output, and how far float32 is from float64 relative to the largest value."""
    lines = []
    for name, value in found.items():
        if name.startswith("float64/") and "/module/" not in name:
            single = found.get(name.replace("float64", "float32"), value)
            error = np.abs(single - value).max() / np.abs(value).max()
            lines.append(f"{name.partition('/')[2]} std {value.std():.2f} float32 {error:.1e}")
    return lines


def full_width_case(name: str) -> Case:
    """A published model at its full width."""
    config = json.loads((HERE / "configs" / f"{name}.json").read_text())
    return Case(name, config, FULL_WIDTH[name])


def make_parameters() -> None:
    """Write number, elements and sha256 of the weights' names and shapes that the published configs stand for."""
    found = {}
    for path in sorted((HERE / "configs").glob("*.json")):
        config = json.loads(path.read_text())
        model = {"U": "unet", "A": "vae"}.get(config.get("_class_name", "T")[0], "text_encoder")
        with torch.device("meta"):
            state = original(model, config).state_dict()
        shapes = {published_name(k): tuple(v.shape) for k, v in state.items() if not k.endswith("position_ids")}
        lines = "".join(f"{name} {list(shape)}\n" for name, shape in sorted(shapes.items()))
        found[path.stem] = {
            "model": model,
            "tensors": len(shapes),
            "elements": sum(int(np.prod(shape)) for shape in shapes.values()),
            "sha256": hashlib.sha256(lines.encode()).hexdigest(),
        }
    (HERE / "models" / "parameters.json").write_text(json.dumps(found, indent=2) + "\n")


def main() -> None:
    """Make what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="cases; without any, all small ones")
    parser.add_argument("--full", action="store_true", help="the models of full published width instead")
    parser.add_argument("--parameters", action="store_true", help="the names and shapes of published models instead")
    arguments = parser.parse_args()
    if arguments.parameters:
        make_parameters()
    elif arguments.full:
        for name in arguments.names or FULL_WIDTH:
            make(full_width_case(name), ("float64", "float32"), full=True)
    else:
        for case in (*TEXT_ENCODERS, *VAES, *UNETS):
            if not arguments.names or case.name in arguments.names:
                make(case, ("float64", "float32"))


if __name__ == "__main__":
    main()
