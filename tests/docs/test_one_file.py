"""`docs/one_file.py` makes the package's pictures, from the embedded checkpoint and from the form of SD 1.5."""

from __future__ import annotations

import ast
import importlib.util
import json
import subprocess
import sys
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tiny_checkpoints import write_folder

import tinyldm
from tinyldm.checkpoints.safetensors import write_safetensors
from tinyldm.golden.seeded import seeded_weights
from tinyldm.models.build import expected
from tinyldm.ops import gelu
from tinyldm.random import torch_randn
from tinyldm.text.clip_tokenizer import Tokenizer, TruncationWarning

ROOT = Path(__file__).parents[2]
EMOJI = ROOT / "weights" / "emoji"
FILE = ROOT / "docs" / "one_file.py"

INDEX = {
    "_class_name": "StableDiffusionPipeline",
    "scheduler": ["diffusers", "PNDMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}
# The published configs of Stable Diffusion 1.5, narrow.
NARROW = {
    "text_encoder": {"hidden_size": 16, "intermediate_size": 64, "num_attention_heads": 2},
    "unet": {
        "sample_size": 16,
        "block_out_channels": [16, 32, 48, 48],
        "norm_num_groups": 8,
        "cross_attention_dim": 16,
    },
    "vae": {"sample_size": 128, "block_out_channels": [8, 16, 24, 24], "norm_num_groups": 4},
}
SCHEDULER = {
    "_class_name": "PNDMScheduler",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "trained_betas": None,
}
OLD_NAMES = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
LATIN = st.characters(codec="utf-8", max_codepoint=0x24F, exclude_categories=["Cc", "Cs"])


@pytest.fixture(scope="module")
def one_file() -> ModuleType:
    spec = importlib.util.spec_from_file_location("one_file", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def sd15(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in the form of 2022: the autoencoder's old names, position ids among the weights, CLIP's tokenizer."""
    published = ROOT / "tests" / "golden" / "configs"
    configs = {name: json.loads((published / f"sd15_{name}.json").read_text()) | NARROW[name] for name in NARROW}
    configs["scheduler"] = SCHEDULER
    folder = write_folder(tmp_path_factory.mktemp("form") / "sd15", INDEX, configs)
    weights = seeded_weights(expected("AutoencoderKL", configs["vae"]))
    write_safetensors(folder / "vae" / "diffusion_pytorch_model.safetensors", old_names(weights))
    text_encoder = seeded_weights(expected("CLIPTextModel", configs["text_encoder"]))
    weights = {f"text_model.{name}": array for name, array in text_encoder.items()}
    weights["text_model.embeddings.position_ids"] = np.arange(77)[None]
    write_safetensors(folder / "text_encoder" / "model.safetensors", weights)
    clip = Tokenizer.clip()
    (folder / "tokenizer").mkdir()
    (folder / "tokenizer" / "vocab.json").write_text(json.dumps(clip.vocab))
    merges = ["#version: 0.2", *map(" ".join, clip.ranks)]
    (folder / "tokenizer" / "merges.txt").write_text("".join(f"{line}\n" for line in merges), "utf-8")
    (folder / "tokenizer" / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, "pad_token": "<|endoftext|>"})
    )
    index = json.loads((folder / "model_index.json").read_text()) | {"tokenizer": ["transformers", "CLIPTokenizer"]}
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def old_names(weights: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    renamed = {}
    for name, array in weights.items():
        for new, old in OLD_NAMES.items():
            name = name.replace(f".attentions.0.{new}.", f".attentions.0.{old}.")
        renamed[name] = array
    assert renamed.keys() != weights.keys()
    return renamed


def apart(first: np.ndarray, second: np.ndarray) -> float:
    """The share of the values of two pictures that are more than one level apart."""
    return float((np.abs(first.astype(int) - second.astype(int)) > 1).mean())


def test_it_stands_alone_and_is_short() -> None:
    source = FILE.read_text(encoding="utf-8")
    assert len(source.splitlines()) <= 400
    nodes = list(ast.walk(ast.parse(source)))
    imported = {n.module for n in nodes if isinstance(n, ast.ImportFrom)}
    imported |= {alias.name for n in nodes if isinstance(n, ast.Import) for alias in n.names}
    assert {str(name).partition(".")[0] for name in imported} <= {*sys.stdlib_module_names, "numpy"}


def test_the_command_makes_the_packages_picture_of_the_embedded_checkpoint(tmp_path: Path) -> None:
    picture, began = tmp_path / "fox.png", time.monotonic()
    subprocess.run([sys.executable, str(FILE), "fox", "-o", str(picture), "--seed", "7"], check=True, timeout=240)
    assert time.monotonic() - began < 60
    ours = tinyldm.load().text_to_image("fox", steps=25, guidance_scale=7.5, seed=7, sampler="ddim")[0]
    written = np.asarray(Image.open(picture))
    assert written.dtype == np.uint8
    assert apart(written, np.asarray(ours)) <= 0.001


def test_a_negative_prompt(one_file: ModuleType) -> None:
    picture = one_file.text_to_image(EMOJI, "red apple", "leaf", steps=5, guidance=4.0, seed=3)
    ours = tinyldm.load().text_to_image("red apple", "leaf", steps=5, guidance_scale=4.0, seed=3, sampler="ddim")[0]
    assert apart(picture, np.asarray(ours)) <= 0.001


def test_the_published_form_of_stable_diffusion_1_5(one_file: ModuleType, sd15: Path) -> None:
    prompt = "a lighthouse at dusk, 35mm"
    picture = one_file.text_to_image(sd15, prompt, steps=4, guidance=7.5, seed=1)
    ours = tinyldm.load(sd15).text_to_image(prompt, steps=4, guidance_scale=7.5, seed=1, sampler="ddim")[0]
    assert picture.shape == (128, 128, 3)
    assert picture.std() > 10
    assert apart(picture, np.asarray(ours)) <= 0.001


@pytest.mark.parametrize("name", ["emoji", "sd15"])
def test_each_network(one_file: ModuleType, sd15: Path, name: str) -> None:
    """To float32's rounding, which a picture's levels hide."""
    folder = EMOJI if name == "emoji" else sd15
    model = tinyldm.load(folder, precision="strict")
    ids = model.tokenizer.encode("red apple")
    z = torch_randn((1, 4, 16, 16), seed=1)
    context = model.text_encoder(ids)
    pixels_last, z_last = np.moveaxis(model.vae.decode(z)[0], 0, -1), np.moveaxis(z[0], 0, -1)

    ours = {"context": one_file.text_encoder(ids[0], *one_file.load(folder / "text_encoder"))}
    ours["epsilon"] = one_file.unet(z_last, 501, context[0], *one_file.load(folder / "unet", norm_eps=1e-5))
    ours["pixels"] = one_file.decoder(z_last, *one_file.load(folder / "vae"))
    theirs = {
        "context": context[0],
        "epsilon": np.moveaxis(model.unet(z, 501, context)[0], 0, -1),
        "pixels": pixels_last,
    }
    for what, array in ours.items():
        assert array.dtype == np.float32, what
        assert np.abs(array - theirs[what]).max() < 2e-5 * np.abs(theirs[what]).max(), what


@pytest.mark.parametrize("name", ["emoji", "sd15"])
def test_tokens_of_latin_text(one_file: ModuleType, sd15: Path, name: str) -> None:
    folder = (EMOJI if name == "emoji" else sd15) / "tokenizer"
    theirs = Tokenizer.load(folder)
    vocab, ranks = one_file.read_tokenizer(folder)

    @settings(max_examples=300, deadline=None)
    @given(st.text(LATIN, max_size=60))
    def same(text: str) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", TruncationWarning)
            assert one_file.tokenize(text, vocab, ranks, theirs.max_length).tolist() == theirs.encode(text)[0].tolist()

    same()
    texts = (
        "",
        "Don't  STOP_2024!!",
        "naïve café, ½ œuvre — “Straße” ¹²³ 'tis we'll I'd",
        "İstanbul e\u0301t\u00e9",
        "a " * 99,
    )
    for text in texts:
        length = len(theirs.ids(text)) + 2
        assert one_file.tokenize(text, vocab, ranks, length).tolist() == [
            theirs.bos_id,
            *theirs.ids(text),
            theirs.eos_id,
        ]


def test_noise_is_that_of_torch(one_file: ModuleType) -> None:
    """But for the rounding of its float32 logarithm, sine and cosine."""
    z = one_file.noise(2**32 + 5, 4, 16, 16)
    assert z.shape == (16, 16, 4)
    assert np.abs(z.transpose(2, 0, 1)[None] - torch_randn((1, 4, 16, 16), seed=5)).max() < 4e-6


def test_gelu(one_file: ModuleType) -> None:
    x = np.linspace(-12, 12, 10_001)
    assert np.abs(one_file.gelu(x) - gelu(x)).max() < 5e-7


def test_what_it_does_not_compute_is_refused(one_file: ModuleType, sd15: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"prediction_type": "v_prediction"}))
    with pytest.raises(SystemExit, match="prediction_type is 'v_prediction'; this file computes 'epsilon' alone"):
        one_file.read_config(tmp_path / "config.json", prediction_type="epsilon")
    with pytest.raises(SystemExit, match="a latent of 4×3×2 numbers; wanted a multiple of 16"):
        one_file.noise(0, 4, 3, 2)
