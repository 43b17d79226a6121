"""Checkpoints by their names on the Hugging Face hub: from its local cache, or downloaded.

Needs the package `huggingface_hub` (`pip install "tinyldm[hub]"`), which keeps the cache, resumes broken downloads,
shows progress and honours `HF_ENDPOINT`, `HF_HOME` and `HF_HUB_OFFLINE`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from tinyldm.checkpoints.folder import find_weights, read_folder, weight_rank
from tinyldm.errors import CheckpointError

NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")  # owner/name
NOT_WEIGHTS = ("scheduler", "tokenizer", "tokenizer_2")


def is_hub_name(path: str | Path) -> bool:
    """Whether something that is no path here could be a name on the hub."""
    return not Path(path).exists() and NAME.fullmatch(str(path)) is not None


def fetch(name: str, variant: str | None = None) -> Path:
    """The folder of a checkpoint on the hub: that of the local cache where it is complete, else after a download.

    Only what is needed is fetched: configs, tokenizers, and of each component the weight files that `find_weights`
    would choose. Raises `CheckpointError` without `huggingface_hub`, and where the hub does not give the files.
    """
    try:
        from huggingface_hub import HfApi, snapshot_download, try_to_load_from_cache
    except ImportError:
        raise CheckpointError(
            f"{name}: there is no such file or folder; as a name on the hub it needs `pip install huggingface_hub`"
        ) from None
    index = try_to_load_from_cache(name, "model_index.json")
    if isinstance(index, str) and is_complete(Path(index).parent, variant):
        return Path(index).parent
    try:
        files = wanted_files(HfApi().list_repo_files(name), variant)
        return Path(snapshot_download(name, allow_patterns=files))
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CheckpointError(f"{name}: can't be had from the hub: {reason}") from None


def is_complete(folder: Path, variant: str | None) -> bool:
    """Whether a folder of the cache has everything that loading it will open."""
    try:
        opened = read_folder(folder, variant)
        for component in opened.index:
            if component not in NOT_WEIGHTS:
                find_weights(folder / component, variant)
    except CheckpointError:
        return False
    return all((folder / name).is_dir() for name in opened.index)


def wanted_files(files: Iterable[str], variant: str | None) -> list[str]:
    """Of all files of a repository, those that are needed to load it."""
    files = [f for f in files if f.count("/") <= 1]
    wanted = [f for f in files if f.endswith((".json", ".txt")) and ".index." not in f]
    folders: dict[str, list[tuple[tuple[int, ...], str]]] = {}
    for file in files:
        folder, _, name = file.rpartition("/")
        rank = weight_rank(name, variant)
        if folder and rank is not None:
            folders.setdefault(folder, []).append((rank, name))
    for folder, found in folders.items():
        best = min(found)[1]
        wanted.append(f"{folder}/{best}")
        if best.endswith(".json"):  # an index: its shards are named after it
            stem, suffix = best.split(".")[0], "safetensors" if ".safetensors." in best else "bin"
            wanted += [f for f in files if re.fullmatch(rf"{folder}/{stem}[\w.]*-\d+-of-\d+\.{suffix}", f)]
    return wanted
