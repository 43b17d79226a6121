"""A checkpoint written as the published folder: its index, and for each component a folder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from tinyldm.checkpoints.names.published import PREFIXES, VISION
from tinyldm.checkpoints.opening import ALIASES
from tinyldm.checkpoints.recognised import Component, Recognised
from tinyldm.checkpoints.safetensors import write_tensors
from tinyldm.checkpoints.temporary import held, temporary_for, writing

METADATA = {"format": "pt"}  # of a safetensors file; without it the original libraries refuse it

TokenizerFolder = tuple[str, dict[str, str]]  # the class of a tokenizer, and its files' texts by name


class Tokenizers(NamedTuple):
    """What is known of tokenizers elsewhere (`text.tokenizer_folder`).

    `folder_of` is the folder of a text encoder's usual tokenizer, None where there is none for it; `is_usual` whether
    a folder holds that one.
    """

    folder_of: Callable[[Component], TokenizerFolder | None]
    is_usual: Callable[[Component, Path], bool]


# The class that a folder of a family is published for; of the others each component loads by itself.
PIPELINES = {
    "stable-diffusion-1": "StableDiffusionPipeline",
    "stable-diffusion-1-inpainting": "StableDiffusionInpaintPipeline",
    "stable-diffusion-2": "StableDiffusionPipeline",
    "stable-diffusion-2-inpainting": "StableDiffusionInpaintPipeline",
    "stable-diffusion-xl": "StableDiffusionXLPipeline",
    "stable-diffusion-xl-refiner": "StableDiffusionXLImg2ImgPipeline",
    "ldm-text2img-256": "LDMTextToImagePipeline",
    "ldm-text2img-large": "LDMTextToImagePipeline",
}


def write_folder(destination: Path, found: Recognised, tag: str | None, source: Path, tokenizers: Tokenizers) -> None:
    """Write the published folder, whole or not at all; `source` is the folder or file that `found` is of."""
    temporary = temporary_for(destination)
    try:
        with writing(destination):
            temporary.mkdir(parents=True)
            with held(temporary):
                if len(found.components) == 1:
                    write_component(temporary, next(iter(found.components.values())), tag)
                else:
                    write_pipeline(temporary, found, tag, source, tokenizers)
                temporary.rename(destination)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_pipeline(folder: Path, found: Recognised, tag: str | None, source: Path, tokenizers: Tokenizers) -> None:
    """Write the index, the schedule, the tokenizers and all components."""
    index: dict[str, Any] = {"_class_name": PIPELINES.get(found.family, "DiffusionPipeline")} | found.pipeline
    if found.family == "folder":
        index = json.loads((source / "model_index.json").read_text(encoding="utf-8"))
        for name in index:
            if (source / name).is_dir() and ALIASES.get(name, name) not in found.components:
                shutil.copytree(source / name, folder / name)
    else:
        index |= write_tokenizers(folder, found, tokenizers)
        if found.scheduler is not None:
            index["scheduler"] = ["diffusers", found.scheduler.get("_class_name", "DDIMScheduler")]
            (folder / "scheduler").mkdir()
            write_json(folder / "scheduler" / "scheduler_config.json", found.scheduler)
    published = {ALIASES.get(name, name): name for name in index}
    if str(index["_class_name"]).startswith("LDM"):
        published = {name: alias for alias, name in ALIASES.items()} | published
    for name, component in found.components.items():
        place = published.get(name, name)
        (folder / place).mkdir()
        write_component(folder / place, component, tag)
        index.setdefault(place, [library_of(component.class_name), component.class_name])
    pipeline = str(index.get("_class_name"))
    if pipeline.startswith("StableDiffusion") and "XL" not in pipeline:
        index = {"safety_checker": [None, None], "feature_extractor": [None, None]} | index
        index.setdefault("requires_safety_checker", False)
    write_json(folder / "model_index.json", index)


def library_of(class_name: str) -> str:
    """The library that a class is of, as the index names it."""
    if class_name == "LDMBertModel":
        return "latent_diffusion"
    return "transformers" if class_name.startswith("CLIP") else "diffusers"


def write_component(folder: Path, component: Component, tag: str | None) -> None:
    """Write a component's config and its weights under the names of its published folder."""
    kind, source = component.class_name, component.source
    prefix = VISION if kind.startswith("CLIPVision") else PREFIXES.get(kind, "")
    write_json(folder / "config.json", component.config if prefix else {"_class_name": kind} | component.config)
    bare = ("text_projection.", "visual_projection.")
    tensors = {n if n.startswith(bare) else prefix + n: (source, n) for n in source.names}
    stem = "model" if prefix else "diffusion_pytorch_model"
    write_tensors(folder / f"{stem}.safetensors", tensors, tag, METADATA)


def write_tokenizers(folder: Path, found: Recognised, tokenizers: Tokenizers) -> dict[str, list[str]]:
    """Write the tokenizer of each text encoder that has one; returns their entries in the index."""
    index = {}
    for name, component in found.components.items():
        if name.startswith("text_encoder") and (tokenizer := tokenizers.folder_of(component)):
            class_name, files = tokenizer
            place = name.replace("text_encoder", "tokenizer")
            (folder / place).mkdir()
            for file, text in files.items():
                (folder / place / file).write_text(text, encoding="utf-8")
            index[place] = ["transformers", class_name]
    return index


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file as published ones look."""
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
