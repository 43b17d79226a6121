"""Settings as the web interface of AUTOMATIC1111 writes them (`parameters`), which other tools read and write, too.

    red apple
    Negative prompt: blurry
    Steps: 25, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 7.5, Seed: 5, Size: 512x512, Model: v1-5, RNG: CPU

The prompt may have several lines. A value with a comma, a colon or a line break is quoted as JSON.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from tinyldm.diffusion.samplers.registry import FIELDS, SAMPLERS, find_sampler, takes_schedules
from tinyldm.errors import InputError

NEGATIVE = "Negative prompt:"
SAMPLER_LABELS = {
    "ddim": "DDIM",
    "dpm++_2m": "DPM++ 2M",
    "dpm++_2m_sde": "DPM++ 2M SDE",
    "dpm++_2s_a": "DPM++ 2S a",
    "dpm++_3m_sde": "DPM++ 3M SDE",
    "dpm++_sde": "DPM++ SDE",
    "dpm2": "DPM2",
    "dpm2_a": "DPM2 a",
    "euler": "Euler",
    "euler_a": "Euler a",
    "heun": "Heun",
    "lcm": "LCM",
    "lms": "LMS",
    "pndm": "PLMS",
    "unipc": "UniPC",
}
SCHEDULE_LABELS = {
    "karras": "Karras",
    "exponential": "Exponential",
    "beta": "Beta",
    "uniform": "Uniform",  # and "Normal", which goes down the same levels
    "sgm_uniform": "SGM Uniform",
    "simple": "Simple",
    "kl_optimal": "KL Optimal",
    "align_your_steps_xl": "Align Your Steps",
    "align_your_steps": "Align Your Steps",  # which of the two is meant depends on the model; read as the latter
}
# The schedules that "Automatic" stands for, where that is not the uniform one.
AUTOMATIC = {
    "dpm++_2m": "karras",
    "dpm++_sde": "karras",
    "dpm++_2s_a": "karras",
    "dpm2": "karras",
    "dpm2_a": "karras",
    "dpm++_2m_sde": "exponential",
    "dpm++_3m_sde": "exponential",
}
WITHOUT_SCHEDULE = ("ddim", "pndm")  # in the web interface, too, whatever the schedule beside them
BROWNIAN = ("dpm++_2m_sde", "dpm++_3m_sde")  # take their noise from one path there, plain noise here
# Labels of settings under other names here; `settings` of a picture, and options of its sampler.
LABELS = {"Steps": "steps", "CFG scale": "guidance_scale", "Seed": "seed", "Model": "model"}
LABELS |= {"Denoising strength": "strength", "Guidance rescale": "guidance_rescale", "Clip skip": "clip_skip"}
LABELS |= {"Variation seed": "variation_seed", "Variation seed strength": "variation_strength"}
OPTION_LABELS = {"Eta": "eta", "Eta DDIM": "eta", "Sigma churn": "s_churn", "Sigma tmin": "s_tmin"}
OPTION_LABELS |= {"Sigma tmax": "s_tmax", "Sigma noise": "s_noise"}
OPTION_LABELS |= {"Schedule min sigma": "sigma_min", "Schedule max sigma": "sigma_max"}
TILING = "Tiling"  # along both axes
STREAMS = {"CPU": "torch", "GPU": "cuda", "NV": "cuda", "NumPy": "numpy"}
# What says nothing of how the picture was made that the others don't.
SILENT = ("Version", "User", "Model hash", "VAE hash", "Hashes", "Lora hashes", "TI hashes", "Init image hash")
PAIR = re.compile(r'\s{0,9}(\w[\w \-/]{1,60}):\s{0,9}("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')
LEAST_PAIRS = 3  # on the last line, so that it is one of settings and not of the prompt


def infotext(settings: Mapping[str, Any]) -> str:
    """The text of a picture's settings, `Request.settings` and what else its file says, under the labels of the web."""
    said = dict(settings)
    prompt, negative = said.pop("prompt", None) or "", said.pop("negative_prompt", "")
    syntax = said.pop("prompt_syntax", "plain")
    options, version = dict(said.pop("sampler_options", {})), said.pop("Software", None)
    size, rng = f"{said.pop('width', 0)}x{said.pop('height', 0)}", said.pop("rng", "torch")
    pairs: dict[str, Any] = {"Steps": said.pop("steps", None)} | sampler_labels(said.pop("sampler", ""), options)
    pairs |= {"CFG scale": said.pop("guidance_scale", None), "Seed": said.pop("seed", None), "Size": size}
    pairs |= {label: said.pop(name) for label, name in LABELS.items() if name in said}
    pairs["RNG"] = next((label for label, stream in STREAMS.items() if stream == rng), rng)
    pairs |= {} if syntax == "webui" else {"Prompt syntax": syntax}
    pairs |= {TILING: "True"} if said.get("seamless") == "both" and said.pop("seamless") else {}
    of_web = {option: label for label, option in reversed(OPTION_LABELS.items())}
    pairs |= {of_web.get(str(option), str(option)): value for option, value in options.items()}
    pairs |= {name.replace("_", " ").capitalize(): value for name, value in said.items()} | {"Version": version}
    line = ", ".join(f"{label}: {quoted(value)}" for label, value in pairs.items() if value is not None)
    return "\n".join([prompt, *([f"{NEGATIVE} {negative}"] if negative else []), line])


def sampler_labels(name: str, options: dict[str, Any]) -> dict[str, str | None]:
    """The labels of a sampler and of its schedule, which may be one of the `options` and is taken out of them."""
    own, schedule = parted(find_sampler(name))
    schedule = options.pop("sigma_schedule", schedule)
    if schedule is None and own in SAMPLERS and takes_schedules(own) and "sigmas" not in options:
        schedule = "uniform"
    return {"Sampler": SAMPLER_LABELS.get(own, own), "Schedule type": SCHEDULE_LABELS.get(str(schedule))}


def parted(name: str) -> tuple[str, str | None]:
    """A sampler's own name and the schedule behind it, if there is one."""
    for schedule in SCHEDULE_LABELS:
        if name.removesuffix(f"_{schedule}") in SAMPLERS and name.endswith(f"_{schedule}"):
            return name.removesuffix(f"_{schedule}"), schedule
    return name, None


def quoted(value: Any) -> str:
    """A value, as JSON where it has what separates values."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return json.dumps(text, ensure_ascii=False) if re.search(r"[,:\n]", text) else text


def read_infotext(text: str) -> tuple[dict[str, str], list[str]]:
    """The settings that a text says, under their names here, and what it says that has none, as `label: value`.

    A sampler or a schedule that is not known here keeps its name. Raises `InputError` for a text that is none of this
    form.
    """
    lines = text.strip().split("\n")
    pairs: dict[str, str] = {}
    while lines and (len(pairs) < LEAST_PAIRS or "Sampler" not in pairs):  # what other programs add stands behind it
        pairs = {label: unquoted(value) for label, value in PAIR.findall(lines.pop())}
    if len(pairs) < LEAST_PAIRS or "Sampler" not in pairs:
        raise InputError("the picture's `parameters` have no line of settings (Steps: …, Sampler: …, Seed: …)")
    begins = next((i for i, line in enumerate(lines) if line.strip().startswith(NEGATIVE)), len(lines))
    negative = "\n".join(lines[begins:]).strip().removeprefix(NEGATIVE).strip()
    said = {"prompt": "\n".join(lines[:begins]).strip(), "negative_prompt": negative, "guidance_scale": "7.0"}
    second = any(label.startswith("Hires") for label in pairs)  # a pass, whose strength it is
    said |= {LABELS[k]: pairs.pop(k) for k in LABELS if k in pairs and not (second and LABELS[k] == "strength")}
    said |= {"image": "not named"} if "strength" in said else {}
    said |= {"seamless": "both"} if pairs.get(TILING) == "True" and pairs.pop(TILING) else {}
    size = re.fullmatch(r"(\d+)x(\d+)", pairs.pop("Size", ""))
    said |= {"width": size[1], "height": size[2]} if size else {}
    rng = pairs.pop("RNG", "GPU")
    said["rng"] = STREAMS.get(rng, rng)
    said["prompt_syntax"] = pairs.pop("Prompt syntax", "webui")
    said["sampler"], options = read_sampler(pairs)
    said |= {"sampler_options": json.dumps(options)} if options else {}
    return said, [f"{label}: {value}" for label, value in pairs.items() if label not in SILENT]


def unquoted(value: str) -> str:
    """A value without the quotes that JSON put about it."""
    try:
        return str(json.loads(value)) if value.startswith('"') else value.strip()
    except ValueError:
        return value


def read_sampler(pairs: dict[str, str]) -> tuple[str, dict[str, Any]]:
    """The sampler with its schedule, and its options, whose pairs are taken out.

    Without a schedule, a sampler of the web interface goes down uniform levels; "Automatic" is each one's own.
    """
    label, asked = pairs.pop("Sampler"), pairs.pop("Schedule type", "Uniform")
    options: dict[str, Any] = {}
    if label.startswith("DPM++ 2M SDE Heun"):
        label, options["solver_type"] = label.replace(" Heun", ""), "heun"
    try:
        name = find_sampler(label)
    except InputError:
        return label, {}
    own, of_name = parted(name)
    for option in [option for option in OPTION_LABELS if option in pairs]:
        if OPTION_LABELS[option] in FIELDS[SAMPLERS[own].sampler]:
            options[OPTION_LABELS[option]] = number(option, pairs.pop(option))
    if own in BROWNIAN and not pairs.get("Version", "").startswith("tinyldm"):
        options["brownian"] = True
    if of_name is not None:
        return name, options
    if not takes_schedules(own):
        pairs |= {} if own in WITHOUT_SCHEDULE or asked in ("Automatic", "Uniform") else {"Schedule type": asked}
        return name, options
    known = {shown: schedule for schedule, shown in SCHEDULE_LABELS.items()}
    known |= {"Automatic": AUTOMATIC.get(own, "uniform"), "Normal": "uniform"}
    return (f"{own}_{known[asked]}" if asked in known else f"{label} {asked}"), options


def number(label: str, value: str) -> float:
    """The number that a value is."""
    try:
        return float(value)
    except ValueError:
        raise InputError(f"{label} must be a number, not {value!r}") from None
