"""LoRAs that a prompt names, `<lora:name:0.8>`: which files they are, and whether a model was loaded with them.

A LoRA is merged into the weights, so that it is decided before a model is loaded: `named_loras` finds the files, which
`load` takes, and `check_tags` refuses a prompt that names others than the model has. All prompts of a run name the
same.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from pathlib import Path

from tinyldm.checkpoints.embedded import is_embedded_name
from tinyldm.errors import InputError
from tinyldm.pipelines.adapters import AppliedLora
from tinyldm.text.prompt_syntax import Tag, split_tags

KINDS = ("lora", "lyco")
SUFFIXES = (".safetensors", ".pt", ".ckpt")
IN_FOLDERS = "pytorch_lora_weights"  # what diffusers calls every LoRA, in a folder of its name


def named_loras(
    prompts: Iterable[str], folder: str | Path | None = None, beside: Iterable[str | Path] = ()
) -> list[tuple[str, float]]:
    """The files of the LoRAs that prompts name, with their strengths: what `load(…, loras=…)` takes.

    A name is a file's, without its suffix, in `folder` or one below, or in the folders of the files `beside`; of a
    file that is published in a folder of its name, that folder's; or that of a sister of the embedded checkpoint.
    Raises `InputError` for a name that no file or more than one has, and where the prompts name different ones.
    """
    if folder is not None and not Path(folder).is_dir():
        raise InputError(f"{folder}: is no folder of LoRAs")
    tags = common_tags(list(prompts))
    if not tags:
        return []
    candidates = [] if folder is None else list(Path(folder).rglob("*"))
    candidates += [file for other in beside for file in Path(other).parent.glob("*")]
    files = {file.resolve(): file for file in candidates if file.suffix in SUFFIXES and file.is_file()}
    return [(str(file_of(name, sorted(files.values()), folder)), strength) for name, strength in tags]


def names_of(file: str | Path) -> set[str]:
    """What a prompt may call a file: its name, and that of its folder where all such files have the same."""
    path = Path(file)
    return {path.stem, path.parent.name} if path.stem == IN_FOLDERS else {path.stem}


def file_of(name: str, files: Sequence[Path], folder: str | Path | None) -> Path:
    """The file of a name. Raises `InputError` unless there is one."""
    found = [file for file in files if name in names_of(file)]
    if not found and is_embedded_name(name):
        return Path(name)
    if len(found) == 1:
        return found[0]
    if found:
        raise InputError(f"<lora:{name}>: several files have that name: {', '.join(map(str, found))}")
    near = get_close_matches(name, {called for file in files for called in names_of(file)}, 3)
    hint = f"; near are {', '.join(near)}" if near else ""
    if not files and folder is None:
        raise InputError(f"<lora:{name}>: where is it? name the folder of your LoRAs (--lora-dir)")
    raise InputError(f"<lora:{name}>: no file of that name is in {folder or 'the folder of --lora'}{hint}")


def check_tags(prompts: Sequence[str], negatives: Sequence[str], loras: Sequence[AppliedLora]) -> None:
    """Raise `InputError` for adapters in prompts that a model was not loaded with, or in a negative prompt."""
    for negative in negatives:
        if tags := split_tags(negative)[1]:
            raise InputError(f"negative prompt: {tags[0]} acts on the whole picture; it belongs into the prompt")
    loaded = [(names_of(lora.path), lora.strength.value) for lora in loras]
    for name, strength in common_tags(prompts):
        if not any(name in names and strength == scale for names, scale in loaded):
            has = ", ".join(f"{min(names)} at {scale:g}" for names, scale in loaded) or "none"
            raise InputError(
                f"<lora:{name}:{strength:g}>: the model is loaded with other LoRAs ({has}); load it with this one: "
                f'load(…, loras=[("{name}.safetensors", {strength:g})])'
            )


def common_tags(prompts: Sequence[str]) -> list[tuple[str, float]]:
    """The names and strengths of the LoRAs that every prompt of a run names. Raises `InputError` for different ones."""
    every = {prompt: [lora_of(tag) for tag in split_tags(prompt)[1]] for prompt in prompts}
    first, *others = list(every.items()) or [("", [])]
    for prompt, tags in others:
        if sorted(tags) != sorted(first[1]):
            raise InputError(
                f"prompts {first[0]!r} and {prompt!r} name different LoRAs; make their pictures in runs of their own"
            )
    return first[1]


def lora_of(tag: Tag) -> tuple[str, float]:
    """The name and the strength of a LoRA. Raises `InputError` for other adapters, and for no number."""
    if tag.kind not in KINDS:
        raise InputError(f"prompt: {tag}: the adapters that a prompt may name are <lora:name:strength>")
    name, *numbers = tag.arguments
    strengths = {number_of(number, tag) for number in numbers}
    if len(strengths) > 1:
        raise InputError(f"prompt: {tag}: wants one strength, of the text encoder and the UNet alike")
    return name, strengths.pop() if strengths else 1.0


def number_of(text: str, tag: Tag) -> float:
    """A strength. Raises `InputError` for what is no finite number."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise InputError(f"prompt: {tag}: {text!r} is no strength; wanted a number, such as 0.8")
    return number
