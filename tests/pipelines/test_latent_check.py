"""`check-latent` passes what the encoder and the sampler make, and names each fault that is planted."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import Run
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import tinyldm
from tinyldm.checkpoints.safetensors import write_safetensors
from tinyldm.errors import CheckpointError, InputError
from tinyldm.pipelines.latent_check import (
    FILE,
    LatentReport,
    fit,
    orders,
    read_statistics,
    round_trips,
    statistics_path,
    summary,
)

SHEET = Path(__file__).parents[2] / "docs" / "figures" / "pictures.png"


@pytest.fixture(scope="module")
def model() -> tinyldm.LatentDiffusion:
    return tinyldm.load()


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:  # (6, 3, 64, 64)
    sheet = np.asarray(Image.open(SHEET)).reshape(-1, 64, 16, 64, 3).swapaxes(1, 2).reshape(-1, 64, 64, 3)
    return np.moveaxis(sheet[::16] / 127.5 - 1, -1, 1).astype(np.float32)


@pytest.fixture(scope="module")
def latents(model: tinyldm.LatentDiffusion, pixels: np.ndarray) -> np.ndarray:  # (6, 4, 16, 16)
    return model.encode(pixels)


def white(z: np.ndarray) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(z.shape).astype(np.float32)


def test_encoded_pictures_fit(model: tinyldm.LatentDiffusion, latents: np.ndarray) -> None:
    report = model.check_latent(latents)
    assert report.ok, str(report)
    assert all(0 < checked.score <= 1 for checked in report.latents if checked.score is not None)
    assert report.notes == ()


@pytest.mark.parametrize("guidance_scale", [1.0, 4.0])
def test_sampled_latents_fit(model: tinyldm.LatentDiffusion, guidance_scale: float) -> None:
    seen = []
    model.text_to_image(
        "red apple", steps=15, sampler="ddim", guidance_scale=guidance_scale, callback=lambda s: seen.append(s.latent)
    )
    assert model.check_latent(seen[-1]).ok
    assert "noise" in model.check_latent(seen[4]).names  # the sampler was stopped too early


FAULTS = {
    "scaling factor": lambda z, vae: vae.unscale(z),
    "sign": lambda z, _: -z,
    "channels swapped": lambda z, _: z[:, [1, 0, 2, 3]],
    "shift": lambda z, _: z + 1,
    "clipped": lambda z, _: np.clip(z, -1, 1),
    "noise": lambda z, _: z + 0.6 * white(z),
    "scale": lambda z, _: z * 0.25,
    "flat": lambda z, _: 0 * z + 3,
    "finite": lambda z, _: np.where(np.arange(16) == 3, np.nan, z),
    "layout": lambda z, _: np.moveaxis(z, 1, -1),
    "channels": lambda z, _: np.concatenate([z, z], 1),
    "shape": lambda z, _: z[0],
    "type": lambda z, _: z.astype(complex),
}


@pytest.mark.parametrize("count", [2, pytest.param(6, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_named(model: tinyldm.LatentDiffusion, latents: np.ndarray, name: str, count: int) -> None:
    report = model.check_latent(FAULTS[name](latents[:count], model.vae))
    assert not report.ok
    assert report.names == (name,), str(report)
    assert str(report).endswith("does not fit")


def test_what_to_do_is_what_undoes_it(model: tinyldm.LatentDiffusion, latents: np.ndarray) -> None:
    """The remedies can be followed word by word."""

    def remedy(z: np.ndarray) -> str:
        return model.check_latent(z[:1]).latents[0].faults[0].remedy

    assert remedy(model.vae.unscale(latents)) == "multiply by the scaling factor, 0.4338"
    assert remedy(model.vae.scale(latents)) == "it was applied twice, divide by the scaling factor, 0.4338"
    assert remedy(latents[:, [2, 3, 1, 0]]) == "take z[:, [3, 2, 0, 1]]"
    assert remedy(4 * latents) == "divide by 4"
    assert remedy(latents - 1) == "subtract -1"


def test_another_models_latents_do_not_fit(
    model: tinyldm.LatentDiffusion, latents: np.ndarray, pixels: np.ndarray
) -> None:
    other = tinyldm.load("emoji-vq").encode(pixels[:2])
    assert other.shape[1:] == latents.shape[1:]
    report = model.check_latent(other)
    assert all(checked.faults for checked in report.latents)
    assert "unlike" in report.names


def test_each_latent_is_judged_alone(model: tinyldm.LatentDiffusion, latents: np.ndarray) -> None:
    mixed = np.concatenate([latents[:1], -latents[1:2], latents[2:3]])
    assert [len(checked.faults) for checked in model.check_latent(mixed).latents] == [0, 1, 0]


@settings(max_examples=25, deadline=None)
@given(
    k=st.integers(0, 5),
    shift=st.tuples(st.integers(0, 15), st.integers(0, 15)),
    mirrored=st.booleans(),
    amount=st.floats(0, 0.02),
)
def test_what_is_no_fault_changes_no_feature_much(
    k: int, shift: tuple[int, int], mirrored: bool, amount: float, latents: np.ndarray
) -> None:
    """Features say nothing of where things are, and small noise is small in them."""
    z = np.roll(latents[k], shift, (1, 2))
    z = z[..., ::-1] if mirrored else z
    before = summary(latents[k]).features()
    assert np.allclose(summary(z).features(), before, atol=1e-4)
    assert np.abs(summary(z + amount * white(z)).features() - before).max() < 0.5


@settings(max_examples=30, deadline=None)
@given(scale=st.floats(0.1, 10), offset=st.floats(-5, 5), seed=st.integers(0, 99))
def test_features_follow_scale_and_shift_exactly(scale: float, offset: float, seed: int) -> None:
    z = np.random.default_rng(seed).standard_normal((3, 12, 10))
    one, other = summary(z).features(), summary(scale * z + offset).features()
    assert np.allclose(other[:3], scale * one[:3] + offset)
    assert np.allclose(other[3:6], one[3:6] + np.log(scale))
    assert np.allclose(other[6:], one[6:])


def test_the_spectrum_of_white_noise_is_flat_and_its_power_is_the_variance() -> None:
    z = 2 * np.random.default_rng(0).standard_normal((4, 64, 64))
    assert np.allclose(summary(z).power, 4, rtol=0.1)


def test_orders_of_channels() -> None:
    assert len(set(orders(4))) == 23
    assert len(set(orders(16))) == 121  # all pairs, and all reversed


def test_a_round_trip_moves_noise_and_keeps_pictures(model: tinyldm.LatentDiffusion, latents: np.ndarray) -> None:
    kept, moved = round_trips(latents, model.vae), round_trips(white(latents), model.vae)
    assert kept.max() < 0.15 < 0.4 < moved.min()


# Without statistics, and making them --------------------------------------------------------------------------------


@pytest.fixture
def bare(tmp_path: Path, model: tinyldm.LatentDiffusion) -> Path:
    """The checkpoint without its statistics."""
    folder = tmp_path / "bare"
    shutil.copytree(model.path, folder, ignore=shutil.ignore_patterns(FILE, "*.py"))
    return folder


def test_without_statistics_shape_finiteness_and_scale(bare: Path, latents: np.ndarray) -> None:
    model = tinyldm.load(bare)

    def report(z: np.ndarray) -> LatentReport:
        return model.check_latent(z)

    good = report(latents[:1])
    assert good.ok
    assert good.latents[0].score is None
    assert "no statistics" in good.notes[0]
    assert "--fit" in good.notes[0]
    assert report(-latents[:1]).ok  # which it can't see
    assert report(10 * latents[:1]).names == ("scale",)
    assert report(model.vae.unscale(latents[:1]) * 1.1).names == ("scaling factor",)
    assert report(latents[:1] * np.inf).names == ("finite",)
    assert report(latents[:, :3]).names == ("channels",)


def test_the_command_makes_statistics_and_checks(bare: Path, tmp_path: Path, run: Run) -> None:
    sheet = Image.open(SHEET)
    folder = tmp_path / "pictures"
    folder.mkdir()
    for k in range(16):
        left, top = k % 16 * 64, k // 16 * 64
        sheet.crop((left, top, left + 64, top + 64)).save(folder / f"{k}.png")
    apple = tmp_path / "apple.safetensors"
    fast = ("--model", str(bare), "--backend", "numba")
    run("encode", f"{folder}/3.png", *fast, "-o", str(apple))
    status, out, _ = run("check-latent", str(apple), *fast)
    assert status == 0
    assert "no statistics" in out
    status, out, _ = run("check-latent", str(apple), *fast, "--fit", str(folder))
    assert status == 0
    assert "statistics of 16 latents" in out
    assert "score" in out
    assert out.endswith("fits\n")
    assert (bare / FILE).is_file()
    z = tinyldm.load(bare).encode(Image.open(folder / "3.png"))
    write_safetensors(apple, {"latent": 4 * z}, {})
    status, out, _ = run("check-latent", str(apple), *fast)
    assert status == 1
    assert "fault     scale" in out


def test_errors_come_before_the_work(bare: Path, tmp_path: Path, run: Run) -> None:
    status, _, err = run("check-latent", "--model", str(bare))
    assert status == 2
    assert "--fit FOLDER" in err
    status, _, err = run("check-latent", "--model", str(bare), "--fit", str(tmp_path / "none"))
    assert status == 2
    assert "no such folder" in err
    (tmp_path / "few").mkdir()
    status, _, err = run("check-latent", "--model", str(bare), "--fit", str(tmp_path / "few"))
    assert status == 2
    assert "at least 16 pictures" in err
    with pytest.raises(InputError, match="at least 16"):
        fit([np.zeros((2, 3, 64, 64), np.float32)], tinyldm.load(bare).vae)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 2}', "mangled"])
def test_a_damaged_file_of_statistics_is_refused(text: str, model: tinyldm.LatentDiffusion, tmp_path: Path) -> None:
    path = tmp_path / FILE
    path.write_text(text)
    if text == "mangled":
        stored = json.loads(statistics_path(model.path).read_text())
        stored["covariance"][0][0] = -1
        path.write_text(json.dumps(stored))
    with pytest.raises(CheckpointError, match="not statistics of latents"):
        read_statistics(path)


def test_statistics_come_back_as_they_were_written(model: tinyldm.LatentDiffusion, tmp_path: Path) -> None:
    found = read_statistics(statistics_path(model.path))
    assert found is not None
    found.write(tmp_path / "again.json")
    again = read_statistics(tmp_path / "again.json")
    assert again is not None
    assert np.array_equal(again.covariance, found.covariance)
    assert again.round_trip == found.round_trip
    assert read_statistics(tmp_path / "none.json") is None
    single = tmp_path / "model.safetensors"
    assert statistics_path(single) == tmp_path / f"model.safetensors.{FILE}"
