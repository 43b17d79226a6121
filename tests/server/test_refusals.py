"""Whom an error blames: the field that its sentence begins with, or that comes after the path of the model."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from PIL import Image

from tinyldm.errors import InputError
from tinyldm.pipelines.conditioners import Conditioner
from tinyldm.pipelines.model import LatentDiffusion
from tinyldm.pipelines.request import UNUSED, request

pytest.importorskip("starlette", reason='the server is not installed (pip install ".[web]")')
pytestmark = pytest.mark.extra


@pytest.mark.parametrize("name", [name for name in UNUSED if name != "noise"])
def test_a_setting_without_use_is_blamed(name):
    from tinyldm.server.refusals import blamed

    assert blamed(InputError(f"/a: b/weights prompt/c: {name} {UNUSED[name]}; leave it out")) == name
    assert blamed(InputError(f"{name} must be another")) == name


def test_what_clients_send_to_every_model_is_no_error(model, tmp_path):
    """A guidance scale of 7 and an empty negative prompt, to a model that is conditioned on nothing."""
    from tinyldm.server.a1111 import Api
    from tinyldm.server.fields import Fields
    from tinyldm.server.refusals import blamed
    from tinyldm.server.studio import Studio

    alone = LatentDiffusion(dataclasses.replace(model.parts, conditioner=Conditioner()))
    api = Api.__new__(Api)
    api.studio = Studio(alone, tmp_path)
    job = api.job(Fields({"prompt": "", "negative_prompt": "", "cfg_scale": 7.0, "steps": 2}), False)
    assert job.request.guidance_scale == 1.0
    with pytest.raises(InputError, match="guidance_scale is of models with a condition") as caught:
        api.job(Fields({"prompt": "", "cfg_scale": 3.0}), False)
    assert blamed(caught.value) == "guidance_scale"


def test_the_page_reads_what_pictures_say(model, tmp_path):
    from tinyldm.pipelines.picture_text import picture_bytes
    from tinyldm.server.page import fields_of, said_by

    image = Image.fromarray(np.zeros((16, 16, 3), np.uint8))
    wanted = request("a", seed=3, image=image, strength=0.5, resize="pad", rng="cuda", steps=2).resolved(model.parts)
    for name in ("a.png", "a.jpg"):
        said = said_by(picture_bytes(image, wanted.settings(0) | {"image": "b.png"}, name))
        assert said == fields_of(wanted, 0) | {"began_from": "b.png"}
        assert (said["rng"], said["resize"]) == ("cuda", "pad")
