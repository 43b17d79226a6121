"""Prompts from files and standard input, and what is said about their words."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest
from PIL import Image

import tinyldm
from tinyldm.commands.prompts import note_unknown, read_prompts
from tinyldm.errors import InputError


def test_from_files_and_standard_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "prompts.txt"
    file.write_bytes("\ufeffred apple\r\n\n  fox \n@owl\n".encode())
    monkeypatch.setattr("sys.stdin", io.StringIO("crab\nbus\n"))
    assert read_prompts(["a", f"@{file}", "-", "@@home", "b"]) == "a|red apple|fox|@owl|crab|bus|@home|b".split("|")
    assert read_prompts([]) == []


def test_what_can_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for content, message in ((b"\n \n", "holds no prompts"), (b"\xff\xfe", "UTF-8")):
        (tmp_path / "p.txt").write_bytes(content)
        with pytest.raises(InputError, match=message):
            read_prompts([f"@{tmp_path}/p.txt"])
    with pytest.raises(InputError, match="@@ begins a prompt with @"):
        read_prompts(["@nowhere.txt"])
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    with pytest.raises(InputError, match="standard input: holds no prompts"):
        read_prompts(["-"])


def test_a_prompt_in_another_encoding(run) -> None:
    status, _, err = run("sample", os.fsdecode(b"caf\xe9"), "-o", "a.png")
    assert status == 2
    assert err.startswith("tinyldm: error: prompt 'caf\\udce9': is no valid utf-8")


def test_each_line_is_a_picture(run) -> None:
    Path("p.txt").write_text("x\ny\n")
    assert run("sample", "@p.txt", "-o", "a.png", "--steps", "1", "--seed", "1")[0] == 0
    for k, prompt in ((1, "x"), (2, "y")):
        with Image.open(f"a-{k:04d}.png") as picture:
            assert picture.text["prompt"] == prompt


def test_syntax_that_is_not_read_is_said_once(run) -> None:
    words = ("-o", "a.png", "--steps", "1", "--prompt-syntax")
    _, _, err = run("sample", "(a:1.2) b", "(a:1.2) <lora:x:1>", *words, "plain")
    assert err.count("note: prompt: (a:1.2), <lora:x:1>: read as words, as --prompt-syntax plain has it") == 1
    assert "note: prompt: {a|b}, c++: read as words" in run("sample", "(a:1.2) {a|b} c++", *words, "webui")[2]
    assert "prompt: " not in run("sample", "(a:1.2) [b:c:1] AND d", *words, "webui")[2]
    assert "prompt: " not in run("sample", "a b", *words, "plain")[2]


def test_the_syntax_is_said_in_the_file_and_repeated(run) -> None:
    words = ("--steps", "2", "--seed", "3", "--guidance-scale", "3")
    assert run("sample", "(a:1.4) [b|c]", "-o", "a.png", "--clip-skip", "2", *words)[0] == 0
    with Image.open("a.png") as picture:
        assert (picture.text["prompt_syntax"], picture.text["clip_skip"]) == ("webui", "2")
    assert run("sample", "--from", "a.png", "-o", "b.png")[0] == 0
    assert Path("a.png").read_bytes() == Path("b.png").read_bytes()
    assert run("sample", "(a:1.4) [b|c]", "-o", "c.png", "--prompt-syntax", "plain", *words)[0] == 0
    with Image.open("c.png") as picture, Image.open("a.png") as other:
        assert "prompt_syntax" not in picture.text
        assert picture.tobytes() != other.tobytes()
    assert "prompt_syntax must be plain or webui" in run("sample", "a", "--prompt-syntax", "x", "-o", "d.png")[2]


def test_unknown_words_are_those_without_syntax(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    from tinyldm import cli

    words = ["sample", "(red:1.2) [aple:apple:1] BREAK fox", "--steps", "2", "-o", str(tmp_path / "a.png")]
    assert cli.main(words) == 0
    assert "does not know 'aple'; " in capsys.readouterr().err


def test_unknown_words_on_the_embedded_checkpoint(capsys: pytest.CaptureFixture[str]) -> None:
    model = tinyldm.load()
    note_unknown(model, ["a photo of a cat riding a bicycle", "red apple"])
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "does not know 'photo', 'riding'" in err
    assert "near are 'bicycle', 'cat', " in err
    assert "`tinyldm info` lists" in err
    note_unknown(model, ["zxqv", "красное"])
    assert "'zxqv', 'красное'; `tinyldm info`" in capsys.readouterr().err
    note_unknown(model, ["red apple", "an owl, and a fox!"])
    assert capsys.readouterr().err == ""


def test_info_lists_the_words(capsys: pytest.CaptureFixture[str]) -> None:
    from tinyldm import cli

    assert cli.main(["info", "--backend", "reference"]) == 0
    out = capsys.readouterr().out
    for word in ("apple", "bicycle", "zebra"):
        assert f" {word}" in out
    assert "riding" not in out
    assert max(map(len, out.splitlines())) <= 120


def test_a_scheduler_that_is_replaced_is_said(run, own_checkpoint: Path) -> None:
    import json

    path = own_checkpoint / "scheduler" / "scheduler_config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"_class_name": "PNDMScheduler"}))
    words = ("sample", "x", "-o", "a.png", "--steps", "1", "--model", str(own_checkpoint))
    said = "names the scheduler PNDMScheduler; sampling with ddim (--sampler)"
    assert said in run(*words)[2]
    assert "scheduler" not in run(*words, "--sampler", "ddim")[2]
    path.write_text(json.dumps(config | {"_class_name": "DDIMScheduler"}))
    assert "scheduler" not in run(*words)[2]
