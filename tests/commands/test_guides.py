"""Pictures that guide, from the command line: what is made of them, what is said of them, and what is refused."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_checkpoints import write_controlnet, write_image_encoder, write_ip_adapter, write_xl_controlnet

import tinyldm
from tinyldm import cli
from tinyldm.commands.guides import check_guides
from tinyldm.pipelines.picture_text import read_said

SAMPLE = ("sample", "a", "--steps", "3", "--seed", "1")


@pytest.fixture
def here(run, tmp_path: Path) -> Path:
    """The folder that commands run in, with two ControlNets and two pictures."""
    here = Path.cwd()
    for i in range(2):
        write_controlnet(here / f"control{i}", start=i)
    write_ip_adapter(here / "models" / "ip.safetensors", "sd", "projection")
    write_ip_adapter(here / "models" / "ip-plus.safetensors", "sd", "plus", start=1)
    write_ip_adapter(here / "ip-alone.safetensors", "sd", "projection")
    write_image_encoder(here / "models" / "image_encoder")
    write_image_encoder(here / "other_encoder", projection_dim=13)
    y, x = np.mgrid[:16, :24]
    disc = np.where(((x - 11) ** 2 + (y - 7) ** 2 < 30)[..., None], [255, 128, 0], 0)
    Image.fromarray(disc.astype(np.uint8)).save("disc.png")
    Image.fromarray(np.stack([x * 10, y * 10, x * y % 255], axis=-1).astype(np.uint8)).save("other.png")
    return here


def picture(file: str) -> np.ndarray:
    with Image.open(file) as image:
        return np.asarray(image)


def test_a_picture_guided_by_two_and_its_settings(run, here: Path, checkpoint: Path) -> None:
    options = [f"--{name}={value}" for name, value in (
        ("controlnet", "control0"), ("control-image", "disc.png"), ("control-scale", 0.7), ("control-end", 0.7),
        ("controlnet", "control1"), ("control-image", "other.png"), ("control-scale", 1.2), ("control-end", 1),
        ("control-start", 0.3), ("preprocess", "canny"), ("preprocess", "none"), ("canny", "40,90"),
    )]  # fmt: skip
    status, _, err = run(*SAMPLE, *options, "-o", "a.png")
    assert status == 0, err
    model = tinyldm.load(checkpoint, backend="reference", controlnet=[here / "control0", here / "control1"])
    with Image.open("disc.png") as disc, Image.open("other.png") as other:
        model = model.controlled(tinyldm.canny(disc, 40, 90), 0.7, start=0.3, end=0.7)
        model = model.controlled(other, 1.2, 1, start=0.3)
    wanted = np.asarray(model.text_to_image("a", steps=3, seed=1)[0])
    np.testing.assert_array_equal(picture("a.png"), wanted)
    assert wanted.shape == (16, 24, 3)
    first, second = json.loads(read_said("a.png").settings["guides"])
    drawn = {"preprocess": "canny", "thresholds": [40, 90]}
    assert first == {"controlnet": "control0", "image": "disc.png", "scale": 0.7, "start": 0.3, "end": 0.7} | drawn
    assert second == {"controlnet": "control1", "image": "other.png", "scale": 1.2, "start": 0.3, "end": 1}
    status, _, err = run("sample", "--from", "a.png")
    assert status == 2
    assert "a.png: was guided by other pictures" in err


def test_it_is_brought_to_the_size_of_the_picture(run, here: Path) -> None:
    options = ("--controlnet", "control0", "--control-image", "disc.png", "-o", "a.png")
    status, _, err = run(*SAMPLE, *options, "--width", "16", "--height", "16")
    assert status == 0, err
    assert "the control image of 24×16 is scaled and cropped to 16×16" in err
    assert picture("a.png").shape == (16, 16, 3)
    status, _, err = run(*SAMPLE, *options, "--width", "16")
    assert status == 0, err
    assert picture("a.png").shape == (16, 16, 3)
    Image.new("RGB", (32, 16), "red").save("red.png")
    status, _, err = run("img2img", "a", "--image", "red.png", "--steps", "4", *options)
    assert status == 0, err
    assert "scaled and cropped to 32×16" in err
    assert picture("a.png").shape == (16, 32, 3)
    assert run("encode", "red.png", "-o", "red.safetensors")[0] == 0
    assert run("img2img", "a", "--image", "red.safetensors", "--steps", "4", *options)[0] == 0
    assert picture("a.png").shape == (16, 32, 3)
    Image.new("RGB", (25, 16)).save("odd.png")
    status, _, err = run(*SAMPLE, "--controlnet", "control0", "--control-image", "odd.png", "-o", "a.png")
    assert status == 0, err
    assert "the picture of 25×16 is scaled and cropped to 24×16" in err


def test_a_picture_as_a_prompt_and_its_settings(run, here: Path, checkpoint: Path) -> None:
    files = ["models/ip.safetensors", "models/ip-plus.safetensors"]
    options = [f"--{name}={value}" for name, value in (
        ("ip-adapter", files[0]), ("ip-image", "disc.png"), ("ip-adapter", files[1]), ("ip-image", "other.png"),
        ("ip-scale", 0.6), ("controlnet", "control0"), ("control-image", "other.png"),
    )]  # fmt: skip
    status, _, err = run(*SAMPLE, *options, "-o", "a.png")
    assert status == 0, err
    model = tinyldm.load(checkpoint, backend="reference", ip_adapter=files, controlnet="control0")
    with Image.open("disc.png") as disc, Image.open("other.png") as other:
        model = model.controlled(other).prompted_by(disc, 0.6).prompted_by(other, 0.6, 1)
    np.testing.assert_array_equal(picture("a.png"), np.asarray(model.text_to_image("a", steps=3, seed=1)[0]))
    said = json.loads(read_said("a.png").settings["guides"])
    assert said[0]["controlnet"] == "control0"
    assert said[1:] == [
        {"ip_adapter": "ip.safetensors", "image": "disc.png", "scale": 0.6},
        {"ip_adapter": "ip-plus.safetensors", "image": "other.png", "scale": 0.6},
    ]
    alone = [
        "--ip-adapter",
        "ip-alone.safetensors",
        "--ip-image",
        "disc.png",
        "--image-encoder",
        "models/image_encoder",
    ]
    assert run("img2img", "a", "--image", "other.png", "--steps", "4", "--seed", "1", *alone, "-o", "b.png")[0] == 0
    assert run("img2img", "a", "--image", "other.png", "--steps", "4", "--seed", "1", "-o", "c.png")[0] == 0
    assert (picture("b.png") != picture("c.png")).any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--ip-adapter models/ip.safetensors", "--ip-adapter is given once and --ip-image not at all"),
        ("--ip-image disc.png", "--ip-adapter is given not at all and --ip-image once"),
        ("--ip-scale 0.5", "--ip-scale is given once and --ip-image not at all"),
        ("--image-encoder models/image_encoder", "--image-encoder is given, and no --ip-adapter"),
        ("--ip-adapter ip-alone.safetensors --ip-image disc.png", "wants the image encoder that it was trained with"),
        (
            "--ip-adapter ip-alone.safetensors --ip-image disc.png --image-encoder other_encoder",
            "an IP-Adapter that reads embeddings of 12 numbers; the image encoder's have 13",
        ),
        (
            "--ip-adapter ip-alone.safetensors --ip-image disc.png --image-encoder control0",
            "control0: wanted an image encoder; it is a folder of a ControlNetModel",
        ),
        ("--ip-adapter control0 --ip-image disc.png", "control0: wanted an IP-Adapter; it is a folder of a ControlNet"),
        ("--ip-adapter models/ip.safetensors --ip-image no.png", "no.png: no such file"),
        ("--ip-adapter models/ip.safetensors --ip-image disc.png --ip-scale inf", "scale must be a finite number"),
        ("--controlnet control0", "--controlnet is given once and --control-image not at all"),
        (
            "--controlnet control0 --controlnet control1 --control-image disc.png",
            "--controlnet is given twice and --control-image once",
        ),
        ("--control-image disc.png", "--control-image is given and no --controlnet"),
        ("--control-scale 0.5", "--control-scale is given once and --control-image not at all"),
        (
            "--controlnet control0 --control-image disc.png --control-start 0 --control-start 0.5",
            "--control-start is given twice and --control-image once",
        ),
        (
            "--controlnet control0 --control-image disc.png --control-start 1",
            "0 ≤ start < end ≤ 1, not 1 and 1",
        ),
        ("--controlnet control0 --control-image disc.png --control-scale nan", "scale must be a finite number"),
        ("--controlnet control0 --control-image disc.png --preprocess cany", "did you mean canny?"),
        ("--controlnet control0 --control-image disc.png --preprocess canny --canny 7", "wants LOW,HIGH"),
        ("--controlnet control0 --control-image disc.png --preprocess canny --canny 9,1", "0 ≤ low ≤ high"),
        ("--controlnet control0 --control-image no.png", "no.png: no such file"),
        ("--controlnet nowhere --control-image disc.png", "nowhere"),
        (
            "--controlnet xl --control-image disc.png",
            "a UNet with channels of the context 40;",
        ),
    ],
)
def test_what_is_refused(run, here: Path, options: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    write_xl_controlnet(here / "xl")
    monkeypatch.setattr("tinyldm.tree.Weights.read", lambda *_: pytest.fail("a weight was read"))
    status, _, err = run(*SAMPLE, *options.split(), "-o", "a.png")
    assert status == 2, err
    assert message in err
    assert "Traceback" not in err
    assert not Path("a.png").exists()


def test_the_page_takes_options_that_there_are() -> None:
    page = (Path(__file__).parents[2] / "docs" / "adapters.md").read_text(encoding="utf-8")
    commands = re.findall(r"^tinyldm (.*)", page.replace("\\\n", " "), flags=re.MULTILINE)
    assert len(commands) > 3
    for command in commands:
        args, unknown = cli.parser().parse_known_args(shlex.split(command))
        assert not unknown
        check_guides(args)
