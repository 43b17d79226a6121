"""`tinyldm doctor`: what it finds here, and on machines where something is wrong."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path

import pytest

from tinyldm import cli, cost, doctor
from tinyldm.architectures import random_model
from tinyldm.runtime import Runtime


def test_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["packages"]["numpy"] == version("numpy")
    assert found["packages"].keys() >= {"numpy", "scipy", "pillow", "numba", "tqdm"}
    assert found["extras"]["hub"] == []
    assert found["problems"] == []
    assert found["threads"] >= 1
    assert found["vectors"].split(",")[0] in ("avx512", "avx2", "neon", "sse")
    assert found["memory"]["available"] <= found["memory"]["in all"]
    speed = found["speed"]
    assert speed["picture"] == pytest.approx(25 * speed["step"] + speed["decode"])
    assert speed["sd15_step"] > speed["step"] > 0


def test_as_text(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TINYLDM_PRECISION", "strict")
    assert cli.main(["doctor", "--no-speed"]) == 0
    out = capsys.readouterr().out
    for word in (
        "packages   ",
        "extras     ",
        "processor  ",
        "threads",
        "memory     ",
        "compiled kernels",
        "hub (HF_HOME)",
    ):
        assert word in out
    assert "variable   TINYLDM_PRECISION=strict" in out
    assert "speed" not in out


def test_the_speed_in_words() -> None:
    found = doctor.Examination("a system", {"numpy": None}, {"hub": ["huggingface_hub"], "shell": []})
    found.speed = doctor.Speed(step=0.1, decode=0.5, matmul_gflops=100.0)
    text = found.as_text()
    assert "0.100 s a guided step, 3.0 s for 25 steps" in text
    assert "about 16.1 s a guided step, at the 100 GFLOP/s" in text
    assert "numpy -" in text
    assert "complete: shell" in text
    assert "hub      misses huggingface_hub" in text


def test_the_step_of_stable_diffusion_is_as_it_is_counted() -> None:
    model = random_model("sd15", Runtime.choose())
    step = cost.total(cost.unet_costs(model.unet, 64, 64, cost.context_tokens(model)))
    assert step * 2 * 2 == doctor.SD15_STEP_FLOP


def test_what_is_broken_is_a_problem(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from tinyldm.kernels import compile

    def broken() -> None:
        raise OSError("no such library")

    monkeypatch.setattr(doctor, "look_at_processor", lambda found: broken())
    monkeypatch.setattr(compile, "cache_folder", lambda: None)
    found = doctor.examine(measure=False)
    assert any("OSError: no such library" in problem for problem in found.problems)
    assert any("compiled in every run" in problem for problem in found.problems)
    assert "problem    " in found.as_text()


def test_a_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").write_bytes(bytes(100))
    assert doctor.cache("x", tmp_path) == doctor.Cache("x", str(tmp_path), True, 100)
    assert doctor.cache("x", tmp_path / "not" / "there").writable

    def refuse(**_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(doctor.tempfile, "TemporaryFile", refuse)
    assert not doctor.cache("x", tmp_path).writable


def test_requirements_of_the_source_tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(_: str) -> None:
        raise doctor.importlib.metadata.PackageNotFoundError

    monkeypatch.setattr(doctor.importlib.metadata, "requires", missing)
    monkeypatch.setattr(doctor, "__file__", str(Path(__file__).parents[2] / "tinyldm" / "doctor.py"))
    needed, extras = doctor.requirements()
    assert {"numpy", "pillow"} <= set(needed)
    assert extras["hub"] == ["huggingface_hub"]
    assert doctor.of_source_tree(tmp_path / "pyproject.toml") == []
