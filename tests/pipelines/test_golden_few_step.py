"""The few-step models and the first text models end to end, tiny: the latents that diffusers' pipelines end with."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
from golden.provenance import load_golden
from PIL import Image
from tiny_checkpoints import (
    TURBO_SCHEDULER,
    ZERO_SNR_SCHEDULER,
    write_lcm,
    write_ldm_text,
    write_sd2,
    write_sdxs,
    write_xl_turbo,
)

import tinyldm
from tinyldm import cli
from tinyldm.checkpoints.safetensors import write_safetensors
from tinyldm.golden.seeded import seeded_weights
from tinyldm.models.build import expected
from tinyldm.pipelines.request import request
from tinyldm.pipelines.walk import latents

LATENTS, PROVENANCE = load_golden("pipelines/few_step")
WRITE = {
    "sd_turbo": partial(write_sd2, scheduler=TURBO_SCHEDULER),
    "xl_turbo": write_xl_turbo,
    "lcm": write_lcm,
    "sdxs": write_sdxs,
    "zero_snr": partial(write_sd2, scheduler=ZERO_SNR_SCHEDULER),
    "ldm_text": write_ldm_text,
}
USUAL = {  # steps, guidance scale and sampler where none are given
    "sd_turbo": (1, 0.0, "euler"),
    "xl_turbo": (1, 0.0, "euler_a"),
    "lcm": (4, 7.5, "lcm"),
    "sdxs": (1, 0.0, "euler"),
    "zero_snr": (25, 7.5, "ddim"),
    "ldm_text": (25, 7.5, "ddim"),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("few")
    return {name: write(folder / name) for name, write in WRITE.items()}


def final_latents(model: tinyldm.LatentDiffusion, **wanted) -> np.ndarray:
    """The latents that the walk of a request ends with."""
    ((_, z),) = latents(model.parts, request(**wanted).resolved(model.parts))
    return z


def kind_of(case: str) -> str:
    return next(name for name in WRITE if case.startswith(name))


@pytest.mark.parametrize("backend", ["reference", "numba"])
@pytest.mark.parametrize("case", LATENTS)
def test_latents_are_the_original_ones(folders: dict[str, Path], case: str, backend: str) -> None:
    model = tinyldm.load(folders[kind_of(case)], backend=backend)
    ours = final_latents(model, one_stream=True, **PROVENANCE["cases"][case])
    wanted = LATENTS[case]
    assert ours.shape == wanted.shape
    assert np.abs(ours - wanted).max() <= 1e-4 * np.abs(wanted).max()


@pytest.mark.parametrize("kind", WRITE)
def test_what_a_run_takes_where_nothing_is_said(folders: dict[str, Path], kind: str) -> None:
    assert tinyldm.load(folders[kind], backend="reference").defaults == USUAL[kind]


@pytest.mark.parametrize("kind", WRITE)
def test_command(folders: dict[str, Path], kind: str, tmp_path: Path) -> None:
    """One step with the sampler that the folder names gives the picture of the call with the same in words."""
    folder = folders[kind]
    words = ["sample", "a", "--model", str(folder), "--backend", "reference", "--steps", "1", "--seed", "3"]
    assert cli.main([*words, "-o", str(tmp_path / "a.png")]) == 0
    steps, guidance, sampler = 1, *USUAL[kind][1:]
    model = tinyldm.load(folder, backend="reference")
    wanted = model.text_to_image("a", steps=steps, guidance_scale=guidance, sampler=sampler, seed=3)[0]
    with Image.open(tmp_path / "a.png") as image:
        assert image.text["sampler"] == sampler
        np.testing.assert_array_equal(np.asarray(image), np.asarray(wanted))


def test_a_tiny_autoencoder_on_the_command_line(folders: dict[str, Path], tmp_path: Path) -> None:
    """`--vae` with a TAESD: its pictures, not those of the checkpoint's own autoencoder."""
    shapes = expected("AutoencoderTiny", {"encoder_block_out_channels": [8] * 4, "decoder_block_out_channels": [8] * 4})
    file = tmp_path / "taesd.safetensors"
    write_safetensors(file, seeded_weights(shapes))
    picture = tmp_path / "a.png"
    words = ["sample", "a", "--model", str(folders["sd_turbo"]), "--vae", str(file), "--backend", "reference"]
    assert cli.main([*words, "--seed", "3", "-o", str(picture)]) == 0
    model = tinyldm.load(folders["sd_turbo"], backend="reference", vae=file)
    z = final_latents(model, prompt="a", steps=1, guidance_scale=0.0, seed=3, sampler="euler")
    with Image.open(picture) as image:
        assert image.size == (64, 64)  # eight times the latent, where the checkpoint's own makes it twice as large
        np.testing.assert_array_equal(np.asarray(image), np.asarray(model.decode(z)[0]))
