"""Pictures as people have them: every mode of Pillow, turned, transparent, animated, of sizes that do not fit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageCms

from tinyldm.errors import InputError
from tinyldm.pipelines.pictures import PictureWarning, as_rgb, fitted, read_image


def saved(tmp_path: Path, image: Image.Image, name: str = "a.png", **options) -> Path:
    path = tmp_path / name
    image.save(path, **options)
    return path


def read(path: Path, said: str) -> np.ndarray:
    with pytest.warns(PictureWarning, match=said):
        return np.asarray(read_image(path))


def test_what_needs_nothing_is_read_without_a_word(tmp_path: Path) -> None:
    for mode in ("1", "L", "P", "RGB", "HSV", "YCbCr"):
        image = Image.new("RGB", (3, 2), (255, 0, 0)).convert(mode)
        path = saved(tmp_path, image if mode in ("1", "L", "P", "RGB") else image.convert("RGB"))
        assert read_image(path).mode == "RGB"


def test_exif_orientation(tmp_path: Path) -> None:
    upright = np.zeros((2, 3, 3), np.uint8)
    upright[0, 0] = 255
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6  # stored turned to the left: the viewer turns it right by 90 degrees
    path = saved(tmp_path, Image.fromarray(np.rot90(upright)), exif=exif)
    np.testing.assert_array_equal(read(path, "upright"), upright)


def test_sixteen_bits_of_grey(tmp_path: Path) -> None:
    values = np.array([[0, 257, 32896, 65535]], np.uint16)
    found = read(saved(tmp_path, Image.fromarray(values)), "0 to 65535")
    assert found[0, :, 0].tolist() == [0, 1, 128, 255]


def test_integers_and_floats(tmp_path: Path) -> None:
    whole = saved(tmp_path, Image.fromarray(np.array([[0, 65535]], np.int32)), "a.tiff")
    assert read(whole, "0 to 65535")[0, :, 0].tolist() == [0, 255]
    real = saved(tmp_path, Image.fromarray(np.array([[0, 0.5, 1]], np.float32)), "b.tiff")
    assert read(real, "0 to 1")[0, :, 0].tolist() == [0, 128, 255]
    for number, values in enumerate(
        (np.array([[-1, 2]], np.int32), np.array([[0, 70000]], np.int32), np.array([[0, 1.5]], np.float32))
    ):
        path = saved(tmp_path, Image.fromarray(values), f"{number}.tiff")
        with pytest.raises(InputError, match="wanted 0 to"):
            read_image(path)
    nan = saved(tmp_path, Image.fromarray(np.array([[0, np.nan]], np.float32)), "nan.tiff")
    with pytest.raises(InputError, match="nan"):
        read_image(nan)


def test_cmyk_and_lab(tmp_path: Path) -> None:
    red = read(saved(tmp_path, Image.new("CMYK", (2, 2), (0, 255, 255, 0)), "a.tiff"), "CMYK")
    assert red[0, 0].tolist() == [255, 0, 0]
    profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    lab = ImageCms.profileToProfile(Image.new("RGB", (2, 2), (200, 30, 40)), *profiles, outputMode="LAB")
    found = read(saved(tmp_path, lab, "b.tiff"), "LAB")
    assert np.abs(found[0, 0].astype(int) - [200, 30, 40]).max() <= 3


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_is_laid_on_white(tmp_path: Path, mode: str) -> None:
    image = Image.new("RGBA", (2, 1), (0, 0, 0, 0))
    image.putpixel((1, 0), (0, 0, 0, 255))
    options = {}
    if mode == "P":
        image = Image.new("P", (2, 1), 0)
        image.putpalette([9, 9, 9, 0, 0, 0])
        image.putpixel((1, 0), 1)
        options = {"transparency": 0}
    elif mode == "LA":
        image = image.convert("LA")
    assert read(saved(tmp_path, image, **options), "white")[0, :, 0].tolist() == [255, 0]


def test_opaque_alpha_needs_no_word() -> None:
    assert as_rgb(Image.new("RGBA", (2, 2), (1, 2, 3, 255)))[1] == []


def test_animated(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (2, 2), colour) for colour in ("red", "blue")]
    path = saved(tmp_path, frames[0], "a.gif", save_all=True, append_images=frames[1:])
    assert read(path, "2 frames; the first")[0, 0].tolist() == [255, 0, 0]


def test_sizes_that_do_not_fit() -> None:
    image = Image.fromarray(np.arange(30 * 21 * 3, dtype=np.uint8).reshape(21, 30, 3))
    for how, said in (("crop", "cropped"), ("pad", "padded"), ("stretch", "stretched")):
        with pytest.warns(PictureWarning, match=f"30×21 is .*{said} to 32×24"):
            assert fitted(image, 8, how).size == (32, 24)
    with pytest.raises(InputError, match="multiple of 8"):
        fitted(image, 8, "none")
    with pytest.raises(InputError, match="'shrink' is unknown"):
        fitted(image, 8, "shrink")
    assert fitted(image, 3, "none") is image


def test_padding_keeps_the_picture_whole() -> None:
    """A white picture with a black border line keeps all four borders; cropping loses some."""
    drawn = np.full((40, 100, 3), 255, np.uint8)
    drawn[:, 0] = drawn[:, -1] = 0
    with pytest.warns(PictureWarning):
        padded = np.asarray(fitted(Image.fromarray(drawn), 32, "pad"))
    assert padded.shape == (32, 96, 3)
    assert padded[16, 0].max() < 128
    assert padded[16, -1].max() < 128
