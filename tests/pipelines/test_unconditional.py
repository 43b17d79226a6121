"""Sampling without text: unconditional models against diffusers, class-conditional ones against the loop by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from golden.provenance import load_golden
from tiny_checkpoints import write_ldm

import tinyldm
from tinyldm import cli
from tinyldm.checkpoints.base import MemorySource
from tinyldm.diffusion.samplers import make_sampler
from tinyldm.errors import InputError
from tinyldm.golden.seeded import seeded_weights
from tinyldm.models.build import build, expected

CLASSES = {"num_classes": 6, "embed_dim": 16}


@pytest.fixture(scope="module")
def ldm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_ldm(tmp_path_factory.mktemp("ldm") / "tiny")


@pytest.mark.parametrize("backend", ["reference", "numba"])
def test_unconditional_is_the_original(ldm: Path, backend: str) -> None:
    golden, provenance = load_golden("pipelines/ldm")
    images = tinyldm.load(ldm, backend=backend).unconditional(**provenance["case"], one_stream=True)
    wanted = np.round(golden["pictures"] * 255)
    assert wanted.std() > 5
    assert (np.abs(np.stack([np.asarray(image) for image in images]) - wanted) > 1).mean() <= 0.001


def test_unconditional_command(ldm: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["sample", "--model", str(ldm), "-n", "2", "--steps", "2", "--backend", "reference"]
    assert cli.main([*words, "-o", str(tmp_path / "a.png")]) == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a-0001.png", "a-0002.png"]
    assert cli.main([*words, "a prompt", "-o", str(tmp_path / "b.png")]) == 2
    assert "takes no prompt" in capsys.readouterr().err
    assert cli.main(["info", "--model", str(ldm), "--backend", "reference"]) == 0
    assert "VQModel" in capsys.readouterr().out


@pytest.fixture
def by_class(checkpoint: Path) -> tinyldm.LatentDiffusion:
    model = tinyldm.load(checkpoint, backend="reference")
    source = MemorySource(seeded_weights(expected("ClassEmbedder", CLASSES)))
    embedder = build("ClassEmbedder", CLASSES, source, model.runtime)
    return model.replaced(text_encoder=None, tokenizers={}, class_embedder=embedder)


def test_classes_are_guided_away_from_the_last_one(by_class: tinyldm.LatentDiffusion) -> None:
    images = by_class.class_to_image([2, 4], steps=3, guidance_scale=2.0, seed=1, one_stream=True)
    z = tinyldm.random.torch_randn((2, 4, 8, 8), seed=1)
    none, wanted = by_class.class_embedder(np.array([5, 5])), by_class.class_embedder(np.array([2, 4]))
    sampler = make_sampler("ddim", by_class.scheduler_config, 3)

    def predict(z: np.ndarray, t: np.number) -> np.ndarray:
        without, given = by_class.unet(z, t, none), by_class.unet(z, t, wanted)
        return without + 2.0 * (given - without)

    for i in range(len(sampler)):
        z = sampler.step(predict, i, z)
    for image, other in zip(images, by_class.decode(z), strict=True):
        assert np.abs(np.asarray(image).astype(int) - np.asarray(other)).max() <= 1


def test_what_each_kind_refuses(by_class: tinyldm.LatentDiffusion, checkpoint: Path, ldm: Path) -> None:
    text = tinyldm.load(checkpoint, backend="reference")
    for call, message in (
        (lambda: by_class.class_to_image([6]), "0 to 5"),
        (lambda: by_class.text_to_image("a"), "no prompts"),
        (lambda: by_class.unconditional(), "wants a condition"),
        (lambda: text.class_to_image([1]), "no classes"),
        (lambda: text.unconditional(), "wants a condition"),
        (lambda: tinyldm.load(ldm, backend="reference").text_to_image("a"), "no prompts"),
    ):
        with pytest.raises(InputError, match=message):
            call()
