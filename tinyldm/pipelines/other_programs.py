"""What ComfyUI and InvokeAI write into their pictures: JSON under names of their own.

ComfyUI's text `prompt` is the graph of nodes that made a picture, `{number: {"class_type", "inputs"}}`, where an input
is a value or the number of the node that it comes from; a graph with one sampler is read. InvokeAI's text
`invokeai_metadata` has settings by name.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from tinyldm.diffusion.samplers.registry import find_sampler, takes_schedules
from tinyldm.errors import InputError

Settings = tuple[dict[str, str], list[str]]  # as `infotext.read_infotext` gives them: by name, and what is not read
Node = Mapping[str, Any]

# The nodes of a graph whose settings are all read.
KNOWN_NODES = {
    *("KSampler", "CLIPTextEncode", "EmptyLatentImage", "CheckpointLoaderSimple", "CheckpointLoader"),
    *("VAEDecode", "VAEEncode", "SaveImage", "PreviewImage", "LoadImage"),
}
# InvokeAI's names of settings, and the names here.
OF_INVOKE = {"positive_prompt": "prompt", "negative_prompt": "negative_prompt", "cfg_scale": "guidance_scale"}
OF_INVOKE |= {name: name for name in ("seed", "steps", "width", "height", "strength")}
OF_INVOKE |= {"cfg_rescale_multiplier": "guidance_rescale", "scheduler": "sampler"}
SAY_NOTHING = ("app_version", "generation_mode", "rand_device", "model", "clip_skip", "seamless_x", "seamless_y")


def read_comfy(text: str) -> Settings:
    """The settings of ComfyUI's graph. Raises `InputError` unless it has one sampler."""
    graph: Mapping[str, Node] = {str(number): node for number, node in json.loads(text).items()}
    samplers = [node for node in graph.values() if node.get("class_type") == "KSampler"]
    if len(samplers) != 1:
        raise InputError(f"its ComfyUI workflow has {len(samplers)} nodes KSampler; only one with a single one is read")
    inputs = samplers[0]["inputs"]

    def said(name: str, wanted: str) -> Any:
        return next(
            (node["inputs"][wanted] for node in behind(graph, inputs.get(name)) if wanted in node["inputs"]), None
        )

    name, schedule = str(inputs["sampler_name"]), str(inputs["scheduler"])
    found = {"prompt": said("positive", "text"), "negative_prompt": said("negative", "text")}
    found |= {"seed": inputs["seed"], "steps": inputs["steps"], "guidance_scale": inputs["cfg"]}
    found |= {"sampler": with_schedule(name, schedule), "model": said("model", "ckpt_name"), "rng": "torch"}
    found |= {"width": said("latent_image", "width"), "height": said("latent_image", "height")}
    found |= {"prompt_syntax": "webui"}
    if found["width"] is None:
        found |= {"image": said("latent_image", "image") or "not named", "strength": inputs["denoise"]}
    unread = sorted({str(node.get("class_type")) for node in graph.values()} - KNOWN_NODES)
    return as_said(found), [f"node {kind}" for kind in unread]


def behind(graph: Mapping[str, Node], link: Any) -> Iterator[Node]:
    """The node that an input comes from, and those along the first of its own inputs; each once."""
    seen: set[str] = set()
    while isinstance(link, list) and link and (number := str(link[0])) in graph and number not in seen:
        seen.add(number)
        node = graph[number]
        yield node
        link = next((value for value in node["inputs"].values() if isinstance(value, list)), None)


def read_invoke(text: str) -> Settings:
    """The settings of InvokeAI's metadata; its prompts have weights of their own kind, and are read as words."""
    said: dict[str, Any] = json.loads(text)
    found = {ours: said.pop(theirs) for theirs, ours in OF_INVOKE.items() if theirs in said}
    found["rng"] = "torch" if said.get("rand_device", "cpu") == "cpu" else "cuda"
    model = said.get("model") or {}
    found["model"] = model.get("name") or model.get("model_name")
    found |= {"image": "not named"} if "strength" in found else {}
    found |= {"seamless": axes} if (axes := seamless_axes(said)) else {}
    unread = [f"{name}: {json.dumps(value)}" for name, value in said.items() if name not in SAY_NOTHING and value]
    return as_said({"negative_prompt": ""} | found), unread


def seamless_axes(said: Mapping[str, Any]) -> str | None:
    """Along which axes a picture of InvokeAI tiles."""
    return {(True, True): "both", (True, False): "x", (False, True): "y"}.get(
        (bool(said.get("seamless_x")), bool(said.get("seamless_y")))
    )


def with_schedule(name: str, schedule: str) -> str:
    """A sampler of ComfyUI with its schedule behind it, where it takes one; one that is not known keeps its name."""
    try:
        return f"{name} {schedule}" if takes_schedules(find_sampler(name)) else name
    except InputError:
        return name


def as_said(found: Mapping[str, Any]) -> dict[str, str]:
    """Settings as texts, but for those that are not said."""
    return {name: str(value) for name, value in found.items() if value is not None}


READERS: dict[str, Callable[[str], Settings]] = {"invokeai_metadata": read_invoke, "prompt": read_comfy}


def read_others(texts: Mapping[str, str]) -> Settings | None:
    """The settings of another program's picture, from its texts; None where they are of none that is read.

    Raises `InputError` for what can't be read.
    """
    for name, reader in READERS.items():
        if texts.get(name, "").lstrip().startswith("{"):
            try:
                return reader(texts[name])
            except (KeyError, TypeError, AttributeError) as error:
                raise InputError(f"the text {name!r} is not what its program writes: {error!r}") from None
    return None
