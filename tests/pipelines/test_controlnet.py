"""ControlNet end to end: diffusers' pipeline on the same miniature, every published layout, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from checkpoint_commands import convert
from golden.family_files import single_file
from golden.provenance import load_golden
from PIL import Image
from tiny_checkpoints import write_controlnet, write_sd, write_xl

import tinyldm
from tinyldm.checkpoints.base import MemorySource
from tinyldm.checkpoints.opening import open_checkpoint
from tinyldm.checkpoints.recognise import recognise
from tinyldm.checkpoints.safetensors import write_safetensors
from tinyldm.errors import CheckpointError, InputError

PICTURES, PROVENANCE = load_golden("pipelines/controlnet")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("controlnet")
    write_sd(folder / "sd")
    for i in range(2):
        write_controlnet(folder / f"control{i}", start=i)
    return folder


def control_images() -> list[Image.Image]:
    """The disc and the stripes of the script that made the goldens."""
    y, x = np.mgrid[:16, :24]
    disc = ((x - 11.5) ** 2 + (y - 7.5) ** 2 < 30)[..., None] * np.array([255, 128, 0])
    stripes = np.stack([(x % 6) * 50, (y % 5) * 60, np.full_like(x, 90)], axis=-1)
    return [Image.fromarray(image.astype(np.uint8)) for image in (disc, stripes)]


def load(folder: Path, net: int = 0, backend: str = "reference") -> tinyldm.LatentDiffusion:
    return tinyldm.load(folder / "sd", backend=backend, controlnet=folder / f"control{net}")


@pytest.mark.parametrize("backend", ["reference", "numba"])
@pytest.mark.parametrize("name", PICTURES)
def test_pictures_are_the_original_ones(folder: Path, name: str, backend: str) -> None:
    case = dict(PROVENANCE["cases"][name])
    model, other = load(folder, backend=backend), load(folder, 1, backend).controlnet
    for image, scale, net in zip(control_images(), case.pop("scales"), (None, other), strict=False):
        model = model.controlled(image, scale, net)
    found = np.stack([np.asarray(image) for image in model.text_to_image(**case, one_stream=True)]).astype(int)
    wanted = np.round(PICTURES[name] * 255)
    assert found.shape == wanted.shape  # which is the control image's size
    assert wanted.std() > 10
    assert (np.abs(found - wanted) > 1).mean() <= 0.001


def test_the_scale(folder: Path) -> None:
    model = load(folder)
    image, arguments = control_images()[0], {"prompt": "a", "steps": 2, "height": 16, "width": 24}

    def picture(model: tinyldm.LatentDiffusion) -> np.ndarray:
        return np.asarray(model.text_to_image(**arguments)[0])

    plain = picture(model)
    np.testing.assert_array_equal(picture(model.controlled(image, 0)), plain)
    assert (picture(model.controlled(image, 1)) != plain).any()
    np.testing.assert_array_equal(picture(model), plain)  # the model itself has not changed
    array = np.asarray(image, np.float32).transpose(2, 0, 1)[None] / 255
    np.testing.assert_array_equal(picture(model.controlled(array)), picture(model.controlled(image)))


def test_image_to_image_is_guided_too(folder: Path) -> None:
    model, image = load(folder), control_images()[0]
    arguments = {"prompt": "a", "image": control_images()[1], "steps": 4, "strength": 0.5}
    guided = np.asarray(model.controlled(image).image_to_image(**arguments)[0])
    assert (guided != np.asarray(model.image_to_image(**arguments)[0])).any()


def test_what_is_refused(folder: Path, tmp_path: Path) -> None:
    model, image = load(folder), control_images()[0]
    with pytest.raises(InputError, match="has no ControlNet"):
        tinyldm.load(folder / "sd", backend="reference").controlled(image)
    with pytest.raises(InputError, match="its size 25×16 must be a multiple of 2"):
        model.controlled(image.resize((25, 16)))
    with pytest.raises(InputError, match=r"not \(3, 16, 24\)"):
        model.controlled(np.zeros((3, 16, 24)))
    with pytest.raises(InputError, match=r"must be in \[0, 1\]"):
        model.controlled(np.full((1, 3, 16, 24), 255.0))
    with pytest.raises(InputError, match="scale must be a finite number"):
        model.controlled(image, float("nan"))
    with pytest.raises(InputError, match="its size 24×16 must be that of the picture, 16×16"):
        model.controlled(image).text_to_image("a", steps=1, height=16, width=16)
    with pytest.raises(
        CheckpointError, match="wanted a ControlNet or a T2I-Adapter; it is a folder of a AutoencoderKL"
    ):
        tinyldm.load(folder / "sd", controlnet=folder / "sd" / "vae")
    with pytest.raises(CheckpointError, match="of a UNet with channels of the context 16; this checkpoint's has 40"):
        tinyldm.load(write_xl(tmp_path / "xl"), backend="reference", controlnet=folder / "control0")


def test_a_single_file_with_a_controlnet_in_it(tmp_path: Path) -> None:
    """As lllyasviel/ControlNet publishes them: a whole Stable Diffusion with `control_model.` beside its UNet."""
    tensors = single_file("stable-diffusion-1")
    down = ("time_embed.", "input_blocks.", "middle_block.")
    unet = {n.removeprefix("model.diffusion_model."): v for n, v in tensors.items() if n.startswith("model.diff")}
    control = {name: value for name, value in unet.items() if name.startswith(down)}
    widths = [unet[f"input_blocks.{i}.0{leaf}.weight"].shape[0] for i, leaf in levels(unet)]
    for i, width in enumerate(widths):
        control |= {f"zero_convs.{i}.0.weight": np.ones((width, width, 1, 1)), f"zero_convs.{i}.0.bias": np.ones(width)}
    middle = widths[-1]
    control |= {
        "middle_block_out.0.weight": np.ones((middle, middle, 1, 1)),
        "middle_block_out.0.bias": np.ones(middle),
    }
    hint = [3, 16, 16, 32, 32, 96, 96, 256, widths[0]]
    for i in range(8):
        control[f"input_hint_block.{2 * i}.weight"] = np.ones((hint[i + 1], hint[i], 3, 3), np.float32)
        control[f"input_hint_block.{2 * i}.bias"] = np.ones(hint[i + 1], np.float32)
    tensors |= {f"control_model.{name}": value.astype(np.float32) for name, value in control.items()}
    found = recognise(MemorySource(tensors))
    assert not found.unknown
    assert set(found.components) == {"unet", "vae", "text_encoder", "controlnet"}
    write_safetensors(tmp_path / "control_sd15_canny.safetensors", tensors)
    model = tinyldm.load(tmp_path / "control_sd15_canny.safetensors", backend="reference")
    assert model.controlled(Image.new("RGB", (64, 64))).parts.latent_size() == (8, 8)
    for out in ("folder", "again.safetensors"):
        convert(tmp_path / "control_sd15_canny.safetensors", tmp_path / out)
        source = open_checkpoint(tmp_path / out).components["controlnet"].source
        name = "controlnet_cond_embedding.conv_in.weight"
        assert source.read(name).tobytes() == tensors["control_model.input_hint_block.0.weight"].tobytes()


def levels(unet: dict[str, np.ndarray]) -> list[tuple[int, str]]:
    """The number of each block of the way down, and which of its weights says how wide it is."""
    found, i = [(0, "")], 1
    while any(name.startswith(f"input_blocks.{i}.") for name in unet):
        found.append((i, ".op" if f"input_blocks.{i}.0.op.weight" in unet else ".out_layers.3"))
        i += 1
    return found
