"""The configuration file of the original layout, which lies beside a checkpoint under its name: `NAME.yaml`.

Of CompVis' form (`model.params` has `linear_start`, `parameterization`, …) and of Stability's for XL
(`denoiser_config`) it is read what names and shapes of the weights do not tell: the noise schedule, what the UNet
predicts, the scale of the latents, how attention is divided, which layer of the text encoder is taken.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from tinyldm.checkpoints.base import quoted
from tinyldm.checkpoints.families import Heads
from tinyldm.checkpoints.stated import PREDICTIONS, Stated
from tinyldm.errors import CheckpointError

# The names of a schedule's form there, where it is a line in the square root of beta that is called linear.
BETA_SCHEDULES = {"linear": "scaled_linear", "sqrt_linear": "linear", "cosine": "squaredcos_cap_v2"}
SCHEDULE = {"linear_start": "beta_start", "linear_end": "beta_end", "timesteps": "num_train_timesteps"}
SCALINGS = {"EpsScaling": "epsilon", "VScaling": "v_prediction"}
MAX_CONFIG = 1_000_000  # bytes
LINE = re.compile(r"(?P<indent> *)(?P<item>- +)?(?:(?P<key>[\w.$]+):(?: +|$))?(?P<value>.*)")


def stated_by_config(path: Path) -> Stated:
    """What the file of a checkpoint's name and the suffix `.yaml` states; nothing where there is none.

    Raises `CheckpointError` for a schedule that is not supported, and for a value of another type.
    """
    file = path.with_suffix(".yaml")
    if not file.is_file() or file == path or file.stat().st_size > MAX_CONFIG:
        return Stated()
    whole = parse_yaml(file.read_text(encoding="utf-8", errors="replace"))
    params = entry(whole, "model", "params")
    if not params:
        return Stated()
    predicted = prediction(params, file)
    stated = Stated({"prediction_type": predicted}, notes=[f"prediction type {predicted} is stated by {file.name}"])
    for original, name in SCHEDULE.items():
        if original in params:
            stated.scheduler[name] = number(params[original], original, file)
    if (form := params.get("beta_schedule")) is not None:
        if form not in BETA_SCHEDULES:
            raise CheckpointError(f"{file}: the beta_schedule {quoted(form)} is not supported")
        stated.scheduler["beta_schedule"] = BETA_SCHEDULES[form]
    if "scale_factor" in params and not params.get("scale_by_std"):
        stated.components["vae"] = {"scaling_factor": number(params["scale_factor"], "scale_factor", file)}
    unet = entry(params, "unet_config", "params") or entry(params, "network_config", "params")
    if isinstance(channels := unet.get("num_head_channels"), int) and channels > 0:
        stated.heads = Heads(channels=channels)
    elif isinstance(count := unet.get("num_heads"), int) and count > 0:
        stated.heads = Heads(count=count)
    if isinstance(layer := entry(params, "cond_stage_config", "params").get("layer"), str):
        stated.penultimate = layer == "penultimate"
    return stated


def prediction(params: dict[str, Any], file: Path) -> str:
    """What the UNet predicts; epsilon where nothing is said, as in the original."""
    scaling = entry(params, "denoiser_config", "params", "scaling_config").get("target")
    if scaling is not None:
        name = str(scaling).rpartition(".")[2]
        if name not in SCALINGS:
            raise CheckpointError(f"{file}: states the scaling {quoted(name)}, an EDM schedule that is not supported")
        return SCALINGS[name]
    name = str(params.get("parameterization", "eps"))
    if name not in PREDICTIONS:
        raise CheckpointError(f"{file}: the parameterization {quoted(name)} is not supported")
    return PREDICTIONS[name]


def number(value: Any, name: str, file: Path) -> float:
    """A number of the file. Raises `CheckpointError` for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise CheckpointError(f"{file}: {name} must be a number, not {quoted(value)}")
    return value


def entry(value: Any, *keys: str) -> dict[str, Any]:
    """A mapping inside of mappings; an empty one where it is not there."""
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value if isinstance(value, dict) else {}


# The part of YAML that such files use: mappings and lists by indentation, lists in brackets, plain scalars ------------


def parse_yaml(text: str) -> dict[str, Any]:
    """A file of mappings by indentation; what is written in another way is passed over."""
    lines = [re.sub(r"(?:^|\s)#.*$", "", line.replace("\t", "  ")).rstrip() for line in text.splitlines()]
    try:
        found, _ = parse_block([line for line in lines if line.strip()], 0, -1)
    except RecursionError:
        return {}
    return found if isinstance(found, dict) else {}


def parse_block(lines: list[str], position: int, outer: int) -> tuple[Any, int]:
    """The value of the lines that are indented more than `outer`, and where the next one begins."""
    mapping: dict[str, Any] = {}
    items: list[Any] = []
    indent = None
    while position < len(lines):
        line = LINE.fullmatch(lines[position])
        assert line is not None  # it matches anything
        own = len(line["indent"])
        indent = own if indent is None else indent
        if own <= outer or own != indent or (items and not line["item"]):
            break
        if line["item"]:
            # An item of a list: its first line stands where the rest of the item is indented to.
            lines[position] = " " * (own + len(line["item"])) + lines[position][own + len(line["item"]) :]
            value, position = parse_item(lines, position, own)
            items.append(value)
        elif line["key"] is None:
            position += 1
        elif line["value"]:
            mapping[line["key"]] = scalar(line["value"])
            position += 1
        else:
            listed = position + 1 < len(lines) and lines[position + 1].lstrip().startswith("- ")
            mapping[line["key"]], position = parse_block(lines, position + 1, own - 1 if listed else own)
    return items or mapping, position


def parse_item(lines: list[str], position: int, outer: int) -> tuple[Any, int]:
    """An item of a list: a scalar, or a mapping."""
    line = LINE.fullmatch(lines[position])
    if line is not None and line["key"] is None:
        return scalar(line["value"]), position + 1
    return parse_block(lines, position, outer)


def scalar(text: str) -> Any:
    """A number, a truth value, a text, or a list of them in brackets."""
    text = text.strip()
    if text.startswith("[") and text.endswith("]"):
        return [scalar(part) for part in text[1:-1].split(",") if part.strip()]
    if text[:1] in ("'", '"') and text[-1:] == text[:1]:
        return text[1:-1]
    named = {"true": True, "false": False, "null": None, "~": None}
    if text.lower() in named:
        return named[text.lower()]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
