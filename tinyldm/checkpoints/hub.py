"""Checkpoints by their names on the Hugging Face hub: from its local cache, or downloaded.

Needs the package `huggingface_hub` (`pip install "tinyldm[hub]"`), which keeps the cache, resumes broken downloads,
shows progress and honours `HF_ENDPOINT`, `HF_HOME` and `HF_HUB_OFFLINE`. A name is `owner/name`, or for one file of a
repository `owner/name/file.safetensors`.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from tinyldm.checkpoints.embedded import embedded, is_embedded_name
from tinyldm.checkpoints.folder import find_weights, read_folder, weight_rank
from tinyldm.errors import CheckpointError

PART = r"[\w.-]+"
SUFFIXES = ("safetensors", "ckpt", "pt", "pth", "bin")  # of files of weights
NAME = re.compile(rf"([A-Za-z0-9]{PART}|[A-Za-z0-9])/({PART})")  # owner/name
FILE = re.compile(rf"([A-Za-z0-9][\w.-]*/{PART})/((?:{PART}/)*{PART}\.(?:{'|'.join(SUFFIXES)}))")
PAGE = r"(?:/(?:blob|resolve|raw)/[^/]+/([^?#]+)|/tree/[^/]+/?|/)?"  # behind a repository, in a link
LINK = re.compile(rf"/({PART}/{PART}){PAGE}(?:[?#].*)?")
REACHED = 4.0  # seconds in which the hub has to answer
NOT_WEIGHTS = ("scheduler", "tokenizer", "tokenizer_2")


def is_hub_name(path: str | Path) -> bool:
    """Whether something that is no path here could be a name on the hub."""
    text = name_of_link(str(path))
    return not Path(path).exists() and (NAME.fullmatch(text) or FILE.fullmatch(text)) is not None


def name_of_link(text: str) -> str:
    """The name that a link to a page of the hub means, `owner/name` or `owner/name/FILE`; any other text as it is."""
    if not text.startswith(("http://", "https://")):
        return text
    try:
        from huggingface_hub import constants
    except ImportError:
        return text
    link = LINK.fullmatch(text.removeprefix(constants.ENDPOINT))
    return link[1] + (f"/{link[2]}" if link[2] else "") if link else text


def local(path: str | Path, variant: str | None = None) -> Path:
    """A path as it is, or where the checkpoint of a name is kept here: one of the hub, or one that needs no download.

    Raises `CheckpointError` for a link to anything but a page of the hub.
    """
    if is_embedded_name(path):
        return embedded(str(path))
    if is_hub_name(path):
        return fetch(name_of_link(str(path)), variant)
    if re.match(r"https?:/", str(path)):
        raise CheckpointError(f"{path}: is a link; download the file and give its path, or give owner/name on the hub")
    return Path(path)


def downloads_folder() -> Path | None:
    """Where the hub's package keeps what it has downloaded; None without the package."""
    try:
        from huggingface_hub import constants
    except ImportError:
        return None
    return Path(constants.HF_HUB_CACHE)


def local_file(path: str | Path) -> Path:
    """As `local`, for what is one file (a LoRA, a learned word): of a repository the only one at its top."""
    found = local(path)
    return only_weights(found) if found.is_dir() and (is_hub_name(path) or is_embedded_name(path)) else found


def fetch(name: str, variant: str | None = None) -> Path:
    """The folder or the file of a checkpoint on the hub: that of the local cache where it is complete, else downloaded.

    Only what is needed is fetched: configs, tokenizers, and of each component the weight files that `find_weights`
    would choose. Raises `CheckpointError` without `huggingface_hub`, and where the hub does not give the files.
    """
    try:
        from huggingface_hub import HfApi, hf_hub_download, snapshot_download, try_to_load_from_cache
    except ImportError:
        raise CheckpointError(
            f"{name}: there is no such file or folder; as a name on the hub it needs `pip install huggingface_hub`"
        ) from None
    if file := FILE.fullmatch(name):
        cached = try_to_load_from_cache(*file.groups())
        return Path(cached) if isinstance(cached, str) else asked(name, lambda: hf_hub_download(*file.groups()))
    folder = cached_folder(lambda file: try_to_load_from_cache(name, file)) or cached_snapshot(name)
    if folder is not None and is_complete(folder, variant):
        return folder

    def download() -> str:
        files = wanted_files(HfApi().list_repo_files(name), variant)
        return snapshot_download(name, allow_patterns=files)

    return asked(name, download)


def asked(name: str, download: Callable[[], str]) -> Path:
    """What a download gives, its errors in one line; a hub that does not answer is given up after `REACHED` seconds."""
    where = f"{name}: no such path here, and it can't be had from the hub"
    answered: list[Exception | None] = []
    thread = threading.Thread(target=lambda: answered.append(reach()), daemon=True)
    thread.start()
    thread.join(REACHED)
    if not answered:
        raise CheckpointError(f"{where}: it does not answer")
    try:
        if answered[0] is not None:
            raise answered[0]
        return Path(download())
    except Exception as error:  # of whatever library the client makes its requests with
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CheckpointError(f"{where}: {reason}") from None


def reach() -> Exception | None:
    """Ask the hub for anything, once: its client would try five times, for half a minute. Returns what went wrong."""
    from huggingface_hub import constants
    from huggingface_hub.utils._http import get_session

    try:
        get_session().head(constants.ENDPOINT, timeout=REACHED)
    except Exception as error:
        return error
    return None


def cached_folder(cached: Callable[[str], Any]) -> Path | None:
    """The folder of a repository in the local cache, found through a file that its layout has; None without one."""
    for file in ("model_index.json", "config.json"):
        if isinstance(path := cached(file), str):
            return Path(path).parent
    return None


def cached_snapshot(name: str) -> Path | None:
    """The folder of a repository without any such file, where it is in the local cache."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, local_files_only=True))
    except (LocalEntryNotFoundError, ValueError):
        return None


def is_complete(folder: Path, variant: str | None) -> bool:
    """Whether a folder of the cache has everything that loading it will open."""
    try:
        if not (folder / "model_index.json").is_file():
            return bool(find_weights(folder, variant) if (folder / "config.json").is_file() else only_weights(folder))
        opened = read_folder(folder, variant)
        for component in opened.index:
            if component not in NOT_WEIGHTS:
                find_weights(folder / component, variant)
    except CheckpointError:
        return False
    return all((folder / name).is_dir() for name in opened.index)


def only_weights(folder: Path) -> Path:
    """The only file of weights at the top of a repository's folder."""
    files = sorted(path for path in folder.iterdir() if path.suffix[1:] in SUFFIXES)
    if len(files) != 1:
        raise CheckpointError(f"{folder}: wanted one file of weights; found {[path.name for path in files]}")
    return files[0]


def wanted_files(files: Iterable[str], variant: str | None) -> list[str]:
    """Of all files of a repository, those that are needed to load it.

    A pipeline has its weights in folders; a component has them at the top, beside its `config.json`; in a repository
    without either, the only file of weights is what is wanted.
    """
    files = [f for f in files if f.count("/") <= 1]
    wanted = [f for f in files if f.endswith((".json", ".txt")) and ".index." not in f]
    if not {"model_index.json", "config.json"} & set(files):
        return [*wanted, only_name([f for f in files if "/" not in f and f.rpartition(".")[2] in SUFFIXES])]
    folders: dict[str, list[tuple[tuple[int, ...], str]]] = {}
    for file in files:
        folder, _, name = file.rpartition("/")
        rank = weight_rank(name, variant)
        if bool(folder) == ("model_index.json" in files) and rank is not None:
            folders.setdefault(folder + "/" if folder else "", []).append((rank, name))
    for folder, found in folders.items():
        best = min(found)[1]
        wanted.append(f"{folder}{best}")
        if best.endswith(".json"):  # an index: its shards are named after it
            stem, suffix = best.split(".")[0], "safetensors" if ".safetensors." in best else "bin"
            wanted += [f for f in files if re.fullmatch(rf"{folder}{stem}[\w.]*-\d+-of-\d+\.{suffix}", f)]
    return wanted


def only_name(files: list[str]) -> str:
    """The only one of a repository's files of weights; one that has several or none says which."""
    safe = [f for f in files if f.endswith(".safetensors")]
    chosen = safe if len(safe) == 1 else files
    if len(chosen) != 1:
        raise ValueError(f"name one of its files of weights, owner/name/FILE: {', '.join(files) or 'it has none'}")
    return chosen[0]
