"""The published folder layout: a `model_index.json` and one folder for each component.

model_index.json                      which components there are, and of which class
unet/config.json                      the architecture
unet/diffusion_pytorch_model.safetensors, or shards with an index, or a variant: ….fp16.safetensors
vae/…, text_encoder/…, tokenizer/…, scheduler/scheduler_config.json
"""

from __future__ import annotations

import codecs
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tinyldm.checkpoints.safetensors import encodable, parse_json_object
from tinyldm.errors import CheckpointError, quoted

# Components that do not take part in making the picture: what they are for, said when they are passed over.
PASSED_OVER = {
    "safety_checker": "judges finished pictures",
    "feature_extractor": "prepares pictures for the safety checker",
    "image_encoder": "serves image prompts, which are not supported",
}
STEMS = ("diffusion_pytorch_model", "model", "pytorch_model")  # of the weight file, without variant and suffix
SUFFIXES = ("safetensors", "bin")
LONGEST_NAME = 255  # bytes, of a file on common systems
# The classes of published pipelines and networks, by how they begin.
FOREIGN_CLASSES = {
    "Flux": "FLUX",
    "StableDiffusion3": "Stable Diffusion 3",
    "SD3": "Stable Diffusion 3",
    "PixArt": "PixArt",
    "StableCascade": "Stable Cascade",
    "Wuerstchen": "Würstchen",
    "StableUnCLIP": "Stable unCLIP, whose condition is the embedding of a picture",
    "UnCLIP": "unCLIP",
    "StableVideoDiffusion": "a video model (Stable Video Diffusion)",
    "AnimateDiff": "AnimateDiff",
    "MotionAdapter": "a motion module (AnimateDiff)",
    "StableDiffusionGLIGEN": "GLIGEN, grounded by boxes",
    "ControlNetUnion": "a union ControlNet, several in one",
    "Kandinsky": "Kandinsky",
    "IFPipeline": "DeepFloyd IF, which diffuses pixels",
    "HunyuanDiT": "Hunyuan-DiT",
}
# Schedules of another diffusion than that of alphas.
FOREIGN_SCHEDULES = {"EDM": "an EDM schedule", "FlowMatch": "a flow-matching schedule"}
FLOWS = ("FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler")  # which are those of samplers here


@dataclass(frozen=True)
class Folder:
    """A published folder: its components, its pipeline's options, and notes on what was passed over or chosen.

    `index` has the original's class of each component, by its name.
    """

    path: Path
    index: dict[str, str]
    variant: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def __contains__(self, component: str) -> bool:
        return component in self.index

    def config(self, component: str) -> dict[str, Any]:
        """A component's configuration."""
        name = "scheduler_config.json" if component == "scheduler" else "config.json"
        return read_json(self.path / component / name)

    def weights(self, component: str) -> Path:
        """A component's file of weights. Raises `CheckpointError` where its folder has none."""
        file = find_weights(self.path / component, self.variant)
        used = file.name.removesuffix(".json").split(".")
        if self.variant and self.variant not in used:
            self.notes.append(f"{component}: no variant {self.variant!r}, {file.name} is used")
        return file


def read_folder(path: str | Path, variant: str | None = None) -> Folder:
    """Open a published folder. Raises `CheckpointError` where it is not one."""
    path = Path(path)
    index_file = path / "model_index.json"
    if not index_file.is_file():
        raise CheckpointError(f"{path}: no model_index.json; a published folder has one beside unet/, vae/, …")
    index: dict[str, str] = {}
    options: dict[str, Any] = {}
    notes = []
    for name, value in read_json(index_file).items():
        if not (isinstance(value, list) and len(value) == 2):
            options[name] = value
        elif name == "low_res_scheduler" and value[1] is not None:  # the noise of the ×4 upscaler's small picture
            options[name] = read_json(path / name / "scheduler_config.json")
        elif not is_plain(name):
            raise CheckpointError(f"{index_file}: names the component {quoted(name)}, wanted the name of a folder")
        elif value[1] is None:
            continue  # a component that is left out
        elif not all(isinstance(part, str) for part in value):
            raise CheckpointError(f"{index_file}: {quoted(name)} must name a library and a class, not {quoted(value)}")
        elif name in PASSED_OVER:
            notes.append(f"{name} is passed over: it {PASSED_OVER[name]}")
        else:
            index[name] = value[1]
    return Folder(path, index, variant, options, notes)


def is_plain(name: str) -> bool:
    """Whether a name is that of a file or folder beside the one that mentions it: no path, nothing that leads out."""
    plain = name not in ("", ".", "..") and not set(name) & set('/\\:"\0')
    return plain and encodable(name) and len(name.encode()) <= LONGEST_NAME


def foreign(class_name: str, kinds: Mapping[str, str] = FOREIGN_CLASSES) -> str | None:
    """What a published class belongs to, where it is none of the models here, or of the schedules."""
    if class_name in FLOWS:
        return None
    return next((kind for begin, kind in kinds.items() if class_name.startswith(begin)), None)


def find_weights(folder: Path, variant: str | None = None) -> Path:
    """The weight file of a component's folder, or its index where it is sharded.

    A file of the `variant` comes first, then one without a variant, then any other; safetensors before torch files.
    Raises `CheckpointError` where there is none.
    """
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: no such folder")
    found = [(rank, path) for path in sorted(folder.iterdir()) if (rank := weight_rank(path.name, variant)) is not None]
    if not found:
        here = ", ".join(sorted(p.name for p in folder.iterdir())) or "nothing"
        raise CheckpointError(f"{folder}: no weights; wanted {STEMS[0]}.safetensors or the like, found {here}")
    return min(found)[1]


def weight_rank(name: str, variant: str | None) -> tuple[int, ...] | None:
    """How well a file name suits: lower is better, None for no weight file (a shard is found through its index)."""
    parts = name.split(".")
    if parts[0] not in STEMS:
        return None
    indexed = "index" in parts and parts[-1] == "json"
    kind = next((s for s in SUFFIXES if s in parts), None)
    if kind is None or (parts[-1] == "json") != indexed:
        return None
    variants = [p for p in parts[1:] if p not in (kind, "index", "json")]
    if len(variants) > 1:
        return None
    by_variant = 0 if variants == [variant] or (variant is None and not variants) else 2 if variants else 1
    return by_variant, SUFFIXES.index(kind), int(indexed), STEMS.index(parts[0])


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file. Raises `CheckpointError` where it is missing, no JSON or no object."""
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file") from None
    except OSError as error:
        raise CheckpointError(f"{path}: can't be read: {error.strerror}") from None
    return parse_json_object(text.removeprefix(codecs.BOM_UTF8), f"{path}:", infinite=True)
