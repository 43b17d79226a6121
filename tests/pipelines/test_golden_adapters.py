"""ControlNets and adapters end to end: the latents of diffusers' pipelines on miniatures, in float64, to 1e-9."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden.adapter_cases import photo, picture
from golden.provenance import load_golden
from tiny_checkpoints import (
    T2I_ADAPTER,
    XL_T2I_ADAPTER,
    XL_UNET_3,
    write_component,
    write_controlnet,
    write_image_encoder,
    write_ip_adapter,
    write_sd,
    write_xl,
    write_xl_controlnet,
)

import tinyldm
from tinyldm.golden.seeded import seeded_input
from tinyldm.pipelines.request import request

BAR = 1e-9  # relative to the largest value
CONTROL, CONTROL_SAID = load_golden("pipelines/adapters-control")
IP, IP_SAID = load_golden("pipelines/adapters-ip")
T2I, T2I_SAID = load_golden("pipelines/adapters-t2i")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A miniature of each family, with ControlNets."""
    folder = tmp_path_factory.mktemp("adapters")
    write_sd(folder / "sd")
    write_xl(folder / "xl")
    for i in range(2):
        write_controlnet(folder / f"sd-control{i}", start=i)
        write_xl_controlnet(folder / f"xl-control{i}", start=i)
        write_component(folder / f"sd-t2i{i}", T2I_ADAPTER, start=i)
    for family in ("sd", "xl"):
        for kind in ("projection", "plus", "full"):
            for i in range(2):
                write_ip_adapter(folder / "models" / f"{family}-{kind}-{i}.safetensors", family, kind, start=i)
    write_image_encoder(folder / "models" / "image_encoder")
    write_xl(folder / "xl3", XL_UNET_3)
    write_component(folder / "xl3-t2i0", XL_T2I_ADAPTER)
    return folder


def loaded(path: Path, **more: Any) -> tinyldm.LatentDiffusion:
    return tinyldm.load(path, backend="reference", dtype="float64", **more)


def latent(model: tinyldm.LatentDiffusion, case: dict[str, Any]) -> np.ndarray:
    """The final latent of a golden's case."""
    named = ("prompt", "steps", "sampler", "guidance_scale")
    settings = {name: case[name] for name in named}
    if "strength" in case:
        more = {"image": picture("start"), "strength": case["strength"], "seed": case["seed"]}
    else:
        more = {"noise": seeded_input("latents", (1, 4, 8, 12)).astype(np.float64)}
    (made,) = model.pictures(request(**settings, **more))
    return made.latent


def agrees(found: np.ndarray, wanted: np.ndarray) -> None:
    assert found.dtype == wanted.dtype == np.float64
    assert np.abs(found - wanted).max() <= BAR * np.abs(wanted).max()


@pytest.mark.parametrize("name", CONTROL)
def test_controlnets(folder: Path, name: str) -> None:
    case = CONTROL_SAID["cases"][name]
    nets = [folder / f"{case['family']}-control{i}" for i in range(len(case["scales"]))]
    model = loaded(folder / case["family"], controlnet=nets)
    times = zip(("disc", "stripes"), case["scales"], case["start"], case["end"], strict=False)
    for i, (image, scale, start, end) in enumerate(times):
        model = model.controlled(picture(image), scale, i, start=start, end=end)
    agrees(latent(model, case), CONTROL[name])


@pytest.mark.parametrize("name", T2I)
def test_t2i_adapters(folder: Path, name: str) -> None:
    case = T2I_SAID["cases"][name]
    nets = [folder / f"{case['family']}-t2i{i}" for i in range(len(case["scales"]))]
    model = loaded(folder / case["family"], controlnet=nets)
    for i, (image, scale) in enumerate(zip(("disc", "stripes"), case["scales"], strict=False)):
        model = model.controlled(picture(image), scale, i, end=case.get("end", 1.0))
    agrees(latent(model, case), T2I[name])


@pytest.mark.parametrize("name", IP)
def test_ip_adapters(folder: Path, name: str) -> None:
    """The image encoder is found beside the adapters' files, as it is published."""
    case = IP_SAID["cases"][name]
    files = [folder / "models" / f"{case['family']}-{kind}-{i}.safetensors" for i, kind in enumerate(case["kinds"])]
    model = loaded(folder / case["family"], ip_adapter=files)
    for i, (size, scale) in enumerate(zip([(40, 23), (17, 60)], case["scales"], strict=False)):
        model = model.prompted_by(photo(size), scale, i)
    agrees(latent(model, case), IP[name])
