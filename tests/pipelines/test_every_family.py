"""Every family from a single file in its published layout to a picture: what a person calls, and what is computed.

The UNets and first stages are those of `golden/family_cases.py`: the published configuration, narrowed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden.family_cases import UNETS, clip_shapes
from golden.family_files import shapes_of
from golden.provenance import load_golden
from PIL import Image

import tinyldm
from tinyldm import cli
from tinyldm.checkpoints.safetensors import write_safetensors
from tinyldm.diffusion.samplers import make_sampler
from tinyldm.errors import CheckpointError, InputError
from tinyldm.golden.seeded import seeded_input, seeded_weight
from tinyldm.models.bert import BertEncoder
from tinyldm.models.conditioners import SpatialRescaler
from tinyldm.pipelines.layout import Box, layout_tokens

CLASSES, SEGMENTS = 1001, 182


def bert_shapes(width: int, vocabulary: int = 30522, length: int = 77) -> dict[str, tuple[int, ...]]:
    """A text encoder of one layer."""
    shapes = {"token_emb.weight": (vocabulary, width), "pos_emb.emb.weight": (length, width)}
    shapes |= {"norm.weight": (width,), "norm.bias": (width,)}
    inner, (a, f) = 512, ("attn_layers.layers.0", "attn_layers.layers.1")
    shapes |= {f"{a}.1.to_{part}.weight": (inner, width) for part in "qkv"}
    shapes |= {f"{a}.1.to_out.weight": (width, inner), f"{a}.1.to_out.bias": (width,)}
    shapes |= {f"{f}.1.net.0.0.weight": (4 * width, width), f"{f}.1.net.0.0.bias": (4 * width,)}
    shapes |= {f"{f}.1.net.2.weight": (width, 4 * width), f"{f}.1.net.2.bias": (width,)}
    return shapes | {f"{part}.0.{kind}": (width,) for part in (a, f) for kind in ("weight", "bias")}


# family: (first stage, what else the file holds)
FILES: dict[str, tuple[str, dict[str, tuple[int, ...]]]] = {
    "stable-diffusion-1-inpainting": ("kl-f8", {}),
    "stable-diffusion-2-inpainting": ("kl-f8", {}),
    "stable-diffusion-2-depth": ("kl-f8", {}),
    "stable-diffusion-x4-upscaler": ("kl-f4-upscaler", {}),
    "ldm-text2img-256": ("vq-f4", {f"transformer.{n}": s for n, s in bert_shapes(640).items()}),
    "ldm-cin256": ("vq-f8", {"embedding.weight": (CLASSES - 1, 512)}),
    "ldm-cin256-v2": ("vq-f4", {"embedding.weight": (CLASSES, 512)}),
    "ldm-layout2img": ("vq-f4", {f"transformer.{n}": s for n, s in bert_shapes(512, 8192, 92).items()}),
    "ldm-retrieval-768": ("kl-f16", {}),
    "ldm-unconditional": ("vq-f4", {}),
    "ldm-lsun-churches": ("kl-f8", {}),
    "ldm-bsr-sr": ("vq-f4", {}),
    "ldm-semantic-synthesis": ("vq-f4", {"channel_mapper.weight": (3, SEGMENTS, 1, 1)}),
    "ldm-inpainting-big": ("vq-f4-noattn", {}),
}
TEXT_FOR_SD2 = ("stable-diffusion-2", "stable-diffusion-x4")
WITH_CLIP = ("stable-diffusion-1-inpainting", *[f for f in FILES if f.startswith(TEXT_FOR_SD2)])


def write_file(folder: Path, family: str) -> Path:
    """The whole file of a family in original names, in float16 where the table of words is large."""
    stage, cond = FILES[family]
    parts = {
        "model.diffusion_model.": shapes_of(load_golden(f"families/unet-{family}")[0]),
        "first_stage_model.": shapes_of(load_golden(f"families/first-stage-{stage}")[0]),
        "cond_stage_model.": cond,
    }
    if family in WITH_CLIP:  # a text encoder of a few words: these files are called with a context
        parts["cond_stage_model.transformer."] = clip_shapes(64, 1)
    weights = {
        prefix + name: seeded_weight(prefix + name, shape)
        for prefix, shapes in parts.items()
        for name, shape in shapes.items()
    }
    weights |= {"scale_factor": np.array(0.5, np.float32)} if family == "ldm-lsun-churches" else {}
    file = folder / f"{family}.safetensors"
    write_safetensors(file, weights, dtype="F16" if "text2img" in family else None)
    return file


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory):
    folder, made = tmp_path_factory.mktemp("families"), {}

    def file(family: str) -> Path:
        if family not in made:
            made[family] = write_file(folder, family)
        return made[family]

    return file


def given(name: str, shape: tuple[int, ...]) -> np.ndarray:
    return seeded_input(name, shape)


def by_hand(model: tinyldm.LatentDiffusion, z: np.ndarray, **arrays: Any) -> np.ndarray:
    """Two DDIM steps in the open."""
    concat, context = arrays.pop("concat", None), arrays.pop("context", None)
    sampler = make_sampler("ddim", model.scheduler_config, 2)

    def predict(z: np.ndarray, t: np.number) -> np.ndarray:
        x = z if concat is None else np.concatenate([z, concat], axis=1)
        return model.unet(x, t, *(() if context is None else (context,)), **arrays)

    for i in range(len(sampler)):
        z = sampler.step(predict, i, z)
    return z


def same(images: list[Image.Image], wanted: list[Image.Image]) -> None:
    assert len(images) == len(wanted)
    for image, other in zip(images, wanted, strict=True):
        assert np.abs(np.asarray(image).astype(int) - np.asarray(other)).max() <= 1
        assert np.asarray(image).std() > 1


# family: (channels of the latent, its size, the conditions); each is made as the original's sampling script makes it
def mask_and_latent(model: tinyldm.LatentDiffusion) -> dict[str, np.ndarray]:
    """Stable Diffusion inpainting: the mask at the latent's size, and the latent of the picture without what is new."""
    picture = np.tanh(given("picture", (1, 3, 64, 64)))
    mask = np.zeros((1, 1, 64, 64), np.float32)
    mask[:, :, 16:40, 16:40] = 1
    latent = model.encode(picture * (1 - mask))
    return {"concat": np.concatenate([mask[:, :, ::8, ::8], latent], axis=1)}


def depth(_model: tinyldm.LatentDiffusion) -> dict[str, np.ndarray]:
    """The depth of each part of the picture, from -1 to 1, at the latent's size."""
    return {"concat": np.tanh(given("depth", (1, 1, 8, 8)))}


def small_picture(_model: tinyldm.LatentDiffusion) -> dict[str, np.ndarray]:
    """The ×4 upscaler: the small picture with noise of a level, and that level."""
    return {"concat": np.tanh(given("small", (1, 3, 8, 8))), "class_labels": np.array([20])}


def super_resolution(_model: tinyldm.LatentDiffusion) -> dict[str, np.ndarray]:
    """bsr_sr: the small picture, which is as large as the latent."""
    return {"concat": np.tanh(given("small", (1, 3, 16, 16)))}


def segments(model: tinyldm.LatentDiffusion) -> dict[str, np.ndarray]:
    """Semantic synthesis: a map with one channel for each class, brought to the latent's size."""
    labels = np.arange(64 * 64).reshape(1, 64, 64) % SEGMENTS
    one_hot = np.eye(SEGMENTS, dtype=np.float32)[labels].transpose(0, 3, 1, 2)
    assert isinstance(model.spatial_rescaler, SpatialRescaler)
    return {"concat": model.spatial_rescaler(one_hot)}


def masked_picture(model: tinyldm.LatentDiffusion) -> dict[str, np.ndarray]:
    """inpainting_big: the latent of the picture without what is new, and the mask at its size in [-1, 1]."""
    picture = np.tanh(given("picture", (1, 3, 64, 64)))
    mask = np.zeros((1, 1, 64, 64), np.float32)
    mask[:, :, 16:40] = 1
    latent = model.encode(picture * (1 - mask))
    return {"concat": np.concatenate([latent, 2 * mask[:, :, ::4, ::4] - 1], axis=1)}


def boxes(model: tinyldm.LatentDiffusion) -> dict[str, np.ndarray]:
    """layout2img: classes and corners of boxes as numbers, which its own text encoder reads."""
    ids = np.arange(92)[None] * 37 % 8192
    assert isinstance(model.text_encoder, BertEncoder)
    return {"context": model.text_encoder(ids)}


IMAGE_CONDITIONED = {
    "stable-diffusion-1-inpainting": (mask_and_latent, 768, (4, 8, 8)),
    "stable-diffusion-2-depth": (depth, 1024, (4, 8, 8)),
    "stable-diffusion-x4-upscaler": (small_picture, 1024, (4, 8, 8)),
    "ldm-bsr-sr": (super_resolution, None, (3, 16, 16)),
    "ldm-semantic-synthesis": (segments, None, (3, 16, 16)),
    "ldm-inpainting-big": (masked_picture, None, (3, 16, 16)),
    "ldm-layout2img": (boxes, None, (3, 8, 8)),
}


# Those of which another one of the same kind is tested always.
ALIKE = ("ldm-semantic-synthesis", "ldm-inpainting-big", "ldm-cin256", "ldm-lsun-churches")


def some_slow(*families: str) -> list[Any]:
    """The families as parameters, those of `ALIKE` marked slow."""
    return [pytest.param(f, marks=pytest.mark.slow) if f in ALIKE else f for f in families]


@pytest.mark.parametrize("family", some_slow(*IMAGE_CONDITIONED))
def test_image_conditioned(family: str, files) -> None:
    make, width, shape = IMAGE_CONDITIONED[family]
    model = tinyldm.load(files(family), backend="reference")
    conditions = make(model)
    if width:
        conditions["context"] = given("context", (1, 5, width))
    size = shape[1:] if "concat" not in conditions else None
    images = model.from_conditions(**conditions, steps=2, seed=6, size=size)
    z = tinyldm.random.torch_randn((1, *shape), seed=6)
    same(images, model.decode(by_hand(model, z, **conditions)))
    factor = model.vae.config.factor
    assert images[0].size == (factor * shape[2], factor * shape[1])


def test_guidance_away_from_another_context(files) -> None:
    model = tinyldm.load(files("stable-diffusion-2-depth"), backend="reference")
    context, other = given("context", (2, 5, 1024)), given("other", (1, 5, 1024))
    concat = depth(model)["concat"]
    images = model.from_conditions(
        context, concat=concat, negative_context=other, guidance_scale=3.0, steps=2, seed=2, one_stream=True
    )
    z = tinyldm.random.torch_randn((2, 4, 8, 8), seed=2)
    sampler = make_sampler("ddim", model.scheduler_config, 2)

    def predict(z: np.ndarray, t: np.number) -> np.ndarray:
        x = np.concatenate([z, np.repeat(concat, 2, axis=0)], axis=1)
        without, wanted = model.unet(x, t, other), model.unet(x, t, context)
        return without + 3.0 * (wanted - without)

    for i in range(len(sampler)):
        z = sampler.step(predict, i, z)
    same(images, model.decode(z))


def test_what_from_conditions_refuses(files) -> None:
    model = tinyldm.load(files("stable-diffusion-2-depth"), backend="reference")
    context, concat = given("context", (2, 5, 1024)), given("depth", (1, 1, 8, 8))
    unconditional = tinyldm.load(files("ldm-unconditional"), backend="reference")
    for call, message in (
        (lambda: model.from_conditions(concat=concat), "context is missing"),
        (lambda: model.from_conditions(context), r"concat must have the shape \(N, 1, h, w\)"),
        (lambda: model.from_conditions(context, concat=concat[0]), "concat must have the shape"),
        (lambda: model.from_conditions(context, concat=np.repeat(concat, 3, 0)), "for 2 and 3 pictures"),
        (
            lambda: model.from_conditions(
                context, concat=concat, negative_context=context[..., :9], guidance_scale=2.0
            ),
            "neg",
        ),
        (
            lambda: model.from_conditions(context, concat=concat, class_labels=np.array([1])),
            "no condition 'class_labels'",
        ),
        (lambda: unconditional.from_conditions(context), "takes no context"),
        (lambda: unconditional.from_conditions(concat=concat), "concat must have"),
        (lambda: model.text_to_image("a"), "takes a map of depth"),
        (lambda: tinyldm.load(files("ldm-bsr-sr"), backend="reference").unconditional(), "from_conditions"),
        (lambda: tinyldm.load(files("ldm-layout2img"), backend="reference").text_to_image("a"), "reads no text"),
    ):
        with pytest.raises(InputError, match=message):
            call()


# Commands -------------------------------------------------------------------------------------------------------------


def sample(tmp_path: Path, *words: str) -> np.ndarray:
    """The picture that a command writes."""
    picture = tmp_path / "a.png"
    assert cli.main(["sample", *words, "--backend", "reference", "--seed", "4", "-o", str(picture)]) == 0
    with Image.open(picture) as image:
        return np.asarray(image)


def small(file: Path) -> list[str]:
    """One step towards a picture of 64 × 64."""
    return ["--model", str(file), "--steps", "1", "--width", "64", "--height", "64"]


def test_text_command_with_berts_words(files, tmp_path: Path) -> None:
    file = files("ldm-text2img-256")
    size = ["--width", "32", "--height", "32", "--steps", "2"]
    found = sample(tmp_path, "a virus monster", "--model", str(file), *size)
    model = tinyldm.load(file, backend="reference")
    assert model.tokenizer.encode("a virus monster")[0, :5].tolist() == [101, 1037, 7865, 6071, 102]
    wanted = model.text_to_image("a virus monster", steps=2, seed=4, width=32, height=32)[0]
    np.testing.assert_array_equal(found, np.asarray(wanted))
    context = model.text_encoder(model.tokenizer.encode(["a virus monster"]))
    z = tinyldm.random.torch_randn((1, 3, 8, 8), seed=4)
    unguided = model.text_to_image("a virus monster", steps=2, seed=4, width=32, height=32, guidance_scale=1.0)
    same(unguided, model.decode(by_hand(model, z, context=context)))


def test_a_folder_of_a_text_model_has_berts_words(files, tmp_path: Path) -> None:
    file, folder = files("ldm-text2img-256"), tmp_path / "folder"
    assert cli.main(["convert", str(file), str(folder)]) == 0
    assert {"bert", "vqvae", "unet", "tokenizer", "scheduler"} <= {path.name for path in folder.iterdir()}
    ours, theirs = tinyldm.load(folder, backend="reference"), tinyldm.load(file, backend="reference")
    ids = ours.tokenizer.encode("a virus monster")
    np.testing.assert_array_equal(ids, theirs.tokenizer.encode("a virus monster"))
    np.testing.assert_array_equal(ours.text_encoder(ids), theirs.text_encoder(ids))
    for command in (["info", "--shapes"], ["cost", "--steps", "2"]):
        assert (
            cli.main([*command, "--model", str(folder), "--backend", "reference", "--width", "64", "--height", "64"])
            == 0
        )


@pytest.mark.parametrize("family", some_slow("ldm-cin256", "ldm-cin256-v2"))
def test_class_command(family: str, files, tmp_path: Path) -> None:
    found = sample(tmp_path, "207", *small(files(family)), "--guidance-scale", "1")
    model = tinyldm.load(files(family), backend="reference")
    wanted = model.class_to_image([207], 1, 1.0, 4, height=64, width=64)
    np.testing.assert_array_equal(found, np.asarray(wanted[0]))
    assert model.class_embedder is not None
    context = model.class_embedder(np.array([207]))
    conditioned = model.from_conditions(
        context, steps=1, seed=4, size=tuple(64 // model.vae.config.factor for _ in "hw")
    )
    same(wanted, conditioned)


@pytest.mark.parametrize("family", some_slow("ldm-unconditional", "ldm-lsun-churches"))
def test_unconditional_command(family: str, files, tmp_path: Path) -> None:
    found = sample(tmp_path, *small(files(family)))
    model = tinyldm.load(files(family), backend="reference")
    if family == "ldm-lsun-churches":
        assert model.vae.config.scaling_factor == 0.5  # the file's own
    np.testing.assert_array_equal(found, np.asarray(model.unconditional(1, 1, 4, height=64, width=64)[0]))


def test_layout_command(files, tmp_path: Path) -> None:
    file, layout = files("ldm-layout2img"), tmp_path / "layout.json"
    layout.write_text("[[12, 0.1, 0.2, 0.6, 0.9],\n [3, 0.5, 0.5, 1, 1]]")
    found = sample(tmp_path, *small(file), "--layout", str(layout))
    model = tinyldm.load(file, backend="reference")
    boxes = [Box(12, 0.1, 0.2, 0.6, 0.9), Box(3, 0.5, 0.5, 1, 1)]
    context = model.text_encoder(layout_tokens(boxes, 92, 8192)[None])
    same([Image.fromarray(found)], model.from_conditions(context, steps=1, seed=4, size=(16, 16)))
    (again,) = model.layout_to_image([boxes], steps=1, seed=4, height=64, width=64)
    np.testing.assert_array_equal(found, np.asarray(again))
    repeated = sample(tmp_path, "--from", str(tmp_path / "a.png"), "--model", str(file))
    np.testing.assert_array_equal(found, repeated)


@pytest.mark.slow  # a tiny one is in test_inpainting.py
def test_segments_command(files, tmp_path: Path) -> None:
    file, numbers = files("ldm-semantic-synthesis"), np.arange(64 * 64).reshape(64, 64) % SEGMENTS
    Image.fromarray(numbers.astype(np.uint8)).save(tmp_path / "map.png")
    words = ["--model", str(file), "--steps", "2", "--segments", str(tmp_path / "map.png")]
    found = sample(tmp_path, *words)
    model = tinyldm.load(file, backend="reference")
    same([Image.fromarray(found)], model.from_conditions(**segments(model), steps=2, seed=4))


def test_retrieval_command(files, tmp_path: Path) -> None:
    """The model attends to CLIP's embedding of the prompt, from a text encoder that is given beside it."""
    file, clip = files("ldm-retrieval-768"), tmp_path / "clip.safetensors"
    shapes = clip_shapes(64, 1, 49408) | {"text_projection.weight": (768, 64)}
    write_safetensors(clip, {name: seeded_weight(name, shape) for name, shape in shapes.items()})
    with_text = ["--model", str(file), "--text-encoder", str(clip), "--width", "128", "--height", "128"]
    found = sample(tmp_path, "a bear", *with_text, "--steps", "2", "--guidance-scale", "1")
    model = tinyldm.load(file, backend="reference", text_encoder=clip)
    pooled = model.text_encoder.pooled(model.tokenizer.encode(["a bear"]))
    context = (pooled / np.sqrt((pooled**2).sum()))[:, None]
    z = tinyldm.random.torch_randn((1, 16, 8, 8), seed=4)
    same([Image.fromarray(found)], model.decode(by_hand(model, z, context=context)))
    guided = model.text_to_image("a bear", steps=2, seed=4, width=128, height=128, guidance_scale=3.0)
    same(
        guided,
        model.from_conditions(
            context, negative_context=np.zeros_like(context), guidance_scale=3.0, steps=2, seed=4, size=(8, 8)
        ),
    )
    alone = tinyldm.load(file, backend="reference")
    with pytest.raises(InputError, match="without a text encoder"):
        alone.text_to_image("a bear")
    with pytest.raises(InputError, match="wants a condition"):
        alone.unconditional()
    assert cli.main(["sample", "a bear", "--model", str(file), "--backend", "reference"]) == 2
    unprojected = tmp_path / "unprojected.safetensors"
    write_safetensors(unprojected, {n: seeded_weight(n, s) for n, s in clip_shapes(64, 1, 49408).items()})
    with pytest.raises(InputError, match="no text_projection"):
        tinyldm.load(file, backend="reference", text_encoder=unprojected).text_to_image("a bear")
    with pytest.raises(CheckpointError, match="wanted a checkpoint with one text encoder"):
        tinyldm.load(file, backend="reference", text_encoder=file)


def test_every_family_has_its_way_here_or_in_the_tests_of_its_pipeline() -> None:
    elsewhere = {
        "stable-diffusion-1",
        "stable-diffusion-2",
        "stable-diffusion-xl",
        "stable-diffusion-xl-refiner",
        "ldm-text2img-large",
    }
    assert set(FILES) | elsewhere == set(UNETS)
