"""Every option of `sample` and `img2img` with every family of models: it changes the picture, or it is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden.family_cases import clip_shapes
from PIL import Image
from pipelines.test_every_family import write_file
from tiny_checkpoints import (
    TURBO_SCHEDULER,
    write_lcm,
    write_ldm,
    write_ldm_text,
    write_refiner,
    write_sd,
    write_sd2,
    write_sdxs,
    write_xl,
    write_xl_turbo,
)

from tinyldm import cli
from tinyldm.checkpoints.safetensors import write_safetensors
from tinyldm.golden.seeded import seeded_weight

FAMILIES: dict[str, Callable[[Path], Path]] = {
    "sd": write_sd,
    "turbo": lambda folder: write_sd2(folder, TURBO_SCHEDULER),
    "lcm": write_lcm,
    "sdxs": write_sdxs,
    "xl": write_xl,
    "xl turbo": write_xl_turbo,
    "refiner": write_refiner,
    "bert": write_ldm_text,
    "unconditional": write_ldm,
    "classes": lambda folder: write_file(folder.parent, "ldm-cin256-v2"),
    "retrieval": lambda folder: write_file(folder.parent, "ldm-retrieval-768"),
}
PROMPTS = {"classes": ["7"], "unconditional": []}
# What is run unless an option says otherwise: guided, where the model can be.
GUIDED = dict.fromkeys(FAMILIES, ("--guidance-scale", "30")) | {"unconditional": ()}
LARGE = {"classes": ("--width", "64", "--height", "64"), "retrieval": ("--width", "128", "--height", "128")}
OPTIONS: dict[str, tuple[str, ...]] = {
    "prompt": (),
    "negative prompt": ("--negative-prompt", "b"),
    "steps": ("--steps", "3"),
    "guidance scale": ("--guidance-scale", "4"),
    "guidance rescale": ("--guidance-rescale", "0.7"),
    "sampler": ("--sampler", "heun"),
    "sampler option": ("--sampler-option", "num_train_timesteps=500"),
    "seed": ("--seed", "9"),
    "rng": ("--rng", "cuda"),
    "width": ("--width", "192"),
    "height": ("--height", "192"),
    "prediction type": ("--prediction-type", "v_prediction"),
}
# The families that refuse an option, and what they say; all others honour it.
TABLE: dict[str, dict[str, str]] = {
    "prompt": {"unconditional": "takes no prompt", "classes": "takes class numbers as prompts"},
    "negative prompt": dict.fromkeys(("lcm", "unconditional", "classes", "retrieval"), "nothing that this model draws"),
    "guidance scale": {"unconditional": "guidance_scale is of models with a condition"},
    "guidance rescale": dict.fromkeys(("lcm", "unconditional"), "these predictions are not guided"),
}
IMAGE_OPTIONS: dict[str, tuple[tuple[str, ...], str | None]] = {
    "strength": (("--strength", "0.5"), None),
    "image": (("--image", "other.png"), None),
    "resize": (("--resize", "stretch"), None),
    "width": (("--width", "32"), None),
    "height": (("--height", "32"), None),
    "negative prompt": (("--negative-prompt", "b"), None),
    "rng": (("--rng", "numpy"), None),
    "size of a latent": (("--image", "latent.safetensors", "--width", "32"), "is a latent, which has its size"),
    "resize of a latent": (("--image", "latent.safetensors", "--resize", "pad"), "is a latent, which has its size"),
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], list[str]]:
    """The options that choose a family's model; each is written once."""
    folder, made = tmp_path_factory.mktemp("families"), {}

    def of(family: str) -> list[str]:
        if family not in made:
            made[family] = FAMILIES[family](folder / family / "model" if family not in LARGE else folder / "file")
        words = ["--model", str(made[family]), "--backend", "reference", *LARGE.get(family, ())]
        if family == "retrieval":
            clip = folder / "clip.safetensors"
            shapes = clip_shapes(64, 1, 49408) | {"text_projection.weight": (768, 64)}
            write_safetensors(clip, {name: seeded_weight(name, shape) for name, shape in shapes.items()})
            words += ["--text-encoder", str(clip)]
        return words

    return of


def picture(words: list[str]) -> np.ndarray:
    """The pixels that a command line makes."""
    assert cli.main([*words, "-o", "a.png"]) == 0
    with Image.open("a.png") as image:
        return np.asarray(image.convert("RGB"))


def check(words: list[str], option: tuple[str, ...], refused: str | None, capsys: pytest.CaptureFixture[str]) -> None:
    """An option changes the picture of a command line, or is refused in one line before anything is made."""
    before = picture(words)
    Path("a.png").unlink()
    capsys.readouterr()
    if refused is None:
        after = picture([*words, *option])
        assert after.shape != before.shape or (after != before).any()
        return
    assert cli.main([*words, *option, "-o", "a.png"]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert refused in error
    assert not Path("a.png").exists()


def slow_where_large(family: str, option: str) -> Any:
    """A run of a large model is left to the slow tests, unless the model refuses the option."""
    large = family in LARGE and family not in TABLE.get(option, {})
    return pytest.param(family, option, marks=pytest.mark.slow if large else ())


@pytest.mark.parametrize(("family", "option"), [slow_where_large(f, o) for f in FAMILIES for o in OPTIONS])
def test_sample(family: str, option: str, models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    refused = TABLE.get(option, {}).get(family)
    prompts = PROMPTS.get(family, ["a"])
    words = ["sample", *models(family), *GUIDED[family], "--steps", "2", "--seed", "4"]
    if option == "prompt":
        before = picture([*words, *prompts])
        other = ["c"] if refused else [p.replace("a", "d").replace("7", "8") for p in prompts]
        if refused is None:
            assert (picture([*words, *other]) != before).any()
            return
        assert cli.main([*words, *other, "-o", "b.png"]) == 2
        assert refused in capsys.readouterr().err
        return
    check([*words, *prompts], OPTIONS[option], refused, capsys)


@pytest.mark.parametrize("option", IMAGE_OPTIONS)
def test_img2img(option: str, models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    Image.effect_noise((41, 27), 90).save("start.png")
    Image.effect_noise((27, 41), 90).save("other.png")
    write_safetensors("latent.safetensors", {"latent": np.ones((1, 4, 8, 8), np.float32)})
    words, refused = IMAGE_OPTIONS[option]
    before = ["img2img", "a", *models("sd"), "--image", "start.png", "--steps", "4", "--seed", "4"]
    check(before, words, refused, capsys)
    assert picture([*before, "--image", "latent.safetensors"]).shape == (16, 16, 3)


@pytest.mark.parametrize(
    ("family", "words", "message"),
    [
        ("sd", ["--ema"], "EMA or plain can be chosen in single files"),
        ("retrieval", ["--variant", "fp16"], "a variant chooses among those of a folder"),
        ("sd", ["--precision", "bf16"], "is of the numba backend"),
        ("unconditional", ["--word", "word.safetensors"], "the checkpoint has no text encoder that reads words"),
        ("sd", ["--word", "xl.safetensors"], "is of text_encoder_2; the checkpoint has text_encoder"),
        ("unconditional", ["--text-encoder", "clip.safetensors"], "so it takes no text encoder"),
        ("sd", ["--guidance-scale", "-2"], "not negative"),
    ],
)
def test_options_of_a_model(
    family: str, words: list[str], message: str, models, tmp_path: Path, monkeypatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    write_safetensors("word.safetensors", {"<cat>": np.ones((1, 16), np.float32)})
    write_safetensors("xl.safetensors", {"clip_g": np.ones((1, 1280), np.float32)})
    write_safetensors(
        "clip.safetensors", {name: seeded_weight(name, shape) for name, shape in clip_shapes(64, 1).items()}
    )
    assert cli.main(["sample", *PROMPTS.get(family, ["a"]), *models(family), *words, "-o", "a.png"]) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
    assert not Path("a.png").exists()
