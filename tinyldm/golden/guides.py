"""Pictures that guide a recorded run, by ControlNets, T2I-Adapters, IP-Adapters: stated, kept, and set up anew."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tinyldm.errors import InputError
from tinyldm.golden.store import Golden
from tinyldm.pipelines.image_prompt import ImagePrompt
from tinyldm.pipelines.model import LatentDiffusion

GUIDE = ("network", "scale", "start", "end")  # what is said of a control; of a picture that is a prompt the first two
KINDS = ("controlnet", "ip_adapter", "image_encoder")


def put_on_top(model: LatentDiffusion) -> dict[str, str]:
    """Where the networks that a model has beside its checkpoint's own come from, by their names."""
    return {name: origin(net) for name, net in model.networks.items() if name.startswith(KINDS)}


def origin(network: Any) -> str:
    """The folder with a config that a network was read from, or the file."""
    path = Path(network.weights.source.path)
    return str(path.parent if (path.parent / "config.json").is_file() else path)


def guides_of(model: LatentDiffusion) -> tuple[list[dict[str, Any]], dict[str, np.ndarray]]:
    """What a file says of the pictures that guide a model, and the arrays that it has to hold for them, by name.

    Raises `InputError` for a network that the model was not loaded with: a file could not say which.
    """
    names = {id(net): name for name, net in model.networks.items()}
    of_controls = [
        (c.network, {"scale": c.scale, "start": c.start, "end": c.end}, c.hint) for c in model.parts.controls
    ]
    of_prompts = [(p.adapter, {"scale": p.scale}, p.pixels) for p in model.parts.image_prompts]
    guides: list[dict[str, Any]] = []
    given: dict[str, np.ndarray] = {}
    for k, (network, said, array) in enumerate([*of_controls, *of_prompts]):
        if id(network) not in names:
            raise InputError("a run that is guided by a network of its own can't be recorded: load the model with it")
        guides.append({"network": names[id(network)], **said})
        given[f"guide.{k}"] = array
    return guides, given


def load_options(golden: Golden) -> dict[str, Any]:
    """The arguments of `load` that put the networks on top that a file was recorded with."""
    beside: Mapping[str, str] = golden.metadata.get("beside") or {}
    found: dict[str, Any] = {
        kind: [path for name, path in beside.items() if name.startswith(kind)] for kind in ("controlnet", "ip_adapter")
    }
    return found | {"image_encoder": beside.get("image_encoder")}


def guided(model: LatentDiffusion, golden: Golden) -> LatentDiffusion:
    """The model, guided as the run was that a file was recorded from. Raises `InputError` where it does not say how."""
    for k, guide in enumerate(golden.metadata["settings"].get("guides") or ()):
        fields = {"network", "scale"} if str(guide.get("network")).startswith("ip_adapter") else set(GUIDE)
        if not fields <= guide.keys() or guide["network"] not in model.networks or f"guide.{k}" not in golden.given:
            raise InputError(f"{golden.path}: does not say or hold what guided its run: {guide}")
        network, array = model.networks[guide["network"]], golden[golden.given[f"guide.{k}"]]
        if guide["network"].startswith("ip_adapter"):
            prompt = ImagePrompt(network, model.networks["image_encoder"], array, guide["scale"])
            model = model.replaced(image_prompts=(*model.parts.image_prompts, prompt))
        else:
            model = model.controlled(array, guide["scale"], network, start=guide["start"], end=guide["end"])
    return model
