"""`inpaint` and `edit` on the command line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_checkpoints import write_depth, write_pix2pix, write_segments

import tinyldm
from tinyldm import cli
from tinyldm.pipelines.masks import Margins


def write_pictures() -> tuple[Image.Image, Image.Image]:
    """A picture and a mask, as files, and the picture with what is white in the mask transparent."""
    levels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    white = np.zeros((16, 16), np.uint8)
    white[2:8, 4:12] = 255
    picture, mask = Image.fromarray(levels), Image.fromarray(white)
    picture.save("picture.png")
    mask.save("mask.png")
    erased = picture.convert("RGBA")
    erased.putalpha(Image.fromarray(255 - white))
    erased.save("erased.png")
    return picture, mask


def read(name: str) -> np.ndarray:
    with Image.open(name) as image:
        return np.asarray(image)


def test_inpainting(run, checkpoint: Path) -> None:
    picture, mask = write_pictures()
    model = tinyldm.load(checkpoint, backend="reference")
    few = ("--steps", "2", "--seed", "3")
    for words, arguments in (
        (("--image", "picture.png", "--mask", "mask.png"), {"mask": mask}),
        (("--image", "picture.png", "--mask", "mask.png", "--strength", "0.5"), {"mask": mask, "strength": 0.5}),
        (("--image", "picture.png", "--outpaint", "left=4,bottom=2"), {"outpaint": Margins(left=4, bottom=2)}),
        (
            ("--image", "picture.png", "--mask", "mask.png", "--mask-blur", "2", "--outpaint", "top=3"),
            {"mask": mask, "mask_blur": 2.0, "outpaint": Margins(top=3)},
        ),
    ):
        status, out, _ = run("inpaint", "a", *words, *few, "-o", "out.png")
        assert (status, out.splitlines()[0]) == (0, "out.png")
        (wanted,) = model.inpaint("a", picture, steps=2, seed=3, **arguments)
        np.testing.assert_array_equal(read("out.png"), np.asarray(wanted))
    status, _, err = run("inpaint", "a", "--image", "erased.png", *few, "-o", "out.png")
    assert status == 0
    assert "transparent" not in err
    (wanted,) = model.inpaint("a", Image.open("erased.png"), steps=2, seed=3)
    np.testing.assert_array_equal(read("out.png"), np.asarray(wanted))


def test_what_stands_in_the_file(run) -> None:
    write_pictures()
    words = ("--image", "picture.png", "--mask", "mask.png", "--mask-blur", "1", "--width", "32", "--height", "24")
    assert run("inpaint", "a", *words, "--steps", "2", "-o", "out.png")[0] == 0
    with Image.open("out.png") as image:
        assert image.size == (32, 24)
        said = image.text
    assert {"image": "picture.png", "mask": "mask.png", "mask_blur": "1.0", "strength": "1.0"}.items() <= said.items()
    status, _, err = run("sample", "--from", "out.png", "-o", "again.png")
    assert status == 2
    assert "began from another picture (picture.png); `tinyldm inpaint --from out.png" in err


@pytest.mark.parametrize(
    ("made", "again"),
    [
        (
            ("--image", "picture.png", "--mask", "mask.png", "--mask-blur", "2", "--strength", "0.6"),
            ("picture", "mask"),
        ),
        (("--image", "picture.png", "--mask", "mask.png", "--width", "32", "--height", "24"), ("picture", "mask")),
        (("--image", "picture.png", "--outpaint", "left=4,top=2"), ("picture",)),
        (("--image", "erased.png"), ("erased",)),
    ],
)
def test_what_was_painted_is_repeated_from_its_file(run, made: tuple[str, ...], again: tuple[str, ...]) -> None:
    """Nothing but the pictures is given again."""
    write_pictures()
    assert run("inpaint", "a", *made, "--steps", "4", "--seed", "3", "-o", "out.png")[0] == 0
    pictures = [word for name in again for word in ("--image" if name != "mask" else "--mask", f"{name}.png")]
    assert run("inpaint", "--from", "out.png", *pictures, "-o", "again.png")[0] == 0
    assert Path("again.png").read_bytes() == Path("out.png").read_bytes()
    status, _, err = run("img2img", "--from", "out.png", "--image", "picture.png", "-o", "other.png")
    assert (status, "`tinyldm inpaint --from out.png" in err) == (2, True)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--image", "picture.png"), "nothing in the picture is transparent"),
        (("--image", "none.png", "--mask", "mask.png"), "none.png: no such file"),
        (("--image", "picture.png", "--mask", "none.png"), "none.png: no such file"),
        (("--image", "picture.png", "--mask", "erased.png"), "partly transparent"),
        (("--image", "picture.png", "--outpaint", "left"), "--outpaint wants sides with pixels"),
        (("--image", "picture.png", "--outpaint", "left=2,left=3"), "--outpaint wants sides with pixels"),
        (("--image", "picture.png", "--outpaint", "left=-2"), "--outpaint wants sides with pixels"),
        (("--image", "picture.png", "--outpaint", "left=0"), "at least one side"),
        (("--image", "picture.png", "--mask", "mask.png", "--strength", "2"), "strength"),
    ],
)
def test_what_is_refused(run, words: tuple[str, ...], message: str) -> None:
    write_pictures()
    status, _, err = run("inpaint", "a", *words, "-o", "out.png")
    assert status == 2
    assert message in err
    assert not Path("out.png").exists()


def test_editing(run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture, mask = write_pictures()
    status, _, err = run("edit", "a", "--image", "picture.png", "-o", "out.png")
    assert status == 2
    assert "edits by no instruction" in err
    folder = write_pix2pix(tmp_path / "pix2pix")
    model = tinyldm.load(folder, backend="reference")
    for words, arguments in (
        ((), {}),
        (("--image-guidance-scale", "2"), {"image_guidance_scale": 2.0}),
        (("--mask", "mask.png"), {"mask": mask}),
    ):
        words = ("--image", "picture.png", "--steps", "2", "--seed", "3", "-o", "out.png", *words)
        assert cli.main(["edit", "a", "--model", str(folder), "--backend", "reference", *words]) == 0
        (wanted,) = model.edit("a", picture, steps=2, seed=3, **arguments)
        np.testing.assert_array_equal(read("out.png"), np.asarray(wanted))
    assert cli.main(["sample", "a", "--model", str(folder), "--backend", "reference"]) == 2
    assert "tinyldm edit" in capsys.readouterr().err


def test_maps(run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture, _ = write_pictures()
    levels = np.arange(12 * 20).reshape(12, 20)
    Image.fromarray((levels * 250).astype(np.uint16)).save("depth.png")
    Image.fromarray((levels % 5).astype(np.uint8)).save("segments.png")
    depth, segments = write_depth(tmp_path / "depth"), write_segments(tmp_path / "segments")
    few = ("--backend", "reference", "--steps", "2", "--seed", "3", "-o", "out.png")

    assert cli.main(["sample", "a", "--model", str(depth), "--depth", "depth.png", *few]) == 0
    model = tinyldm.load(depth, backend="reference")
    (wanted,) = model.text_to_image("a", depth=levels, steps=2, seed=3)
    np.testing.assert_array_equal(read("out.png"), np.asarray(wanted))
    words = ["--depth", "depth.png", "--image", "picture.png", "--strength", "0.5"]
    assert cli.main(["img2img", "a", "--model", str(depth), *words, *few]) == 0
    (wanted,) = model.image_to_image("a", picture, depth=levels, strength=0.5, steps=2, seed=3)
    np.testing.assert_array_equal(read("out.png"), np.asarray(wanted))

    assert cli.main(["sample", "--model", str(segments), "--segments", "segments.png", *few]) == 0
    (wanted,) = tinyldm.load(segments, backend="reference").unconditional(1, 2, 3, segments=levels % 5)
    np.testing.assert_array_equal(read("out.png"), np.asarray(wanted))
    capsys.readouterr()
    for words, message in (
        (("--from", "out.png"), "was made with a map (segments.png)"),
        (("a", "--depth", "depth.png"), "takes no map of depth"),
        (("--layout", "none.json"), "none.json: can't be read: No such file"),
        (("--layout", "out.png"), "out.png: can't be read: 'utf-8' codec"),
    ):
        status, _, err = run("sample", *words, "-o", "other.png")
        assert status == 2
        assert message in err
