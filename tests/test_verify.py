"""`tinyldm verify` on the embedded checkpoint, whose case diffusers made, and on what must not pass."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

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


@pytest.mark.parametrize("precision", ["fast", "strict"])
def test_embedded_checkpoint_passes(precision: str) -> None:
    model = tinyldm.load(precision=precision)
    (case,) = choose_cases(model)
    assert run_case(model, case).passed
    assert not run_case(model, replace(case, arguments=case.arguments | {"guidance_scale": 3.0})).passed
    assert not run_case(model, replace(case, scheduler={"beta_start": 0.001})).passed


def test_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["verify"]) == 0
    assert capsys.readouterr().out.startswith("pass: emoji")


def test_wrong_checkpoint_fails(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["verify", str(checkpoint), "--backend", "reference", "--case", "emoji"]) == 1
    assert capsys.readouterr().out.startswith("FAIL")


def test_choice_by_name(checkpoint: Path) -> None:
    model = tinyldm.load(checkpoint, backend="reference")
    named = replace(model, path=Path("models/stable-diffusion-v1-4"))
    assert {case.hint for case in choose_cases(named)} == {"v1-4"}
    with pytest.raises(InputError, match="--case"):
        choose_cases(model)
    with pytest.raises(InputError, match="unknown"):
        choose_cases(model, "nothing")
    assert np.isfinite(run_case(model, read_cases()[-1]).found).all()
