"""`tinyldm verify` on the embedded checkpoint, whose case diffusers made, and on what must not pass."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from golden.provenance import load_golden
from tiny_checkpoints import write_ldm

import tinyldm
from tinyldm import cli
from tinyldm.errors import InputError
from tinyldm.verify import choose_cases, read_cases, run_case


def test_every_case_is_whole_and_says_where_it_is_published() -> None:
    cases = read_cases()
    assert len({case.name for case in cases}) == len(cases)
    for case in cases:
        assert case.pixels.shape == (3, 3)
        assert case.source
        assert 0 <= case.pixels.min() <= case.pixels.max() <= 1
        assert case.shape[0] == 3
        assert case.noise in ("numpy", "torch")
        assert all(0 <= begin <= size - 3 for begin, size in zip(case.corner, case.shape[1:], strict=True))


@pytest.mark.parametrize("precision", ["fast", "strict"])
def test_embedded_checkpoint_passes(precision: str) -> None:
    model = tinyldm.load(precision=precision)
    (case,) = choose_cases(model)
    assert run_case(model, case).passed
    assert not run_case(model, replace(case, arguments=case.arguments | {"guidance_scale": 3.0})).passed
    assert not run_case(model, replace(case, scheduler={"beta_start": 0.001})).passed


def test_noise_of_torch_and_a_square_elsewhere() -> None:
    """A case as the ones of Stable Diffusion 2 are: torch draws the noise, and the pixels are not those of a corner."""
    pictures, provenance = load_golden("pipelines/emoji")
    arguments = dict(provenance["cases"]["text_euler_a"])
    case = replace(
        read_cases()[-1],
        noise="torch",
        prompt=arguments.pop("prompt"),
        arguments=arguments,
        corner=(20, 31),
        pixels=pictures["text_euler_a"][0, 20:23, 31:34, -1] / 255,
        tolerance=1.5 / 255,
    )
    model = tinyldm.load()
    assert run_case(model, case).passed
    assert not run_case(model, replace(case, noise="numpy")).passed
    assert not run_case(model, replace(case, corner=(0, 31))).passed


def test_unconditional_case(tmp_path: Path) -> None:
    golden, provenance = load_golden("pipelines/ldm")
    steps, seed = provenance["case"]["steps"], provenance["case"]["seed"]
    case = replace(
        next(case for case in read_cases() if case.prompt is None),
        arguments={"steps": steps, "guidance_scale": 1.0, "seed": seed, "sampler": "ddim"},
        shape=(3, 16, 16),
        corner=(13, 13),
        pixels=golden["pictures"][0, -3:, -3:, -1],
        tolerance=1e-4,
    )
    model = tinyldm.load(write_ldm(tmp_path / "ldm"), backend="reference")
    assert run_case(model, case).passed
    assert not run_case(model, replace(case, arguments=case.arguments | {"steps": steps + 1})).passed
    with pytest.raises(InputError, match="wants a prompt"):
        run_case(tinyldm.load(), replace(case, shape=(3, 64, 64)))


def test_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["verify"]) == 0
    assert capsys.readouterr().out.startswith("pass: emoji")


def test_wrong_checkpoint_fails(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["verify", str(checkpoint), "--backend", "reference", "--case", "emoji"]) == 1
    assert capsys.readouterr().out.startswith("FAIL")


def test_choice_by_name(checkpoint: Path) -> None:
    model = tinyldm.load(checkpoint, backend="reference")
    for path, wanted in {
        "models/stable-diffusion-v1-4": {"sd-v1-4-pndm", "sd-v1-4-ddim", "sd-v1-4-lms", "sd-v1-4-dpm"},
        "sd-v1-1.ckpt": {"sd-v1-1-pndm"},
        "models--stabilityai--stable-diffusion-2/snapshots/0": {"sd-v2-ddim", "sd-v2-euler", "sd-v2-dpm"},
        "stable-diffusion-2-base": {"sd-v2-base-pndm", "sd-v2-base-lms"},
        "512-base-ema.ckpt": {"sd-v2-base-pndm", "sd-v2-base-lms"},
        "hub/ldm-celebahq-256": {"ldm-celebahq-ddim"},
        "LCM_Dreamshaper_v7": {"lcm-dreamshaper-1", "lcm-dreamshaper-3"},
    }.items():
        assert {case.name for case in choose_cases(model.replaced(path=Path(path)))} == wanted
    with pytest.raises(InputError, match="--case"):
        choose_cases(model.replaced(path=Path("stable-diffusion-2-1")))
    with pytest.raises(InputError, match="--case"):
        choose_cases(model)
    with pytest.raises(InputError, match="unknown"):
        choose_cases(model, "nothing")
    assert np.isfinite(run_case(model, read_cases()[-1]).found).all()
