"""From a path to a model that is ready to compute."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tinyldm.checkpoints.embedded import embedded
from tinyldm.checkpoints.opening import open_checkpoint
from tinyldm.checkpoints.recognised import Recognised
from tinyldm.errors import CheckpointError
from tinyldm.models.build import MODELS
from tinyldm.pipelines.adapters import (
    CONTROLS,
    FIRST_STAGES,
    IMAGE_ENCODER,
    AppliedLora,
    Paths,
    Scaled,
    add_controlnets,
    add_ip_adapters,
    add_words,
    merge_loras,
    replace_text_encoder,
    replace_vae,
)
from tinyldm.pipelines.conditioners import choose_conditioner
from tinyldm.pipelines.control import check_fits
from tinyldm.pipelines.image_prompt import check_image_prompt
from tinyldm.pipelines.model import LatentDiffusion
from tinyldm.pipelines.parts import Parts
from tinyldm.runtime import Runtime
from tinyldm.text.clip_tokenizer import Tokenizer
from tinyldm.text.tokenizer_folder import usual_tokenizer
from tinyldm.text.wordpiece import WordPiece

# The classes that a component may have, and which components there may be.
CLASSES = {
    "unet": ("UNet2DConditionModel", "UNet2DModel"),
    "vae": FIRST_STAGES,
    "class_embedder": ("ClassEmbedder",),
    "controlnet": CONTROLS,
    "image_encoder": (IMAGE_ENCODER,),
    "ip_adapter": ("IPAdapter",),
    "spatial_rescaler": ("SpatialRescaler",),
    "text_encoder": ("CLIPTextModel", "LDMBertModel", "CLIPTextModelWithProjection"),
    "text_encoder_2": ("CLIPTextModelWithProjection",),
}
TOKENIZERS: dict[str, type[Tokenizer] | type[WordPiece]] = {
    "CLIPTokenizer": Tokenizer,
    "CLIPTokenizerFast": Tokenizer,
    "BertTokenizer": WordPiece,
    "BertTokenizerFast": WordPiece,
}
# The published pipelines of text models that take the schedule as it is.
AS_PUBLISHED = ("StableDiffusionXL", "LatentConsistencyModel", "LDMTextToImage")
RETRIEVAL = "ldm-retrieval-768"  # the family whose context is CLIP's embedding of a text or of pictures
Tokenizers = dict[str, Tokenizer | WordPiece]  # by the names of their folders


def load(
    path: str | Path | None = None,
    *,
    backend: str | None = None,
    dtype: str | type | np.dtype = "float32",
    precision: str | None = None,
    threads: int | None = None,
    low_memory: bool = False,
    variant: str | None = None,
    config: Mapping[str, Mapping[str, Any]] | None = None,
    prediction_type: str | None = None,
    ema: bool | None = None,
    vae: str | Path | None = None,
    text_encoder: str | Path | None = None,
    loras: Iterable[Scaled] = (),
    words: Iterable[str | Path] = (),
    controlnet: Paths = (),
    ip_adapter: Paths = (),
    image_encoder: str | Path | None = None,
) -> LatentDiffusion:
    """Open a checkpoint: a published folder, a single file, or the name of one on the Hugging Face hub.

    Without `path`, the one that the package carries, `"emoji"`; its sisters go by their names (`"emoji-pixels"`). A
    name on the hub (`owner/name`) needs the package `huggingface_hub`. A first stage alone encodes and decodes.

    `backend` is `"numba"` (the default; float32) or `"reference"` (float32 or float64); `precision` `"fast"`,
    `"strict"` or `"bf16"` (products of values rounded to bfloat16) and `threads` are the Numba backend's; `low_memory`
    reads weights anew each time instead of keeping them. The environment variables `TINYLDM_BACKEND`,
    `TINYLDM_PRECISION` and `TINYLDM_THREADS` stand in for arguments that are not given.
    `variant` prefers the weight files of a folder with that word in their names (`"fp16"`). `config`
    overrides fields of what was found (`{"unet": {…}}`, or the published config of one component, which its class
    tells), `prediction_type` what the schedule says. Of a single file, `ema` chooses the running average of the weights
    or the plain ones. `notes` tell what was assumed.

    `vae` takes the autoencoder from another checkpoint (a tiny one makes pictures sooner), `text_encoder` the text
    encoder (the retrieval-augmented model is published without one), `loras` merges LoRA files, each alone or with a
    scale `(path, 0.8)` that `scale_loras` changes later, `words` adds what textual inversion has learned, and
    `controlnet` is what `controlled` guides the UNet with (ControlNets, T2I-Adapters), one or several, and `ip_adapter`
    what `prompted_by` reads pictures by, with the `image_encoder` of a folder, or the one beside the adapter's file.

    Files are memory-mapped and read when a weight is first used. Raises `CheckpointError` or `ConfigError` for what
    is wrong with the checkpoint, `InputError` for an argument that can't be honoured.
    """
    runtime = Runtime.choose(backend, dtype, precision, threads, low_memory)
    path = embedded() if path is None else path
    found = open_checkpoint(path, variant=variant, prediction_type=prediction_type, ema=ema, config=config)
    if vae or text_encoder or controlnet or ip_adapter or image_encoder:
        put_on_top(found, vae, text_encoder, controlnet, ip_adapter, image_encoder)
    if len(found.components) == 1 and all(c.class_name in FIRST_STAGES for c in found.components.values()):
        found.components = {"vae": next(iter(found.components.values()))}
        return LatentDiffusion(built(found, runtime, {}, {}))
    check_components(found)
    tokenizers, options = folder_extras(found) if found.family == "folder" else file_extras(found)
    applied = merge_loras(found, loras) if loras else []
    if words:
        add_words(found, tokenizers, words)
    parts = built(found, runtime, tokenizers, options, applied)
    check_together(parts, vae)
    return LatentDiffusion(parts)


def built(
    found: Recognised,
    runtime: Runtime,
    tokenizers: Tokenizers,
    options: Mapping[str, Any],
    loras: Iterable[AppliedLora] = (),
) -> Parts:
    """The parts of a checkpoint: a network of each component, and what makes their conditions."""
    networks = {name: MODELS[c.class_name](c.config, c.source, runtime) for name, c in found.components.items()}
    scheduler, notes, embeds_text = dict(found.scheduler or {}), list(found.notes), found.family == RETRIEVAL
    if isinstance(tokenizers.get("tokenizer"), Tokenizer) and not found.title.startswith(AS_PUBLISHED):
        scheduler = as_pipeline_does(scheduler, notes)
    return Parts(
        path=found.path,
        networks=networks,
        tokenizers=tokenizers,
        scheduler_config=scheduler,
        runtime=runtime,
        conditioner=choose_conditioner(found.path, networks, tokenizers, options, networks.get("unet"), embeds_text),
        vae=networks["vae"],
        predictor=networks.get("unet"),
        embeds_text=embeds_text,
        options=options,
        notes=tuple(notes),
        loras=tuple(loras),
    )


def put_on_top(
    found: Recognised,
    vae: str | Path | None,
    text_encoder: str | Path | None,
    controlnet: Paths,
    ip_adapter: Paths,
    image_encoder: str | Path | None,
) -> None:
    """Take components from other checkpoints, those that are given."""
    others: Any = (vae, replace_vae), (text_encoder, replace_text_encoder), (controlnet, add_controlnets)
    for given, put in others:
        if given:
            put(found, given)
    if ip_adapter or image_encoder:
        add_ip_adapters(found, ip_adapter, image_encoder)


def check_components(found: Recognised) -> None:
    """Raise `CheckpointError` unless the components are those of latent diffusion, each of a class that it has."""
    path, has = found.path, ", ".join(found.components) or "nothing"
    kind = found.components["unet"].class_name if "unet" in found.components else ""
    conditioned = any(name.startswith(("text_encoder", "class_embedder")) for name in found.components)
    attends = kind == "UNet2DConditionModel" and found.family != RETRIEVAL
    for name in ("unet", "vae", *(["text_encoder"] if attends and not conditioned else [])):
        if name not in found.components:
            raise CheckpointError(f"{path}: is {found.title} and has {has}; sampling wants a {name} as well")
    for name, component in found.components.items():
        part = name.rstrip("_0123456789") if name.startswith(("controlnet", "ip_adapter")) else name
        if part not in CLASSES:
            raise CheckpointError(f"{path}: is {found.title}, whose {name} has no part in making pictures")
        if component.class_name not in CLASSES[part]:
            wanted = ", ".join(CLASSES[part])
            raise CheckpointError(f"{path}: the {name} is a {component.class_name}; sampling takes {wanted}")
    if found.scheduler is None:
        raise CheckpointError(f"{path}: has no scheduler, so the noise that the UNet was trained on is not known")


def check_together(parts: Parts, vae: object) -> None:
    """Raise `CheckpointError` unless the networks belong together; `vae` came from elsewhere."""
    networks = parts.networks
    for name, network in networks.items():
        if name.startswith("controlnet"):
            check_fits(network, networks["unet"], network.weights.source.path)
        if name.startswith("ip_adapter"):
            check_image_prompt(network, networks["image_encoder"], networks["unet"], network.weights.source.path)
    predicted, coded = networks["unet"].config.out_channels, networks["vae"].latent_channels
    if predicted != coded:
        whose = f"{parts.path}: its first stage" if vae is None else f"{vae}: a first stage that"
        raise CheckpointError(f"{whose} has latents of {coded} channels; the UNet predicts {predicted}")


def folder_extras(found: Recognised) -> tuple[Tokenizers, dict[str, Any]]:
    """The tokenizers of a published folder, and the options of its pipeline."""
    tokenizers: Tokenizers = {}
    for name, class_name in found.tokenizers.items():
        if class_name not in TOKENIZERS:
            supported = ", ".join(TOKENIZERS)
            raise CheckpointError(f"{found.path}: the {name} is a {class_name}; supported: {supported}")
        tokenizers[name] = TOKENIZERS[class_name].load(found.path / name)
    if not tokenizers and any(name.startswith("text_encoder") for name in found.components):
        raise CheckpointError(f"{found.path / 'model_index.json'}: has no component 'tokenizer'")
    return tokenizers, found.pipeline


def file_extras(found: Recognised) -> tuple[Tokenizers, dict[str, Any]]:
    """A single file has no tokenizer, so CLIP's and BERT's are the package's own; options as the family has them.

    What it was recognised as is the first of its notes.
    """
    found.notes.insert(0, f"recognised as {found.title}")
    first, second = found.components.get("text_encoder"), found.components.get("text_encoder_2")
    encoders = {"tokenizer": first, "tokenizer_2": second}
    usual_ones = {name: usual_tokenizer(encoder) for name, encoder in encoders.items() if encoder is not None}
    known = {name: tokenizer for name, tokenizer in usual_ones.items() if tokenizer is not None}
    usual = {"force_zeros_for_empty_prompt": bool(first), "requires_aesthetics_score": not first}
    return known, usual | found.pipeline


def as_pipeline_does(scheduler: Mapping[str, Any], notes: list[str]) -> dict[str, Any]:
    """The schedule as the original's pipelines correct it in old files, which were published with other defaults.

    Latents are not clipped to [-1, 1], and the first step is one later than `leading` spacing has it.
    """
    scheduler = dict(scheduler)
    for name, right in (("clip_sample", False), ("steps_offset", 1)):
        if scheduler.get(name, right) != right:
            notes.append(f"scheduler: {name} {scheduler[name]} is taken as {right}, as the original's pipelines do")
            scheduler[name] = right
    return scheduler
