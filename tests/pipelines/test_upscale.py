"""Larger pictures: the published upscalers against the originals, and any model tile by tile."""

from __future__ import annotations

import itertools
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden.provenance import load_golden
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tiny_checkpoints import write_super_resolution, write_x4

import tinyldm
from tinyldm import Stopped, cli
from tinyldm.diffusion.random import TorchGenerator
from tinyldm.errors import InputError
from tinyldm.pipelines import upscale
from tinyldm.pipelines.picture_text import read_said
from tinyldm.pipelines.upscale import Upscaling, faded, starts
from tinyldm.pipelines.walk import Walk

GOLDEN, PROVENANCE = load_golden("pipelines/upscale")
WRITE = {"x4": write_x4, "super": write_super_resolution}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("upscale")
    return {name: write(folder / name) for name, write in WRITE.items()}


def small_picture(width: int, height: int) -> Image.Image:
    """As in `make_upscale.py`."""
    y, x = np.mgrid[:height, :width]
    disc = (x - width / 2) ** 2 + (y - height / 2) ** 2 < 9
    colours = np.stack([np.where(disc, 250, 10 * x), np.where(disc, 30, 9 * y), 40 + 0 * x + 60 * (x % 3)], axis=-1)
    return Image.fromarray(np.clip(colours, 0, 255).astype(np.uint8))


def made(model: tinyldm.LatentDiffusion, case: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, np.ndarray]:
    """Final latent and picture, as arrays."""
    seen: dict[str, np.ndarray] = {}
    decode = model.vae.decode

    def watched(z: np.ndarray) -> np.ndarray:
        seen["latent"], seen["picture"] = model.vae.scale(z), decode(z)
        return seen["picture"]

    monkeypatch.setattr(model.vae, "decode", watched)
    arguments = dict(PROVENANCE["cases"][case])
    model.upscale(small_picture(*arguments.pop("size")), **arguments)
    return seen


@pytest.mark.parametrize(
    ("mode", "tolerance"), [({"backend": "reference", "dtype": "float64"}, 1e-9), ({"backend": "numba"}, 2e-4)]
)
@pytest.mark.parametrize("case", PROVENANCE["cases"])
def test_published_upscalers(
    folders: dict[str, Path], case: str, mode: dict[str, str], tolerance: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tinyldm.pipelines.pictures as pictures

    if "dtype" in mode:  # pixels that are not rounded to float32, as in the golden
        exact = lambda image: np.moveaxis(2 * (np.asarray(image, np.float64) / 255) - 1, -1, 0)[None]  # noqa: E731
        monkeypatch.setattr(upscale, "to_pixels", exact)
        assert np.abs(exact(small_picture(4, 4)) - pictures.to_pixels(small_picture(4, 4))).max() < 1e-6
    found = made(tinyldm.load(folders[case.split("_")[0]], **mode), case, monkeypatch)
    for part, ours in found.items():
        wanted = GOLDEN[f"{case}/{part}"]
        assert ours.shape == wanted.shape
        assert np.abs(ours - wanted).max() <= tolerance * np.abs(wanted).max(), part


def test_sizes_that_are_no_multiple(folders: dict[str, Path]) -> None:
    for name in WRITE:
        model = tinyldm.load(folders[name], backend="reference")
        assert model.upscale(small_picture(9, 7), steps=2).size == (18, 14)


X4, SUPER, ANY = "x4", "super", "any"
REFUSED: list[tuple[str, dict[str, Any], str]] = [
    (X4, {"strength": 0.5}, "has no use for strength; it was trained to enlarge"),
    (X4, {"tile": 8}, "has no use for tile"),
    (X4, {"scale": 3.0}, "enlarges by 2, not by 3"),
    (X4, {"noise_level": 351}, "noise_level must be from 0 to 350, not 351"),
    (X4, {"noise_level": -1}, "noise_level must be from 0 to 350, not -1"),
    (SUPER, {"noise_level": 1}, "has no use for noise_level"),
    (SUPER, {"prompt": "a"}, "takes no prompt; leave out 'a'"),
    (SUPER, {"steps": 0}, "0"),
    (ANY, {"noise_level": 1}, "has no use for noise_level; it was not trained to enlarge"),
    (ANY, {"scale": 0.9}, "scale must be a finite number of 1 or more, not 0.9"),
    (ANY, {"scale": float("inf")}, "scale"),
    (ANY, {"scale": 1e5}, "pixels; at most"),
    (ANY, {"strength": 0.0}, "strength"),
    (ANY, {"strength": 1.5}, "strength"),
    (ANY, {"tile": 7}, "tile must be a positive multiple of 2 pixels, not 7"),
    (ANY, {"overlap": 16}, "overlap must be from 0 to less than the tile, 16, not 16"),
    (ANY, {"sampler": "no"}, "sampler 'no' is unknown"),
    (ANY, {"seed": 1.5}, "seed"),
    (ANY, {"rng": "dice"}, "rng: 'dice' is unknown"),
    (ANY, {"rng": "numpy", "seed": 2**32 - 1, "tile": 8, "overlap": 0}, "out of NumPy's range"),
    (ANY, {"prompt_syntax": "html"}, "prompt_syntax must be plain or webui"),
    (ANY, {"prompt": "a AND b", "prompt_syntax": "webui", "guidance_scale": 1.0}, "want a guidance scale above 1"),
    (ANY, {"clip_skip": 99}, "clip_skip 99 is too many"),
    (X4, {"clip_skip": 99}, "clip_skip 99 is too many"),
    (X4, {"negative_prompt": "<lora:a:1>", "prompt_syntax": "webui"}, "acts on the whole picture"),
    (SUPER, {"clip_skip": 2}, "clip_skip wants CLIP's text encoder"),
]


@pytest.mark.parametrize(("name", "wrong", "why"), REFUSED)
def test_refused_before_any_work(
    folders: dict[str, Path], checkpoint: Path, name: str, wrong: dict[str, Any], why: str
) -> None:
    model = tinyldm.load(folders.get(name, checkpoint), backend="reference")
    with pytest.raises(InputError, match=why):
        model.upscale(small_picture(8, 8), **wrong)
    assert not any(node._cache for network in model.networks.values() for node in network.weights.modules())


# Tile by tile ---------------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.integers(1, 60), st.integers(1, 30), st.integers(0, 29))
def test_tiles_cover_all(length: int, tile: int, overlap: int) -> None:
    tile = min(tile, length)
    overlap = min(overlap, tile - 1)
    places = starts(length, tile, overlap)
    assert (places[0], places[-1] + tile) == (0, length)
    for a, b in itertools.pairwise(places):
        assert 0 < b - a <= tile - overlap
    weights = faded(tile, overlap)
    assert (weights > 0).all()
    assert weights.max() <= 1
    np.testing.assert_array_equal(weights, weights[::-1])


def test_tiles_are_image_to_image_of_their_own_seeds(checkpoint: Path) -> None:
    model = tinyldm.load(checkpoint, backend="reference")
    image = small_picture(12, 10)
    large = image.resize((24, 20), Image.Resampling.LANCZOS)
    how: dict[str, Any] = {"steps": 4, "guidance_scale": 3.0, "strength": 0.5}
    found = np.asarray(model.upscale(image, "a", tile=16, overlap=8, seed=5, **how), float)
    total, weight = np.zeros((20, 24, 3)), np.zeros((20, 24, 1))
    window = np.minimum(np.minimum(np.arange(1, 17), np.arange(16, 0, -1)) / 9, 1)
    for t, (top, left) in enumerate([(0, 0), (0, 8), (4, 0), (4, 8)]):
        crop = large.crop((left, top, left + 16, top + 16))
        tile = model.image_to_image("a", crop, seed=5 + t, **how)[0]
        total[top : top + 16, left : left + 16] += np.asarray(tile, float) * window[:, None, None] * window[:, None]
        weight[top : top + 16, left : left + 16] += window[:, None, None] * window[:, None]
    assert np.abs(found - total / weight).max() <= 0.51


# Prompts and seeds read as elsewhere ----------------------------------------------------------------------------------

READ: list[dict[str, Any]] = [
    {"prompt": "(a:1.3) b", "prompt_syntax": "webui"},
    {"prompt": "[a:b:0.5]", "prompt_syntax": "webui"},
    {"prompt": "a AND b :0.5", "prompt_syntax": "webui", "negative_prompt": "(c:1.2)"},
    {"prompt": "a", "clip_skip": 2},
    {"prompt": "a", "rng": "cuda"},
]


@pytest.mark.parametrize("how", READ)
def test_a_tile_is_read_as_image_to_image_reads_it(checkpoint: Path, how: dict[str, Any]) -> None:
    """A picture of one tile is that of image to image, bit for bit, and another than without the setting."""
    model = tinyldm.load(checkpoint, backend="reference")
    same: dict[str, Any] = {"steps": 4, "guidance_scale": 3.0, "strength": 0.9, "seed": 5}
    large = small_picture(8, 8).resize((16, 16), Image.Resampling.LANCZOS)
    found = np.asarray(model.upscale(small_picture(8, 8), **how, **same))
    assert np.array_equal(found, model.image_to_image(image=large, **how, **same)[0])
    plain = {"prompt": how["prompt"], "negative_prompt": how.get("negative_prompt", "")}
    assert (found != np.asarray(model.upscale(small_picture(8, 8), **plain, **same))).any()


@pytest.mark.parametrize("how", READ)
def test_the_upscaler_reads_prompts_and_seeds_too(folders: dict[str, Path], how: dict[str, Any]) -> None:
    model = tinyldm.load(folders["x4"], backend="reference")
    same: dict[str, Any] = {"steps": 3, "guidance_scale": 4.0, "seed": 5}
    plain = {"prompt": how["prompt"], "negative_prompt": how.get("negative_prompt", "")}
    found, without = (np.asarray(model.upscale(small_picture(8, 8), **more, **same)) for more in (how, plain))
    assert (found != without).any()


def test_words_alone_are_the_same_in_both_syntaxes(folders: dict[str, Path]) -> None:
    for name, prompt in (("x4", "a b"), ("super", None)):
        model = tinyldm.load(folders[name], backend="reference")
        found = [model.upscale(small_picture(6, 6), prompt, steps=2, prompt_syntax=s) for s in ("plain", "webui")]
        assert np.array_equal(*found)


def test_weights_in_a_prompt_of_the_upscaler_are_those_of_the_context(folders: dict[str, Path]) -> None:
    """A prompt that changes at no step is the fixed one, though it goes the other way through the walk."""
    model = tinyldm.load(folders["x4"], backend="reference", dtype="float64")
    how: dict[str, Any] = {"steps": 3, "prompt_syntax": "webui", "noise_level": 30, "guidance_scale": 4.0}
    fixed, changing = (
        np.asarray(model.upscale(small_picture(6, 6), p, **how), int) for p in ("(a:1.3)", "[b:(a:1.3):0]")
    )
    assert np.abs(fixed - changing).max() <= 1


def test_a_picture_smaller_than_a_tile(checkpoint: Path) -> None:
    model = tinyldm.load(checkpoint, backend="reference")
    assert model.upscale(small_picture(3, 5), "a", steps=4).size == (6, 10)
    assert model.upscale(small_picture(3, 21), "a", scale=1.5, steps=4).size == (4, 32)


def test_progress_and_an_end_by_the_caller(checkpoint: Path) -> None:
    model = tinyldm.load(checkpoint, backend="reference")
    seen: list[range] = []
    calls: list[int] = []

    def watched(all_calls: range) -> Any:
        seen.append(all_calls)
        return (calls.append(call) for call in all_calls)

    model.upscale(small_picture(12, 10), "a", tile=16, overlap=8, steps=4, strength=0.5, progress=watched)
    assert seen == [range(8)]
    assert calls == list(range(8))

    def stop(step: Any) -> None:
        raise Stopped

    with pytest.raises(Stopped):
        model.upscale(small_picture(4, 4), "a", steps=4, callback=stop)


def test_noise_of_the_picture_comes_first(folders: dict[str, Path]) -> None:
    """The stream goes on behind it, so that no number is drawn twice."""
    model = tinyldm.load(folders["x4"], backend="reference")
    seen: list[np.ndarray] = []
    wanted = Upscaling(small_picture(4, 4), "a", seed=9, steps=2, guidance_scale=1.0)
    upscale.upscale(model.parts, wanted, Walk(callback=lambda step: seen.append(step.latent)))
    whole = TorchGenerator(9).randn((1, 3, 4, 4))
    assert whole.std() > 0.5
    assert len(seen) == 2


# The command ----------------------------------------------------------------------------------------------------------


def test_the_command(checkpoint: Path, folders: dict[str, Path], tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    small_picture(8, 8).save("a.png")
    run = partial(call, capsys, checkpoint)
    status, out, err = run("a.png", "--prompt", "a", "--steps", "4", "--seed", "3", "-o", "b.png")
    assert status == 0, err
    assert out.splitlines()[0] == "b.png"
    said = read_said("b.png").settings
    assert (said["scale"], said["strength"], said["seed"], said["prompt"], said["image"]) == (
        "2.0",
        "0.3",
        "3",
        "a",
        "a.png",
    )
    wanted = tinyldm.load(checkpoint, backend="reference").upscale(small_picture(8, 8), "a", steps=4, seed=3)
    assert np.array_equal(opened("b.png"), wanted)
    words = ("--prompt-syntax", "plain", "--clip-skip", "2", "--rng", "numpy")
    status, _, err = run("a.png", "--prompt", "(a:1.2)", "--steps", "4", *words, "-o", "c.png")
    assert (status, "read as words" in err) == (0, True)
    said = read_said("c.png").settings
    assert (said["clip_skip"], said["rng"], "prompt_syntax" in said) == ("2", "numpy", False)
    assert run("a.png", "--prompt", "(a:1.2)", "--steps", "4", "-o", "d.png")[0] == 0
    assert read_said("d.png").settings["prompt_syntax"] == "webui"
    assert run("a.png", "--steps", "4")[0] == 0
    assert Path("a-large.png").is_file()
    status, _, err = cli_main(
        capsys, "upscale", "a.png", "--model", str(folders["x4"]), "--backend", "reference", "--steps", "2"
    )
    assert status == 0, err
    assert opened("a-large-2.png").shape == (16, 16, 3)
    for words, why in (
        (["a.png", "--noise-level", "3"], "has no use for noise_level"),
        (["no.png"], "no.png: no such file"),
        (["a.png", "-o", "no/b.png"], "can't be written"),
    ):
        status, _, err = run(*words)
        assert (status, why in err) == (2, True)
    repeat = cli_main(capsys, "sample", "--from", "b.png", "--model", str(checkpoint))
    assert (repeat[0], "was made larger by `tinyldm upscale`" in repeat[2]) == (2, True)


def opened(path: str) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def call(capsys: Any, checkpoint: Path, *words: str) -> tuple[int, str, str]:
    return cli_main(capsys, "upscale", "--model", str(checkpoint), "--backend", "reference", *words)


def cli_main(capsys: Any, *words: str) -> tuple[int, str, str]:
    status = cli.main(list(words))
    captured = capsys.readouterr()
    return status, captured.out, captured.err
