"""Make the goldens of LyCORIS' adapters: weights that its modules compute with, in float64, from seeded tensors.

    python tests/golden/make_lycoris.py

Wants torch, lycoris-lora and peft. Of LoHa and LoKr the weight is that of the module's forward pass (its merge scales
the difference twice where alpha is not the rank).
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from golden.provenance import save_golden

from tinyldm.golden.seeded import seeded_weight

LINEAR, CONV, ONE = (6, 8), (6, 8, 3, 3), (6, 8, 1, 1)
CASES: dict[str, tuple[str, tuple[int, ...], dict[str, Any]]] = {
    "locon linear": ("LoConModule", LINEAR, {}),
    "locon conv": ("LoConModule", CONV, {}),
    "locon 1x1": ("LoConModule", ONE, {}),
    "locon tucker": ("LoConModule", CONV, {"use_tucker": True}),
    "loha linear": ("LohaModule", LINEAR, {}),
    "loha conv": ("LohaModule", CONV, {}),
    "loha tucker": ("LohaModule", CONV, {"use_tucker": True}),
    "lokr linear": ("LokrModule", LINEAR, {"factor": 2, "lora_dim": 1}),
    "lokr both": ("LokrModule", (12, 16), {"factor": 4, "decompose_both": True, "lora_dim": 1}),
    "lokr full": ("LokrModule", LINEAR, {"factor": 2, "full_matrix": True}),
    "lokr conv": ("LokrModule", (12, 16, 3, 3), {"factor": 2, "lora_dim": 2}),
    "lokr tucker": ("LokrModule", (12, 16, 3, 3), {"factor": 2, "lora_dim": 2, "use_tucker": True}),
    "dora rows": ("LoConModule", LINEAR, {"weight_decompose": True, "wd_on_out": True}),
    "dora columns": ("LoConModule", LINEAR, {"weight_decompose": True, "wd_on_out": False}),
    "dora conv rows": ("LoConModule", CONV, {"weight_decompose": True, "wd_on_out": True}),
    "dora conv columns": ("LoConModule", CONV, {"weight_decompose": True, "wd_on_out": False}),
    "doha": ("LohaModule", LINEAR, {"weight_decompose": True}),
    "dokr": ("LokrModule", LINEAR, {"factor": 2, "lora_dim": 1, "weight_decompose": True}),
}


def layer_of(name: str, shape: tuple[int, ...]) -> torch.nn.Module:
    """A layer with seeded weights in float64."""
    out, inner, *kernel = shape
    layer = torch.nn.Conv2d(inner, out, kernel, bias=False) if kernel else torch.nn.Linear(inner, out, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(seeded_weight(f"{name}.weight", shape)))
    return layer.double()


def merged(name: str) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """The tensors of an adapter's file, and the weight that the layer computes with."""
    import lycoris.modules.locon
    import lycoris.modules.loha
    import lycoris.modules.lokr

    kind, shape, options = CASES[name]
    module = {
        "LoConModule": lycoris.modules.locon.LoConModule,
        "LohaModule": lycoris.modules.loha.LohaModule,
        "LokrModule": lycoris.modules.lokr.LokrModule,
    }[kind]
    layer = layer_of(name, shape)
    adapter = module("layer", layer, 1.0, **{"lora_dim": 3, "alpha": 2} | options).double()
    state = {key: value for key, value in adapter.custom_state_dict().items() if key != "alpha"}
    filled = {
        key: seeded_weight(f"{name}.{key}", tuple(value.shape)).astype(np.float64) for key, value in state.items()
    }
    if "dora_scale" in filled:
        filled["dora_scale"] = np.abs(filled["dora_scale"]) + 0.5
    with torch.no_grad():
        own = dict(adapter.named_parameters())
        for key, value in filled.items():
            own[key].copy_(torch.from_numpy(value))
        if "scalar" in own:
            own["scalar"].fill_(1)
        difference = adapter.make_weight() * adapter.scale if kind == "LoConModule" else adapter.get_weight(None)
        weight = layer.weight + difference.reshape(layer.weight.shape)
        if "dora_scale" in filled:
            weight = adapter.apply_weight_decompose(weight, 1)
    alpha = np.asarray(float(adapter.alpha))
    return {**filled, "alpha": alpha}, weight.numpy()


def peft_dora(name: str, shape: tuple[int, ...]) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """The same of PEFT's DoRA."""
    from peft import LoraConfig, get_peft_model, get_peft_model_state_dict

    layer = layer_of(name, shape)
    model = get_peft_model(
        torch.nn.ModuleDict({"layer": layer}),
        LoraConfig(r=3, lora_alpha=5, use_rslora=True, use_dora=True, target_modules=["layer"]),
    ).double()
    state = get_peft_model_state_dict(model)
    filled = {key: seeded_weight(f"{name}.{key}", tuple(v.shape)).astype(np.float64) for key, v in state.items()}
    filled = {k: np.abs(v) + 0.5 if "magnitude" in k else v for k, v in filled.items()}
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for key, value in filled.items():
            stem, _, leaf = key.rpartition(".")
            place = f"{key}.default.weight" if "magnitude" in leaf else f"{stem}.default.{leaf}"
            parameters[place].copy_(torch.from_numpy(value))
    return filled, model.merge_and_unload()["layer"].weight.detach().numpy()


def main() -> None:
    """Write `families/lycoris.safetensors`."""
    tensors: dict[str, np.ndarray] = {}
    cases = {name: merged(name) for name in CASES}
    cases |= {
        f"peft {name}": peft_dora(f"peft {name}", shape) for name, shape in (("dora", LINEAR), ("dora conv", CONV))
    }
    for name, (parts, weight) in cases.items():
        tensors |= {f"{name}|{part}": value for part, value in parts.items()} | {f"{name}|merged": weight}
    path = save_golden("families/lycoris", tensors, ("torch", "lycoris-lora", "peft"))
    print(f"{path.name}: {len(cases)} cases, {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
