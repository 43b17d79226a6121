"""What the command line answers to words that it does not know."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tinyldm import cli
from tinyldm.checkpoints.safetensors import write_safetensors


def refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What standard error says of a command line that is refused."""
    with pytest.raises(SystemExit) as caught:
        cli.main(words)
    assert caught.value.code == 2
    return capsys.readouterr().err


def commands_of(group: Any, *names: str) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command with the words that call it."""
    for name, command in group.items():
        if hasattr(command, "COMMANDS"):
            yield from commands_of(command.COMMANDS, *names, name)
        else:
            yield (*names, name), command


@pytest.mark.parametrize(("words", "command"), list(commands_of(cli.COMMANDS)), ids=lambda value: str(value)[:40])
def test_help_has_examples_that_the_grammar_takes(
    words: tuple[str, ...], command: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        cli.main([*words, "--help"])
    said = capsys.readouterr().out
    examples = [line for line in command.__doc__.splitlines() if line.startswith("  tinyldm ")]
    assert examples
    for example in examples:
        assert example in said
        typed = shlex.split(re.split(r" >>? | {3,}| \| ", example.strip())[0], comments=True)
        args, unknown = cli.parser().parse_known_args(typed[1:])
        assert not unknown
        assert tuple(typed[1 : 1 + len(words)]) == words
        assert args.run == command.run


def test_nearest_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert "unknown: 'smaple'; did you mean sample?" in refused(["smaple", "x"], capsys)
    assert "did you mean record?" in refused(["golden", "recrod"], capsys)
    assert "known are sample, img2img, " in refused(["xyz"], capsys)


def test_unknown_option_shows_the_usage_of_its_own_command(capsys: pytest.CaptureFixture[str]) -> None:
    err = refused(["sample", "x", "--stpes", "3"], capsys)
    assert err.startswith("usage: tinyldm sample ")
    assert "unknown option --stpes; did you mean --steps?" in err
    err = refused(["golden", "diff", "a", "b", "--tolerence=auto"], capsys)
    assert err.startswith("usage: tinyldm golden diff ")
    assert "unknown option --tolerence; did you mean --tolerance?" in err


def test_texts_stand_side_by_side(capsys: pytest.CaptureFixture[str]) -> None:
    assert "unexpected: 'y'" in refused(["sample", "x", "--seed", "1", "y"], capsys)


def test_nearest_sampler_and_option_of_it(run) -> None:
    _, _, err = run("sample", "x", "--sampler", "eular")
    assert err.startswith("tinyldm: error: sampler 'eular' is unknown; did you mean 'euler'?; take one of ddim, ")
    assert err.count("\n") == 1
    assert "did you mean eta?" in run("sample", "x", "--sampler", "ddim", "--sampler-option", "ets=0.5")[2]
    assert "wants NAME=VALUE" in run("sample", "x", "--sampler-option", "eta")[2]


def test_names_of_samplers_that_others_use_and_their_options(run) -> None:
    from PIL import Image

    for name in ("euler_a", "Euler a", "EulerAncestralDiscreteScheduler"):
        assert run("sample", "x", "-o", "a.png", "--steps", "2", "--seed", "1", "--sampler", name)[0] == 0
    made = []
    for option in ("eta=0", "eta=1"):
        words = ("--steps", "2", "--seed", "1", "--sampler", "ddim", "--sampler-option", option)
        assert run("sample", "x", "-o", "a.png", *words)[0] == 0
        with Image.open("a.png") as picture:
            made.append(picture.tobytes())
    assert made[0] != made[1]


def test_list_of_samplers(run) -> None:
    status, out, _ = run("sample", "--sampler", "help")
    assert status == 0
    assert out.startswith("ddim ")
    assert "EulerDiscreteScheduler" in out


def test_nearest_architecture(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["cost", "--architecture", "sdxll"]) == 2
    assert "did you mean sdxl?" in capsys.readouterr().err


def test_errors_come_before_the_announcement(run) -> None:
    for words in (["--sampler", "magic"], ["--steps", "0"], ["--guidance-scale", "nan"], ["--width", "15"]):
        status, _, err = run("sample", "x", *words)
        assert status == 2
        assert err.count("\n") == 1


@pytest.mark.parametrize("name", ["out.bin", "out.ckpt", "out.PT", "out.gguf"])
def test_convert_makes_no_folder_of_a_file_name(checkpoint: Path, tmp_path: Path, capsys, name: str) -> None:
    assert cli.main(["convert", str(checkpoint), str(tmp_path / name)]) == 2
    assert "end the name in .safetensors" in capsys.readouterr().err
    assert not (tmp_path / name).exists()


def test_seed_of_minus_one_is_drawn(run) -> None:
    seeds = {run("sample", "x", "-o", "a.png", "--steps", "1", "--seed", "-1")[1].split()[-3] for _ in range(2)}
    assert len(seeds) == 2
    assert "-1," not in seeds


def test_exit_statuses_are_in_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    out = capsys.readouterr().out
    for status in ("0 ", "1 ", "2 ", "130", "141", "143"):
        assert f"\n  {status}" in out or f"; {status}" in out


def test_too_many_threads_are_bounded(run, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2}, raising=False)
    _, _, err = run("info", "--threads", "100000")
    assert "note: 100000 threads are more than the 3 processors here, which would be slower; taking 3\n" in err
    assert "threads" not in run("info", "--threads", "3")[2]
    monkeypatch.setenv("TINYLDM_THREADS", "77")
    assert "note: 77 threads" in run("info")[2]


def test_what_is_no_checkpoint_is_one_line(run, tmp_path: Path) -> None:
    write_safetensors(tmp_path / "empty.safetensors", {})
    for words in (["info", "--model", "empty.safetensors"], ["info", "--model", "nowhere"], ["inspect", "nowhere"]):
        status = cli.main(words)
        assert status == 2
