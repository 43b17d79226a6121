"""The commands as a user types them: what they print, write and answer to bad input."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import tinyldm
from tinyldm import __version__, cli, memory
from tinyldm.checkpoints.safetensors import read_safetensors, write_safetensors
from tinyldm.kernels import target, using_threads
from tinyldm.models.vae import AutoencoderKL


def opened(path: str) -> Image.Image:
    with Image.open(path) as image:
        image.load()
        return image


def test_long_prompt_is_cut_with_a_note(run) -> None:
    _, _, err = run("sample", "an apple that is red", "-o", "a.png", "--steps", "1")
    note = next(line for line in err.splitlines() if line.startswith("note: "))
    assert "red" in note


def test_sample(run, tmp_path: Path) -> None:
    status, out, err = run("sample", "red apple", "-o", "a.png", "--steps", "2", "--seed", "5")
    assert status == 0
    assert out.splitlines()[0] == "a.png"
    assert "seed 5" in out
    assert "memory" in err
    assert "2/2 steps" in err
    picture = opened("a.png")
    assert picture.size == (16, 16)
    assert picture.text["prompt"] == "red apple"
    assert picture.text["seed"] == "5"
    assert picture.text["sampler"] == "ddim"
    assert picture.text["Software"] == f"tinyldm {__version__}"
    assert os.listdir(tmp_path) == ["a.png"]


def test_same_seed_same_bytes(run) -> None:
    for name in ("a.png", "b.png"):
        run("sample", "x", "-o", name, "--steps", "2", "--seed", "5")
    assert Path("a.png").read_bytes() == Path("b.png").read_bytes()


def test_seed_is_drawn_and_printed(run) -> None:
    _, out, _ = run("sample", "x", "-o", "a.png", "--steps", "1")
    assert opened("a.png").text["seed"] in out


def test_several_pictures_are_numbered(run) -> None:
    run("sample", "x", "y", "-n", "2", "-o", "a.png", "--steps", "1", "--seed", "1")
    assert sorted(os.listdir()) == ["a-0001.png", "a-0002.png", "a-0003.png", "a-0004.png"]
    assert [opened(f).text["prompt"] for f in sorted(os.listdir())] == ["x", "x", "y", "y"]


def test_grid_is_one_picture(run) -> None:
    run("sample", "x", "y", "z", "--grid", "2", "-o", "a.png", "--steps", "1", "--seed", "1")
    assert os.listdir() == ["a.png"]
    assert opened("a.png").size == (32, 32)


def test_default_name_overwrites_nothing(run) -> None:
    for _ in range(2):
        run("sample", "Red apple!", "--steps", "1", "--seed", "1")
    assert sorted(os.listdir()) == ["Red-apple-2.png", "Red-apple.png"]


def test_encode_decode_and_img2img(run) -> None:
    run("sample", "x", "-o", "a.png", "--steps", "1", "--seed", "1")
    status, out, _ = run("encode", "a.png")
    assert status == 0
    assert "1×4×8×8" in out
    with read_safetensors("a.safetensors") as file:
        assert file.shape("latent") == (1, 4, 8, 8)
        assert file.metadata["tinyldm_version"] == __version__
    assert run("decode", "a.safetensors", "-o", "b.png")[0] == 0
    assert opened("b.png").size == (16, 16)
    for source in ("a.png", "a.safetensors"):
        assert run("img2img", "y", "--image", source, "-o", "c.png", "--steps", "2", "--seed", "1")[0] == 0
        assert opened("c.png").text["strength"] == "0.8"
    run("encode", "a.png", "-o", "drawn.safetensors", "--sample", "--seed", "1")
    with read_safetensors("a.safetensors") as mean, read_safetensors("drawn.safetensors") as drawn:
        assert (mean.read("latent") != drawn.read("latent")).any()


def test_info(run) -> None:
    status, out, _ = run("info", "--shapes")
    assert status == 0
    for word in ("unet", "parameters", "F32", "reference", "mid_block.resnets.0.conv1", "1×16×4×4"):
        assert word in out
    assert "None" not in out


def test_info_says_what_computes(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words, said in (
        (["--threads", "1"], f"precision fast, {target().name} vectors of {target().width} numbers, 1 thread\n"),
        (["--threads", "3", "--precision", "strict"], "precision strict, "),
        (["--backend", "reference", "--dtype", "float64"], f"reference (NumPy {np.__version__}), float64\n"),
    ):
        with using_threads(None):
            assert cli.main(["info", "--model", str(checkpoint), *words]) == 0
        assert said in capsys.readouterr().out


def test_cost(run) -> None:
    status, out, _ = run("cost", "--steps", "3")
    assert status == 0
    assert "unet × 6" in out
    assert "times as many" in out


def test_inspect_and_convert(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["inspect", str(checkpoint), "--summary"]) == 0
    assert "unet" in capsys.readouterr().out
    file = tmp_path / "one.safetensors"
    assert cli.main(["convert", str(checkpoint), str(file)]) == 0
    assert cli.main(["convert", str(file), str(tmp_path / "again"), "--dtype", "float16"]) == 0
    assert (tmp_path / "again" / "model_index.json").is_file()
    assert cli.main(["convert", str(checkpoint), str(file)]) == 2  # it exists


BAD = {
    "no model": (["sample", "x", "--model", "nowhere"], "nowhere"),
    "size": (["sample", "x", "--width", "15"], "multiple of 2"),
    "steps": (["sample", "x", "--steps", "0"], "steps"),
    "sampler": (["sample", "x", "--sampler", "magic"], "ddim"),
    "guidance": (["sample", "x", "--guidance-scale", "nan"], "finite"),
    "count": (["sample", "x", "-n", "0"], "-n"),
    "folder": (["sample", "x", "-o", "missing/a.png"], "missing"),
    "suffix": (["sample", "x", "-o", "a.gif"], ".png, .jpg, .jpeg, .webp"),
    "float64 of numba": (["sample", "x", "--backend", "numba", "--dtype", "float64"], "reference"),
    "no picture": (["img2img", "x", "--image", "nothing.png"], "nothing.png"),
    "text as picture": (["encode", "note.txt"], "note.txt"),
    "picture size": (["encode", "odd.png", "--resize", "none"], "multiple of 2 pixels"),
    "picture as latent": (["decode", "odd.png"], "is a picture (PNG), wanted a safetensors file"),
    "not a latent": (["decode", "other.safetensors"], "latent"),
    "latent of another model": (["decode", "wide.safetensors"], "4"),
    "strength": (
        ["img2img", "x", "--image", "odd.png", "--width", "16", "--height", "16", "--strength", "2"],
        "strength",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_status_2(run, case: str) -> None:
    Path("note.txt").write_text("not a picture")
    Image.new("RGB", (15, 16)).save("odd.png")
    write_safetensors("other.safetensors", {"x": np.zeros(3, np.float32)})
    write_safetensors("wide.safetensors", {"latent": np.zeros((1, 9, 4, 4), np.float32)})
    before = sorted(os.listdir())
    words, message = BAD[case]
    status, _, err = run(*words)
    assert status == 2
    last = err.strip().splitlines()[-1]
    assert last.startswith("tinyldm: error: ")
    assert message in last
    assert "Traceback" not in err
    assert sorted(os.listdir()) == before


def test_too_little_memory(run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused before the work begins; and where the system refuses, one line as for every other error."""
    monkeypatch.setattr(memory, "available_bytes", lambda: 1_000_000)
    status, _, err = run("sample", "x", "-o", "a.png", "--steps", "1")
    assert status == 2
    assert "1.0 MB" in err
    assert "--force" in err
    assert not Path("a.png").exists()
    assert run("sample", "x", "-o", "a.png", "--steps", "1", "--force")[0] == 0
    monkeypatch.setattr(memory, "available_bytes", lambda: 1 << 50)
    assert run("sample", "x", "-o", "b.png", "--steps", "1")[0] == 0

    def refuse(*_, **__):
        raise MemoryError("Unable to allocate 147. TiB")

    monkeypatch.setattr(tinyldm.LatentDiffusion, "pictures", refuse)
    status, _, err = run("sample", "x", "-o", "c.png")
    assert status == 2
    assert err.splitlines()[-1].startswith("tinyldm: error: not enough memory: Unable to allocate 147. TiB; ")


def test_a_disk_that_is_full(run, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Image.Image, "save", full)
    status, _, err = run("sample", "x", "-o", "a.png", "--steps", "1")
    assert status == 2
    assert err.splitlines()[-1] == f"tinyldm: error: a.png: can't be written: {os.strerror(errno.ENOSPC)}"
    assert os.listdir() == []


def test_a_picture_of_nan_is_noted(run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(AutoencoderKL, "decode", lambda self, z: np.full((1, 3, 16, 16), np.nan, np.float32))
    status, _, err = run("sample", "x", "-o", "a.png", "--steps", "1")
    assert status == 0
    assert "note: 100.0% of the picture's values are NaN" in err
    assert opened("a.png").getextrema() == ((0, 0),) * 3


def test_debug_shows_the_traceback(run) -> None:
    from tinyldm.errors import InputError

    with pytest.raises(InputError):
        run("sample", "x", "--steps", "0", "--debug")


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_interrupt_is_status_130(checkpoint: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tinyldm", "sample", "x", "--model", str(checkpoint), "--backend", "reference"]
    process = subprocess.Popen(
        [*command, "--steps", "900", "-o", str(tmp_path / "a.png")],
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(cli.__file__).parents[1],
    )
    assert process.stderr is not None
    process.stderr.readline()  # the line about memory: sampling begins
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    err = process.communicate(timeout=60)[1]
    assert process.returncode == 130
    assert "Traceback" not in err
    assert os.listdir(tmp_path) == []


def test_help_of_every_command_has_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    for name in (
        "sample",
        "img2img",
        "batch",
        "encode",
        "decode",
        "info",
        "cost",
        "bench",
        "inspect",
        "convert",
        "verify",
    ):
        with pytest.raises(SystemExit):
            cli.main([name, "--help"])
        assert f"tinyldm {name}" in capsys.readouterr().out.partition("example")[2]
