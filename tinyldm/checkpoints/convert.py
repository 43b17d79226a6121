"""`tinyldm convert`: a checkpoint in any layout to the published folder, or to one safetensors file."""

from __future__ import annotations

import json
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tinyldm.checkpoints.base import TensorSource
from tinyldm.checkpoints.families import Heads
from tinyldm.checkpoints.hub import local
from tinyldm.checkpoints.names.autoencoder import autoencoder_links
from tinyldm.checkpoints.names.links import LinkedSource
from tinyldm.checkpoints.names.text import bert_links, openclip_links
from tinyldm.checkpoints.names.unet import controlnet_links, unet_links
from tinyldm.checkpoints.opening import ALIASES, open_checkpoint
from tinyldm.checkpoints.recognise import Component, Recognised
from tinyldm.checkpoints.safetensors import SafetensorsWriter
from tinyldm.errors import CheckpointError, InputError
from tinyldm.text.clip_tokenizer import Tokenizer
from tinyldm.text.wordpiece import WordPiece

TAGS = {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "float64": "F64"}
FLOATING = frozenset(TAGS.values())
METADATA = {"format": "pt"}  # without it the original libraries refuse the file

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
BERT_WORDS = 30522  # entries of BERT's vocabulary; the layout model's text encoder reads boxes, not words
LIBRARIES = {"LDMBertModel": "latent_diffusion"}  # of the classes that are of neither library


def convert(
    source: str | Path,
    destination: str | Path,
    dtype: str | None = None,
    *,
    variant: str | None = None,
    prediction_type: str | None = None,
    ema: bool | None = None,
    config: Any = None,
) -> Recognised:
    """Write a checkpoint anew: to a file in original names if `destination` ends in `.safetensors`, else to a folder.

    `dtype` rounds floating tensors to `float32`, `float16` or `bfloat16`; without it every tensor keeps its type and
    its bytes. A file with a single component keeps canonical names. Returns what the source was recognised as.

    Raises `InputError` for an unknown dtype or a destination that exists, `CheckpointError` for the source.
    """
    destination = Path(destination)
    if dtype is not None and dtype not in TAGS:
        raise InputError(f"dtype {dtype!r} is unknown; known are {', '.join(TAGS)}")
    if destination.exists():
        raise InputError(f"{destination}: exists already; convert writes nothing over")
    source = local(source, variant)
    found = open_checkpoint(source, variant=variant, prediction_type=prediction_type, ema=ema, config=config)
    tag = TAGS[dtype] if dtype else None
    if destination.suffix == ".safetensors":
        write_file(destination, original_tensors(found), tag)
    else:
        write_folder(destination, found, tag, source)
    return found


# One file in original names ------------------------------------------------------------------------------------------


def original_tensors(found: Recognised) -> dict[str, tuple[TensorSource, str]]:
    """Every tensor under its name in the original layout: which view holds it, and under which name there."""
    views = dict(original_views(found))
    return {prefix + name: (view, name) for prefix, view in views.items() for name in view.names}


def original_views(found: Recognised) -> Iterator[tuple[str, TensorSource]]:
    """Prefix and view of each component in original names; of a single component, its canonical names."""
    if len(found.components) == 1:
        yield "", next(iter(found.components.values())).source
        return
    two = "text_encoder_2" in found.components
    for name, component in found.components.items():
        source, kind = component.source, component.class_name
        if name == "unet":
            links = unet_links(source.names, "canonical", heads_of(component), source.shape)
            yield "model.diffusion_model.", LinkedSource(source, links, to="original")
        elif kind in ("AutoencoderKL", "VQModel"):
            links = autoencoder_links(source.names, "canonical")
            yield "first_stage_model.", LinkedSource(source, links, to="original")
        elif kind == "LDMBertModel":
            links = bert_links(source.names, "canonical")
            yield "cond_stage_model.transformer.", LinkedSource(source, links, to="original")
        elif name == "text_encoder_2" or component.config.get("hidden_act") == "gelu":
            links = openclip_links(source.names, "canonical", projected="text_projection.weight" in source)
            place = f"conditioner.embedders.{int('text_encoder' in found.components)}" if two else "cond_stage_model"
            yield f"{place}.model.", LinkedSource(source, links, to="original")
        elif kind == "CLIPTextModel":
            yield ("conditioner.embedders.0" if two else "cond_stage_model") + ".transformer.text_model.", source
        elif kind == "ControlNetModel":
            links = controlnet_links(source.names, "canonical", source.shape)
            yield "control_model.", LinkedSource(source, links, to="original")
        elif kind in ("ClassEmbedder", "SpatialRescaler"):
            yield "cond_stage_model.", source
        else:
            raise CheckpointError(f"{source.path}: a {kind} has no place in a single file")


def heads_of(component: Component) -> Heads:
    """How a UNet divides its attention over pixels; of transformers it does not matter here."""
    if component.class_name != "UNet2DModel":
        return Heads(count=1)
    count = component.config.get("num_attention_heads")
    return Heads(count=count) if count else Heads(channels=component.config.get("attention_head_dim", 8))


# The published folder ------------------------------------------------------------------------------------------------


def write_folder(destination: Path, found: Recognised, tag: str | None, source: Path) -> None:
    """Write the published folder, whole or not at all."""
    temporary = destination.with_name(f".{destination.name}.{secrets.token_hex(4)}.tmp")
    try:
        temporary.mkdir(parents=True)
        if len(found.components) == 1:
            write_component(temporary, next(iter(found.components.values())), tag)
        else:
            write_pipeline(temporary, found, tag, source)
        temporary.rename(destination)
    except OSError as error:
        raise CheckpointError(f"{destination}: cannot be written: {error.strerror}") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_pipeline(folder: Path, found: Recognised, tag: str | None, source: Path) -> None:
    """Write the index, the schedule, the tokenizers and all components."""
    index: dict[str, Any] = {"_class_name": PIPELINES.get(found.family, "DiffusionPipeline")}
    if found.family == "folder":
        index = json.loads((source / "model_index.json").read_text(encoding="utf-8"))
        for name in index:
            if (source / name).is_dir() and ALIASES.get(name, name) not in found.components:
                shutil.copytree(source / name, folder / name)
    else:
        index |= write_tokenizers(folder, found)
        if found.scheduler is not None:
            index["scheduler"] = ["diffusers", found.scheduler["_class_name"]]
            (folder / "scheduler").mkdir()
            write_json(folder / "scheduler" / "scheduler_config.json", found.scheduler)
    names = {ALIASES.get(name, name): name for name in index}
    if index["_class_name"].startswith("LDM"):
        names = {ours: published for published, ours in ALIASES.items()} | names
    for name, component in found.components.items():
        place = names.get(name, name)
        (folder / place).mkdir()
        write_component(folder / place, component, tag)
        library = "transformers" if component.class_name.startswith("CLIP") else "diffusers"
        library = LIBRARIES.get(component.class_name, library)
        index.setdefault(place, [library, component.class_name])
    pipeline = str(index.get("_class_name"))
    if pipeline.startswith("StableDiffusion") and "XL" not in pipeline:
        index |= {"safety_checker": [None, None], "feature_extractor": [None, None]}
        index["requires_safety_checker"] = False
    write_json(folder / "model_index.json", index)


def write_component(folder: Path, component: Component, tag: str | None) -> None:
    """Write a component's config and its weights under the names of its published folder."""
    kind, source = component.class_name, component.source
    text = kind.startswith("CLIP")
    prefix = "text_model." if text else "model." if kind == "LDMBertModel" else ""
    config = component.config if text or kind == "LDMBertModel" else {"_class_name": kind} | component.config
    write_json(folder / "config.json", config)
    tensors = {n if n.startswith("text_projection.") else prefix + n: (source, n) for n in source.names}
    stem = "model" if text or kind == "LDMBertModel" else "diffusion_pytorch_model"
    write_file(folder / f"{stem}.safetensors", tensors, tag)


def write_tokenizers(folder: Path, found: Recognised) -> dict[str, list[str]]:
    """Write CLIP's tokenizer beside each CLIP text encoder; OpenCLIP's pads with the token of id 0."""
    index = {}
    for name, component in found.components.items():
        if component.class_name.startswith("CLIP"):
            place = name.replace("text_encoder", "tokenizer")
            pad = "!" if component.config.get("hidden_act") == "gelu" else "<|endoftext|>"
            (folder / place).mkdir()
            write_tokenizer(folder / place, pad)
            index[place] = ["transformers", "CLIPTokenizer"]
        elif component.class_name == "LDMBertModel" and component.config["vocab_size"] == BERT_WORDS:
            write_word_pieces(folder / "tokenizer", component.config["max_position_embeddings"])
            index["tokenizer"] = ["transformers", "BertTokenizer"]
    return index


def write_word_pieces(folder: Path, length: int) -> None:
    """Write BERT's vocabulary as `vocab.txt`, and how long a text is."""
    folder.mkdir()
    vocab = WordPiece.bert().vocab
    (folder / "vocab.txt").write_text("".join(f"{token}\n" for token in vocab), encoding="utf-8")
    write_json(
        folder / "tokenizer_config.json",
        {"tokenizer_class": "BertTokenizer", "model_max_length": length, "do_lower_case": True},
    )


def write_tokenizer(folder: Path, pad_token: str) -> None:
    """Write CLIP's vocabulary and merges as `vocab.json` and `merges.txt`, and how a text is padded."""
    tokenizer = Tokenizer.clip()
    write_json(folder / "vocab.json", tokenizer.vocab)
    merges = "\n".join(" ".join(pair) for pair in tokenizer.ranks)
    (folder / "merges.txt").write_text(f"#version: 0.2\n{merges}\n", encoding="utf-8")
    special = {
        "bos_token": tokenizer.bos_token,
        "eos_token": tokenizer.eos_token,
        "unk_token": tokenizer.unk_token,
        "pad_token": pad_token,
    }
    write_json(folder / "special_tokens_map.json", special)
    length = {"tokenizer_class": "CLIPTokenizer", "model_max_length": tokenizer.max_length, "do_lower_case": True}
    write_json(folder / "tokenizer_config.json", special | length)


# Tensors and JSON ----------------------------------------------------------------------------------------------------


def write_file(path: Path, tensors: dict[str, tuple[TensorSource, str]], tag: str | None) -> None:
    """Write tensors a piece at a time; `tag` is the type of floating ones, by default the one that each has."""
    declared = {}
    for name, (source, old) in tensors.items():
        stored = source.dtype(old)
        declared[name] = (tag if tag and stored in FLOATING else stored, source.shape(old))
    with SafetensorsWriter(path, declared, METADATA) as writer:
        for name, (source, old) in tensors.items():
            writer.write(name, source.read(old, None))
            source.release()


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file as published ones look."""
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
