"""The tutorial of chapter 12, run as its reader runs it: what its blocks print, and a plot of how a fault hides.

The blocks of the page are one session of Python and a terminal in the same folder. Those whose fence says `pytorch` are
a session of their own; where PyTorch is not installed, what they printed before stays.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import re
import shlex
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

import tinyldm
from tinyldm.cli import main

PAGE = Path(__file__).parents[1] / "book" / "porting.md"
BLOCK = re.compile(r"^```(python|sh)( pytorch)?\n(.*?)^```$", re.DOTALL | re.MULTILINE)
PARTS = ("pytorch", "numpy")


def run(part: str, folder: Path) -> tuple[list[str], dict[str, Any]]:
    """What each block of a part of the page printed, up to the first empty line; and the names that they leave."""
    said, session = [], {"__name__": "porting"}
    with contextlib.chdir(folder):
        for language, mark, text in BLOCK.findall(PAGE.read_text(encoding="utf-8")):
            if (mark == " pytorch") != (part == "pytorch"):
                continue
            with contextlib.redirect_stdout(io.StringIO()) as out:
                if language == "python":
                    exec(compile(text, str(PAGE), "exec"), session)
                for line in text.splitlines() if language == "sh" else ():
                    main(shlex.split(line)[1:])
            said.append(out.getvalue().partition("\n\n")[0].strip())
    return said, session


def printed(folder: Path, part: str) -> None:
    """Store what the blocks of a part print, each by its number, where the page shows it."""
    with tempfile.TemporaryDirectory() as work:
        said, _ = run(part, Path(work))
    page = PAGE.read_text(encoding="utf-8")
    for number, text in enumerate(said, 1):
        if f"porting-{part}-{number}.txt" in page:
            (folder / f"porting-{part}-{number}.txt").write_text(text + "\n", encoding="utf-8")


# How a fault hides ----------------------------------------------------------------------------------------------------


def decoded(z: np.ndarray, dtype: str, epsilon: float | None = None) -> dict[str, np.ndarray]:
    """Every tensor of a decoder, by key; with an epsilon of its own."""
    vae = tinyldm.load(backend="reference", dtype=dtype).vae
    if epsilon is not None:
        vae.weights.bind([("*", {"eps": epsilon})])
    with tinyldm.golden.trace("*/vae*") as trace:
        vae.decode(z)
    return {key: x.astype(np.float64) for key, x in trace.items()}


def depth(folder: Path) -> dict[str, str]:
    """The error of every tensor where the epsilon is wrong and where it is right."""
    from drawing import BLUE, INK, ORANGE, RED, plots, save  # here: the tests run the page where Matplotlib is not

    model = tinyldm.load()
    picture = model.text_to_image("red apple", steps=15, guidance_scale=4.0, seed=0)[0]
    z = model.vae.unscale(model.encode(picture))
    oracle = decoded(z, "float64")
    figure, ax = plots(width=7, height=3.2)
    found, errors = {}, {}
    for name, dtype, epsilon, colour in (
        ("float32, epsilon 1e-6", "float32", None, BLUE),
        ("float32, epsilon 1e-5", "float32", 1e-5, ORANGE),
        ("float64, epsilon 1e-5", "float64", 1e-5, RED),
    ):
        found[name] = decoded(z, dtype, epsilon)
        errors[name] = np.array([np.abs(found[name][key] - g).max() / np.abs(g).max() for key, g in oracle.items()])
        ax.semilogy(np.maximum(errors[name], 1e-17), ":" if colour == RED else "-", color=colour, label=name)
    ax.semilogy(4 * errors["float32, epsilon 1e-6"], "--", color=BLUE, linewidth=0.8, label="four times the first")
    for tolerance, dtype in ((1e-4, "1e-4"), (1e-9, "1e-9, for float64")):
        ax.axhline(tolerance, color=INK, linestyle=":", linewidth=0.9)
        ax.text(len(oracle) - 1, tolerance * 1.6, dtype, color=INK, fontsize=8, ha="right")
    ax.set_ylim(1e-17, 1e-2)
    ax.set_xlabel("tensor, in the order of execution")
    ax.set_ylabel("largest error / largest value")
    ax.legend(fontsize=8, loc="lower right")
    save(figure, folder / "porting-depth.svg")

    def levels(tensors: dict[str, np.ndarray]) -> np.ndarray:
        return np.round(255 * np.clip(tensors["0000/vae:decode.pixels"] / 2 + 0.5, 0, 1))

    right, wrong = levels(oracle), levels(found["float64, epsilon 1e-5"])
    assert np.abs(right - wrong).max() <= 1
    return {"changed": f"{np.count_nonzero(right != wrong)}", "of_values": f"{right.size:,}"}


def make(folder: Path) -> None:
    """What the blocks print, and the plot."""
    from drawing import write_numbers

    for part in PARTS:
        if part == "numpy" or importlib.util.find_spec("torch"):
            printed(folder, part)
        else:
            print("porting: PyTorch is not installed; what its blocks print stays as it is")
    write_numbers(folder / "porting.json", depth(folder))
