"""`--preview`: at which steps, in which files, and what terminals are sent."""

from __future__ import annotations

import argparse
import base64
import io
import os
import re
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from tinyldm.commands.previews import PIECE, Previews, chosen, drawer, half_blocks, iterm, kitty
from tinyldm.errors import InputError


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINYLDM_CACHE", str(tmp_path_factory.mktemp("cache")))


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_which_steps() -> None:
    every, listed = chosen("2"), chosen("1,5")
    assert chosen(None) is None
    assert every is not None
    assert listed is not None
    assert [n for n in range(1, 7) if every(n, 6)] == [2, 4]  # the sixth is the picture
    assert [n for n in range(1, 7) if listed(n, 6)] == [1, 5]
    for text in ("0", "-1", "many", "1,,2", "", "1,0", "2.5"):
        with pytest.raises(InputError, match="--preview wants a number of steps"):
            chosen(text)


def test_files_beside_the_picture(run) -> None:
    words = ("--steps", "11", "--seed", "1", "--preview", "5")
    assert run("sample", "a", "-o", "a.png", *words)[0] == 0
    assert sorted(os.listdir()) == ["a.png", "a.step-05.png", "a.step-10.png"]
    with Image.open("a.step-05.png") as preview:
        assert (preview.size, preview.mode) == ((8, 8), "RGB")


def begun(every: str) -> Previews:
    """Previews of some model."""
    previews = Previews(argparse.Namespace(preview=every, show=False))
    previews.rgb = np.ones((5, 3), np.float32)
    return previews


def step(index: int, value: float) -> SimpleNamespace:
    """A step of one picture of one colour."""
    return SimpleNamespace(index=index, count=9, pictures=range(1), clean=np.full((1, 4, 2, 2), value, np.float32))


def test_what_waits_is_written_whatever_ends_the_run(tmp_path: Path) -> None:
    def stopped() -> None:
        with begun("1") as previews:
            for index in range(5):
                previews.see(step(index, -index / 10), lambda k: tmp_path / "new" / "a.png")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert sorted(os.listdir(tmp_path / "new")) == [f"a.step-{number}.png" for number in range(1, 6)]
    with Image.open(tmp_path / "new" / "a.step-4.png") as preview:
        assert preview.getpixel((1, 1)) == (102, 102, 102)  # -0.2


def test_the_run_does_not_wait_for_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free, written = threading.Event(), []
    monkeypatch.setattr("tinyldm.commands.previews.BETWEEN", 0)
    monkeypatch.setattr("tinyldm.commands.previews.write", lambda *file: free.wait(30) and written.append(file))
    with begun("1") as previews:
        for index in range(3):
            previews.see(step(index, 0), lambda k: tmp_path / "a.png")
        assert not written
        free.set()
    assert [suffix for _, suffix, _ in written] == [".step-1.png", ".step-2.png", ".step-3.png"]


def test_one_that_is_there_is_replaced(tmp_path: Path) -> None:
    for value in (0.0, 1.0):
        with begun("1") as previews:
            previews.see(step(0, value), lambda k: tmp_path / "a.png")
        with Image.open(tmp_path / "a.step-1.png") as preview:
            assert preview.getpixel((0, 0)) == (255, 255, 255)
        (tmp_path / "a.step-1.png").write_text("another")


def test_the_picture_is_the_same(run) -> None:
    assert run("sample", "a", "-o", "a.png", "--steps", "3", "--seed", "1")[0] == 0
    assert run("sample", "a", "-o", "b.png", "--steps", "3", "--seed", "1", "--preview", "1")[0] == 0
    assert Path("a.png").read_bytes() == Path("b.png").read_bytes()


def test_several_pictures_have_previews_of_their_own(run) -> None:
    assert run("sample", "a", "-n", "2", "-o", "a.png", "--steps", "3", "--preview", "2")[0] == 0
    assert sorted(os.listdir()) == ["a-0001.png", "a-0001.step-2.png", "a-0002.png", "a-0002.step-2.png"]
    assert run("sample", "a", "-n", "2", "--grid", "2", "-o", "g.png", "--steps", "3", "--preview", "2")[0] == 0
    assert [name for name in sorted(os.listdir()) if name[0] == "g"] == [
        "g-0001.step-2.png",
        "g-0002.step-2.png",
        "g.png",
    ]


def test_of_img2img_and_of_a_batch(run) -> None:
    Image.new("RGB", (16, 16), "red").save("in.png")
    words = ("--steps", "4", "--preview", "3")
    assert run("img2img", "a", "--image", "in.png", "--strength", "0.5", "-o", "b.png", *words)[0] == 0
    assert Path("b.step-3.png").is_file()
    Path("rows.txt").write_text("a\nb\n")
    assert run("batch", "rows.txt", "--name", "{prompt}/{row}.png", *words)[0] == 0
    found = sorted(path.as_posix() for path in Path("rows").rglob("*.png"))
    assert found == ["rows/a/1.png", "rows/a/1.step-3.png", "rows/b/2.png", "rows/b/2.step-3.png"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--preview", "x"), "--preview wants a number of steps"),
        (("--show",), "--show is where --preview goes"),
        (("--preview", "2", "--rows", "steps=1,2"), "leave it out with --rows and --columns"),
        (("--preview", "2", "--show"), "--show wants a terminal"),
    ],
)
def test_what_will_not_do_is_said_before_any_work(run, words: tuple[str, ...], message: str) -> None:
    status, _, err = run("sample", "a", "-o", "a.png", *words)
    assert status == 2
    assert message in err.splitlines()[-1]
    assert os.listdir() == []


def test_a_preview_that_can_not_be_written_costs_no_picture(run) -> None:
    Path("a.step-1.png").mkdir()
    status, _, err = run("sample", "a", "-o", "a.png", "--steps", "3", "--preview", "1")
    assert status == 0
    assert err.count("note: no more previews: a.step-1.png: ") == 1
    assert Path("a.png").is_file()


def test_which_terminals() -> None:
    terminal = Terminal()
    assert drawer(terminal, {"KITTY_WINDOW_ID": "1"}) is kitty
    assert drawer(terminal, {"TERM": "xterm-kitty"}) is kitty
    assert drawer(terminal, {"TERM_PROGRAM": "ghostty"}) is kitty
    assert drawer(terminal, {"TERM_PROGRAM": "iTerm.app"}) is iterm
    assert drawer(terminal, {"COLORTERM": "truecolor", "TERM": "xterm-256color"}) is half_blocks
    with pytest.raises(InputError, match="this terminal is not known to show pictures"):
        drawer(terminal, {"TERM": "vt100"})
    with pytest.raises(InputError, match="wants a terminal"):
        drawer(io.StringIO(), {"KITTY_WINDOW_ID": "1"})


def noise(side: int) -> Image.Image:
    return Image.effect_noise((side, side), 90).convert("RGB")


def test_what_kitty_is_sent_is_the_picture() -> None:
    image = noise(64)
    messages = re.findall(r"\x1b_G([^;]*);([^\x1b]*)\x1b\\", kitty(image))
    assert len(messages) > 1
    assert messages[0][0].startswith("a=T,f=100,")
    assert [fields.rpartition("m=")[2] for fields, _ in messages] == ["1"] * (len(messages) - 1) + ["0"]
    assert all(len(piece) <= PIECE for _, piece in messages)
    sent = Image.open(io.BytesIO(base64.b64decode("".join(piece for _, piece in messages))))
    assert sent.tobytes() == image.tobytes()


def test_what_iterm_is_sent_is_the_picture() -> None:
    image = noise(8)
    (data,) = re.findall(r"\x1b\]1337;File=[^:]*inline=1[^:]*:([^\x07]*)\x07", iterm(image))
    assert Image.open(io.BytesIO(base64.b64decode(data))).tobytes() == image.tobytes()


def test_half_blocks_are_the_pixels() -> None:
    image = noise(6).crop((0, 0, 6, 5))  # of an odd height: the last line is doubled
    found = re.findall(r"38;2;(\d+);(\d+);(\d+)m\x1b\[48;2;(\d+);(\d+);(\d+)m▀", half_blocks(image))
    rows = [found[k : k + 6] for k in range(0, 18, 6)]
    for y in range(5):
        for x in range(6):
            colour = tuple(map(int, rows[y // 2][x][3 * (y % 2) : 3 * (y % 2) + 3]))
            assert colour == image.getpixel((x, y))
    assert all(len(re.findall("▀", line)) <= 64 for line in half_blocks(noise(100)).splitlines())


def test_shown_in_the_terminal(run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tinyldm.commands.previews.drawer", lambda *_: half_blocks)
    status, _, err = run("sample", "a", "-o", "a.png", "--steps", "3", "--preview", "2", "--show")
    assert status == 0
    assert err.count("▀") == 8 * 4
    assert os.listdir() == ["a.png"]
