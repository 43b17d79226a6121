"""Folders whose configs, indices or tokenizers are damaged, and files whose tensors are not what their names say.

Whatever is in them: an error of this package in one line, or a model; nothing written, no memory beyond reason.
"""

from __future__ import annotations

import json
import random
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoint_commands import inspect
from checkpoints.damage import peak_memory
from golden.family_files import single_file
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_checkpoints import write_ldm, write_sd, write_xl

import tinyldm
from tinyldm.checkpoints.base import MemorySource
from tinyldm.checkpoints.recognise import recognise
from tinyldm.diffusion.samplers import default_sampler, make_sampler
from tinyldm.errors import CheckpointError, ConfigError, TinyldmError
from tinyldm.models.build import expected

VALUES: tuple[Any, ...] = (
    *(None, True, -1, 0, 1, 3.7, -0.5, 1e308, float("inf"), 10**6, 2**70, "", "x", "../..", "\0", "\ud800", "9" * 5000),
    *([], {}, [None], [[1]], [0], [-1, -1], [1, 2], [10**9], {"a": 1}, ["DownBlock2D"], ["diffusers", ["a"]]),
)
NAMES = ("x", "_class_name", "architectures", "sample_size", "scaling_factor", "num_hidden_layers", "unet")
PIECES = (b"[", b"{", b'"', b"\xff", b"NaN", b"9" * 5000, b"[" * 100_000)
WRITERS = {"sd": write_sd, "xl": write_xl, "ldm": write_ldm}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("bad")
    return {name: write(root / name) for name, write in WRITERS.items()}


def places(value: Any, path: tuple = ()) -> list[tuple]:
    """The paths of all values in a JSON value, not deeper than four."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    below = [place for key, inner in items for place in places(inner, (*path, key))] if len(path) < 4 else []
    return [path, *below]


def damaged_json(text: bytes, rng: random.Random) -> bytes:
    """A copy with one value replaced, taken away, or put in under a name that matters."""
    value = json.loads(text)
    place = rng.choice(places(value))
    if not place:
        return json.dumps(rng.choice(VALUES)).encode()
    node = value
    for key in place[:-1]:
        node = node[key]
    kind = rng.random()
    if kind < 0.15:
        del node[place[-1]]
    elif kind < 0.3 and isinstance(node, dict):
        node[rng.choice(NAMES)] = rng.choice(VALUES)
    else:
        node[place[-1]] = rng.choice(VALUES)
    return json.dumps(value).encode()


def damaged_bytes(text: bytes, rng: random.Random) -> bytes:
    """A copy with bytes changed, cut out or put in."""
    damaged = bytearray(text)
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(damaged) + 1)
        kind = rng.randrange(3)
        if kind == 0:
            damaged[at : at + 1] = bytes([rng.randrange(256)])
        elif kind == 1:
            del damaged[at : at + rng.randint(1, 50)]
        else:
            damaged[at:at] = rng.choice(PIECES)
    return bytes(damaged)


def use(folder: Path) -> None:
    """What a user does first: load, look at the schedule and the tokens, inspect."""
    model = tinyldm.load(folder, backend="reference")
    make_sampler(default_sampler(model.scheduler_config), model.scheduler_config, 3)
    if model.tokenizer is not None:
        with warnings.catch_warnings(action="ignore"):
            model.tokenizer.encode(["a red fox"])
    inspect(folder, tensors=False)


def refused(folder: Path) -> bool:
    """Whether a folder is refused, in one line that is not endless; any other exception is the test's failure."""
    try:
        use(folder)
    except TinyldmError as error:
        assert "\n" not in str(error)  # noqa: PT017
        assert len(str(error)) < 1500 + len(str(folder))  # noqa: PT017
        return True
    return False


def fuzz(folder: Path, seed: int, count: int) -> int:
    rng = random.Random(seed)
    files = sorted(p for p in folder.rglob("*") if p.suffix in (".json", ".txt"))
    before, total = sorted(folder.rglob("*")), 0
    for _ in range(count):
        file = rng.choice(files)
        whole = file.read_bytes()
        structured = file.suffix == ".json" and rng.random() < 0.8
        file.write_bytes(damaged_json(whole, rng) if structured else damaged_bytes(whole, rng))
        try:
            total += refused(folder)
        finally:
            file.write_bytes(whole)
    assert sorted(folder.rglob("*")) == before
    return total


@settings(deadline=None, max_examples=6)
@given(seed=st.integers(0, 2**32), kind=st.sampled_from(sorted(WRITERS)))
def test_damaged_folders_are_loaded_or_refused(folders, seed: int, kind: str) -> None:
    assert fuzz(folders[kind], seed, 20) > 0


@pytest.mark.slow
@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 2**32), kind=st.sampled_from(sorted(WRITERS)))
def test_thousands_of_damaged_folders(folders, seed: int, kind: str) -> None:
    assert fuzz(folders[kind], seed, 100) > 0


# What broke before, or would have ------------------------------------------------------------------------------------


BROKE = {
    "class of no text": (
        "model_index.json",
        {"unet": ["diffusers", ["UNet2DConditionModel"]]},
        "a library and a class",
    ),
    "component elsewhere": ("model_index.json", {"../unet": ["diffusers", "X"]}, "wanted the name of a folder"),
    "component of a long name": ("model_index.json", {"v" * 5000: ["diffusers", "X"]}, "wanted the name of a folder"),
    "endless layers": ("text_encoder/config.json", {"num_hidden_layers": 2**70}, "wanted int"),
    "a million layers": ("text_encoder/config.json", {"num_hidden_layers": 10**6}, "wanted int of at most 1000"),
    "a million blocks": ("unet/config.json", {"layers_per_block": [10**6, 1]}, "of at most 1000"),
    "no groups": ("vae/config.json", {"norm_num_groups": 0}, "norm_num_groups = 0, wanted 1 or more"),
    "part of a transformer": ("unet/config.json", {"transformer_layers_per_block": [3.7, 1]}, "wanted int . tuple"),
    "layers of some attentions": (
        "unet/config.json",
        {"transformer_layers_per_block": [[1], [1]], "layers_per_block": 2},
        "transformer_layers_per_block = .* has no number for attention 2 of down_blocks.0",
    ),
    "layers of some blocks": (
        "unet/config.json",
        {"reverse_transformer_layers_per_block": [[1, 1, 1]]},
        "reverse_transformer_layers_per_block = .* has no number for attention 1 of up_blocks",
    ),
    "part of a layer": ("text_encoder/config.json", {"num_hidden_layers": 3.7}, "num_hidden_layers = 3.7, wanted int"),
    "nested widths": ("unet/config.json", {"block_out_channels": [[8], 16]}, "block_out_channels = .*wanted tuple"),
    "one width": ("vae/config.json", {"block_out_channels": 4}, "block_out_channels = 4, wanted tuple"),
    "one block": ("vae/config.json", {"down_block_types": 1}, "down_block_types = 1, wanted tuple"),
    "infinite epsilon": ("unet/config.json", {"norm_eps": float("inf")}, "norm_eps = inf, wanted float"),
    "long value": ("unet/config.json", {"wings": "9" * 100_000}, r"unknown field 'wings' with the value '9+…"),
}


@pytest.mark.parametrize("what", BROKE)
def test_what_broke_once_is_named(own_checkpoint: Path, what: str) -> None:
    file, fields, message = BROKE[what]
    path = own_checkpoint / file
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))
    with peak_memory() as peak:
        with pytest.raises((CheckpointError, ConfigError), match=message) as caught:
            tinyldm.load(own_checkpoint, backend="reference")
        assert peak() < 20_000_000
    assert len(str(caught.value)) < 1000 + len(str(path))


@pytest.mark.parametrize("file", ["tokenizer/vocab.json", "unet/config.json", "model_index.json"])
def test_json_that_is_nested_too_deeply(own_checkpoint: Path, file: str) -> None:
    (own_checkpoint / file).write_text('{"a": ' + "[" * 100_000)
    with pytest.raises(CheckpointError, match=r"JSON|nested"):
        tinyldm.load(own_checkpoint, backend="reference")


def test_a_table_of_tokens_with_one_axis() -> None:
    tensors = single_file("stable-diffusion-1")
    tensors["cond_stage_model.transformer.text_model.embeddings.token_embedding.weight"] = np.zeros(5, np.float32)
    with pytest.raises(CheckpointError, match=r"token_embedding.weight' of shape \(5,\), wanted 2 axes"):
        recognise(MemorySource(tensors))


def test_numbers_of_too_many_digits(own_checkpoint: Path) -> None:
    (own_checkpoint / "unet" / "config.json").write_text('{"in_channels": ' + "9" * 5000 + "}")
    with pytest.raises(CheckpointError, match="is not JSON"):
        tinyldm.load(own_checkpoint)


def test_the_infinity_that_the_original_writes(own_checkpoint: Path) -> None:
    path = own_checkpoint / "scheduler" / "scheduler_config.json"
    config = {
        **json.loads(path.read_text()),
        "_class_name": "DPMSolverMultistepScheduler",
        "lambda_min_clipped": -np.inf,
    }
    path.write_text(json.dumps(config))
    assert "-Infinity" in path.read_text()
    assert tinyldm.load(own_checkpoint, backend="reference").text_to_image("a", steps=2, sampler="dpm++_2m")


# Single files whose tensors are not what their names say --------------------------------------------------------------


def fuzz_names(seed: int, count: int) -> int:
    rng = random.Random(seed)
    whole = {
        name: np.broadcast_to(np.float32(0), value.shape) for name, value in single_file("stable-diffusion-1").items()
    }
    names, total = sorted(whole), 0
    for _ in range(count):
        tensors = dict(whole)
        for name in rng.sample(names, rng.choice((1, 3, 100))):
            kind = rng.randrange(4)
            value = tensors.pop(name, np.zeros(()))
            if kind == 1:
                tensors[rng.choice(names)] = value
            elif kind == 2:
                tensors[name.replace(str(rng.randrange(4)), rng.choice(("9", "x", "99999")))] = value
            elif kind == 3:
                shape = rng.choice(((), (0,), (1,), (2, 3), (10**6, 1), (4, 0, 3, 3), (320, 320, 3, 3), (1,) * 7))
                tensors[name] = np.broadcast_to(np.float32(0), shape)
        try:
            found = recognise(MemorySource(tensors, path="file"))
            for component in found.components.values():
                expected(component.class_name, component.config)
        except TinyldmError as error:
            assert "\n" not in str(error)  # noqa: PT017
            total += 1
    return total


@settings(deadline=None, max_examples=5)
@given(seed=st.integers(0, 2**32))
def test_damaged_names_are_recognised_or_refused(seed: int) -> None:
    fuzz_names(seed, 10)


@pytest.mark.slow
@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 2**32))
def test_thousands_of_damaged_names(seed: int) -> None:
    fuzz_names(seed, 100)


def test_a_copy_is_what_is_damaged(checkpoint: Path, tmp_path: Path) -> None:
    """The harness finds what is wrong: a folder without its UNet is refused, a whole one is not."""
    shutil.copytree(checkpoint, tmp_path / "copy")
    assert not refused(tmp_path / "copy")
    shutil.rmtree(tmp_path / "copy" / "unet")
    assert refused(tmp_path / "copy")
