"""What is put on top of a checkpoint before its models are built: another autoencoder, LoRAs, learned words."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tinyldm.checkpoints.hub import local, local_file
from tinyldm.checkpoints.learned_word import Inversion, extend_encoder, read_inversion
from tinyldm.checkpoints.lora import LoraSource, Strength, apply_lora
from tinyldm.checkpoints.lora_facts import distilled_for, open_lora
from tinyldm.checkpoints.opening import open_checkpoint
from tinyldm.checkpoints.partial_control import partial_control
from tinyldm.checkpoints.recognised import Component, Recognised, only_one
from tinyldm.checkpoints.source import open_source
from tinyldm.errors import CheckpointError, InputError
from tinyldm.models.image_encoder import ImageEncoder
from tinyldm.models.ip_adapter import IPAdapter
from tinyldm.pipelines.image_prompt import reads
from tinyldm.text.clip_tokenizer import Tokenizer
from tinyldm.text.learned_words import extend_tokenizer
from tinyldm.text.wordpiece import WordPiece

FIRST_STAGES = ("AutoencoderKL", "AutoencoderTiny", "AsymmetricAutoencoderKL", "VQModel", "Flow", "PixelScaling")
ADAPTED = ("unet", "text_encoder", "text_encoder_2")  # the components that a LoRA may change
IMAGE_ENCODER = "CLIPVisionModelWithProjection"
CONTROLS = ("ControlNetModel", "T2IAdapter")  # the networks that read a picture to guide the UNet
Paths = str | Path | Sequence[str | Path]  # one or several
Scaled = str | Path | tuple[str | Path, float]  # a LoRA file, and how strongly it is applied


def replace_vae(found: Recognised, path: str | Path) -> None:
    """Take the first stage from another checkpoint: the folder of one, or a file. Raises `CheckpointError`."""
    other = open_checkpoint(path)
    candidates = [c for name, c in other.components.items() if name == "vae" or c.class_name in FIRST_STAGES]
    vae, own = only_one(candidates, path, other, "a checkpoint with one autoencoder"), found.components.get("vae")
    if "scaling_factor" in other.assumed and own is not None:
        scale = own.config.get("scaling_factor", 0.18215)
        vae = replace(vae, config={**vae.config, "scaling_factor": scale})
        other.notes = [f"scaling factor {scale} is that of the checkpoint, as the file states none"]
    found.components["vae"] = vae
    found.notes += [f"vae: {note}" for note in other.notes]


def replace_text_encoder(found: Recognised, path: str | Path) -> None:
    """Take the text encoder from another checkpoint: the folder of one, or a file. Raises `CheckpointError`."""
    other = open_checkpoint(path)
    candidates = [c for c in other.components.values() if c.class_name.startswith("CLIPText")]
    encoder = only_one(candidates, path, other, "a checkpoint with one text encoder")
    unet = found.components.get("unet")
    if "class_embedder" in found.components or (unet is not None and unet.class_name == "UNet2DModel"):
        raise CheckpointError(f"{path}: {found.title} reads no text, so it takes no text encoder")
    found.components["text_encoder"] = encoder
    found.notes += [f"text encoder: {note}" for note in other.notes]


def add_ip_adapters(found: Recognised, paths: Paths, encoder: str | Path | None) -> None:
    """Take IP-Adapters from their files, `ip_adapter`, `ip_adapter_1`, …, and the image encoder that they read with.

    That is the one of `encoder`, or of the checkpoint, or else the one beside the first file that fits it. Raises
    `CheckpointError` for a file that is none, and where there is no encoder; `InputError` where there is no file.
    """
    if not paths:
        raise InputError("image_encoder is given without the ip_adapter that reads by it")
    files = {name: local(path) for name, path in named("ip_adapter", paths)}
    for name, file in files.items():
        found.components[name] = only_component(file, ("IPAdapter",), "an IP-Adapter")
    if encoder is not None:
        found.components["image_encoder"] = only_component(encoder, (IMAGE_ENCODER,), "an image encoder")
    elif "image_encoder" not in found.components:
        found.components["image_encoder"] = encoder_beside(files["ip_adapter"], found.components["ip_adapter"])


def encoder_beside(file: Path, adapter: Component) -> Component:
    """The image encoder in a folder by an IP-Adapter's file, as they are published. Raises `CheckpointError`."""
    wanted, beside = IPAdapter.read(adapter.config), file.absolute().parent
    for folder in (beside / "image_encoder", beside.parent / "models" / "image_encoder"):
        if (folder / "config.json").is_file():
            component = only_component(folder, (IMAGE_ENCODER,), "an image encoder")
            if reads(wanted, ImageEncoder.read(component.config)):
                return component
    what = "tokens" if wanted.reads_tokens else "embeddings"
    raise CheckpointError(
        f"{file}: an IP-Adapter wants the image encoder that it was trained with, with {what} of {wanted.embed_dim} "
        "numbers: name its folder (image_encoder=…, --image-encoder)"
    )


def add_controlnets(found: Recognised, paths: Paths) -> None:
    """Take ControlNets and T2I-Adapters, `controlnet`, `controlnet_1`, …, each of a folder, a file or the hub.

    A file may be stored as a difference to the checkpoint's UNet or a LoRA of it. Raises `CheckpointError` for others.
    """
    unet = found.components.get("unet")
    for name, path in named("controlnet", paths):
        partial = partial_control(path, unet)
        found.components[name] = partial or only_component(path, CONTROLS, "a ControlNet or a T2I-Adapter")


def named(kind: str, paths: Paths) -> Iterator[tuple[str, str | Path]]:
    """One or several paths with the names that components of a kind have: `kind`, `kind_1`, …"""
    for i, path in enumerate([paths] if isinstance(paths, str | Path) else paths):
        yield f"{kind}_{i}" if i else kind, path


def only_component(path: str | Path, classes: Sequence[str], what: str) -> Component:
    """The one component of these classes that a folder or a file has. Raises `CheckpointError` for anything else."""
    found = open_checkpoint(path)
    return only_one([c for c in found.components.values() if c.class_name in classes], path, found, what)


@dataclass(frozen=True)
class AppliedLora:
    """A LoRA that a model was loaded with: its file, its strength, and the modules that it changes, by component."""

    path: str
    strength: Strength
    modules: dict[str, list[str]]


def merge_loras(found: Recognised, loras: Iterable[Scaled]) -> list[AppliedLora]:
    """Merge LoRA files into the UNet and the text encoders, one after the other, as their weights are read.

    Source: Hu et al. 2021, arXiv:2106.09685, equation 3. Raises `CheckpointError` for a file that does not fit.
    """
    adapted = [name for name in found.components if name in ADAPTED]
    applied = []
    for lora in loras:
        path, scale = lora if isinstance(lora, tuple) else (lora, 1.0)
        if not math.isfinite(scale):
            raise InputError(f"{path}: the scale of a LoRA must be a finite number, not {scale}")
        strength, modules = Strength(float(scale)), dict[str, list[str]]()
        sources = {name: found.components[name].source for name in adapted}
        file = open_lora(local_file(path))
        if usual := distilled_for(path, file.metadata):
            found.notes.append(f"{path}: {usual}")
        for name, source in apply_lora(sources, file, strength, found.notes).items():
            if source is not sources[name] and isinstance(source, LoraSource):
                found.components[name] = replace(found.components[name], source=source)
                modules[name] = [weight.rpartition(".")[0] for weight in source.changed]
        applied.append(AppliedLora(str(path), strength, modules))
    return applied


def add_words(found: Recognised, tokenizers: dict[str, Tokenizer | WordPiece], paths: Iterable[str | Path]) -> None:
    """Add the words that textual inversion has learned to the tokenizers and the text encoders, in the same order.

    Source: Gal et al. 2022, arXiv:2208.01618, section 4. A file that names no word is called as the file.
    """
    words = [read_word(path) for path in paths]
    homes = [name.replace("tokenizer", "text_encoder") for name in tokenizers]
    for word in words:
        if not any(home in word.vectors and home in found.components for home in homes):
            has = ", ".join(home for home in homes if home in found.components) or "no text encoder that reads words"
            raise InputError(f"the learned word {word.word} is of {', '.join(word.vectors)}; the checkpoint has {has}")
    for name, tokenizer in list(tokenizers.items()):
        encoder = name.replace("tokenizer", "text_encoder")
        if not words:
            break
        if not isinstance(tokenizer, Tokenizer):
            raise InputError("learned words go into CLIP's text encoders; this checkpoint's is another")
        known = [word for word in words if encoder in word.vectors]
        if known and encoder in found.components:
            c = found.components[encoder]
            config, source = extend_encoder(c.config, c.source, known, encoder)
            found.components[encoder] = Component(c.class_name, config, source)
            tokenizers[name] = extend_tokenizer(tokenizer, known)


def read_word(path: str | Path) -> Inversion:
    """A learned word under the name that its file states, or else under the file's own: `<name>`."""
    path = local_file(path)
    source = open_source(path)
    try:
        return read_inversion(source)
    except InputError:  # it names no word
        return read_inversion(source, f"<{Path(path).stem}>")
