"""The shell completes commands, options and their values; bash is asked itself."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tinyldm import cli
from tinyldm.commands.completion import SHELLS, known_values
from tinyldm.diffusion.samplers import find_sampler
from tinyldm.diffusion.streams import generators
from tinyldm.runtime import Runtime


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The script for bash."""
    pytest.importorskip("shtab", reason="shtab, the extra `shell`, is not installed")
    file = tmp_path_factory.mktemp("completion") / "tinyldm.bash"
    command = [sys.executable, "-m", "tinyldm", "completion", "bash"]
    file.write_text(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return file


@pytest.mark.extra
@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (["sam"], {"sample"}),
        (["in"], {"info", "inspect"}),
        (["golden", ""], {"record", "diff", "check", "bisect", "report"}),
        (["sample", "--guid"], {"--guidance-scale", "--guidance-rescale"}),
        (["sample", "--sampler", "euler"], {"euler", "euler_a"}),
        (["img2img", "--rng", "c"], {"cuda"}),
        (["img2img", "--image", "st"], {"start.png"}),
        (["completion", "z"], {"zsh"}),
    ],
)
def test_bash(script: Path, words: list[str], wanted: set[str], tmp_path: Path) -> None:
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("there is no bash")
    (tmp_path / "start.png").touch()
    line = " ".join(f"'{word}'" for word in ["tinyldm", *words])
    typed = f"COMP_WORDS=({line}); COMP_CWORD={len(words)}; COMP_LINE={line!r}; COMP_POINT=99"
    ask = "compopt() { :; }; $(complete -p tinyldm | sed 's/.*-F \\([^ ]*\\) .*/\\1/') tinyldm \"${COMP_WORDS[-1]}\""
    commands = f"source {script}; {typed}; {ask}; printf '%s\\n' \"${{COMPREPLY[@]}}\""
    done = subprocess.run([bash, "-c", commands], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert set(done.stdout.split()) >= wanted
    assert all(word.startswith(words[-1]) for word in done.stdout.split())


@pytest.mark.extra
@pytest.mark.parametrize("shell", SHELLS)
def test_every_shell_has_a_script(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("shtab", reason="shtab, the extra `shell`, is not installed")
    assert cli.main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert all(word in script for word in ("sample", "guidance-scale", "img2img"))


def test_without_the_package(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert cli.main(["completion", "bash"]) == 2
    assert "pip install 'tinyldm[shell]'" in capsys.readouterr().err


def test_the_values_that_are_completed_are_taken() -> None:
    known = known_values()
    assert all(find_sampler(name) == name for name in known["--sampler"])
    assert all(generators(name) for name in known["--rng"])
    assert all(Runtime.choose("numba", precision=precision) for precision in known["--precision"])
    assert all(Runtime.choose(backend) for backend in known["--backend"])
