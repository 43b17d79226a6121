"""OpenAI's API, spoken to by its own client."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image
from serving import WITHOUT

openai = pytest.importorskip("openai", reason=WITHOUT)
requests = pytest.importorskip("requests", reason=WITHOUT)
pytestmark = pytest.mark.extra
QUICK = {"steps": 3, "seed": 5}


@pytest.fixture
def client(serving):
    with openai.OpenAI(base_url=f"{serving.url}/v1", api_key="any", max_retries=0) as opened:
        yield opened


@pytest.fixture(scope="module")
def png():
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)).save(file, "PNG")
    return file.getvalue()


def opened(data):
    return Image.open(io.BytesIO(data))


def test_generations(client, model):
    made = client.images.generate(model="tiny", prompt="a", n=2, size="16x16", extra_body=QUICK)
    wanted = model.text_to_image("a", steps=3, seed=5, num_images=2)
    assert made.size == "16x16"
    assert made.output_format == "png"
    for data, image in zip(made.data, wanted, strict=True):
        picture = opened(base64.b64decode(data.b64_json))
        np.testing.assert_array_equal(np.asarray(picture), np.asarray(image))
        assert picture.text["prompt"] == "a"


def test_the_defaults_are_accepted(client):
    made = client.images.generate(
        prompt="a",
        background="auto",
        moderation="auto",
        n=1,
        output_compression=100,
        output_format="png",
        partial_images=0,
        quality="auto",
        response_format="b64_json",
        size="auto",
        stream=False,
        style="vivid",
        user="somebody",
        extra_body=QUICK,
    )
    assert opened(base64.b64decode(made.data[0].b64_json)).size == (16, 16)


@pytest.mark.parametrize(("kind", "name"), [("jpeg", "JPEG"), ("webp", "WEBP")])
def test_other_formats(client, kind, name):
    made = client.images.generate(prompt="a", output_format=kind, output_compression=50, extra_body=QUICK)
    assert opened(base64.b64decode(made.data[0].b64_json)).format == name


def test_a_url(client, serving):
    made = client.images.generate(prompt="a lake", response_format="url", extra_body=QUICK)
    url = made.data[0].url
    assert url.startswith(serving.url)
    answer = requests.get(url, timeout=10)
    assert answer.headers["content-type"] == "image/png"
    assert opened(answer.content).size == (16, 16)
    assert (serving.folder / "a-lake.png").read_bytes() == answer.content


def test_edits(client, model, png):
    made = client.images.edit(image=("a.png", png), prompt="a", extra_body={**QUICK, "strength": 0.7})
    wanted = model.image_to_image("a", opened(png), strength=0.7, steps=3, seed=5)
    picture = opened(base64.b64decode(made.data[0].b64_json))
    np.testing.assert_array_equal(np.asarray(picture), np.asarray(wanted[0]))
    listed = client.images.edit(image=[("a.png", png)], prompt="a", size="32x16", n=2, extra_body=QUICK)
    assert [opened(base64.b64decode(d.b64_json)).size for d in listed.data] == [(32, 16)] * 2


def test_models(client):
    assert [model.id for model in client.models.list()] == ["tiny"]


@pytest.mark.parametrize(
    ("fields", "param", "sentence"),
    [
        ({"prompt": ""}, "prompt", "prompt is missing"),
        ({"n": 11}, "n", "n must be from 1 to 10, not 11"),
        ({"size": "16"}, "size", "size must be such as 512x512, or auto, not '16'"),
        ({"size": "0x16"}, "size", "size must be such as 512x512, or auto, not '0x16'"),
        ({"size": "15x16"}, "width", "width must be a multiple of 2 pixels, not 15"),
        ({"quality": "hd"}, "quality", "quality 'hd' is not supported; leave it out, or take \"auto\""),
        ({"background": "transparent"}, "background", "background 'transparent' is not supported"),
        ({"style": "natural"}, "style", "style 'natural' is not supported"),
        ({"output_format": "gif"}, "output_format", "output_format must be one of png, jpeg, webp, not 'gif'"),
        ({"partial_images": 2}, "partial_images", "partial_images 2 is not supported"),
        ({"output_compression": 101}, "output_compression", "must be from 0 to 100, not 101"),
        ({"extra_body": {"step": 3}}, "step", "field 'step' is unknown; did you mean steps?"),
    ],
)
def test_bad_input_is_one_sentence(client, fields, param, sentence):
    with pytest.raises(openai.BadRequestError) as error:
        client.images.generate(**{"prompt": "a", **fields})
    assert sentence in error.value.body["message"]
    assert error.value.param == param
    assert error.value.type == "invalid_request_error"


def test_another_model(client):
    with pytest.raises(openai.NotFoundError, match="this server has 'tiny'"):
        client.images.generate(model="gpt-image-1", prompt="a")


def test_edits_that_will_not_do(client, serving, png):
    for image, sentence in ((b"no picture", "image: is no picture"), ([png, png], "image is there more than once")):
        with pytest.raises(openai.BadRequestError, match=sentence):
            client.images.edit(image=image, prompt="a")
    url = f"{serving.url}/v1/images/edits"
    for answer, sentence in (
        (requests.post(url, json={"prompt": "a"}, timeout=10), "the body must be a form"),
        (requests.post(url, files={"other": png}, data={"prompt": "a"}, timeout=10), "image is missing"),
        (requests.post(url, data=b"x", headers={"Content-Type": "multipart/form-data"}, timeout=10), "can't be read"),
    ):
        assert answer.status_code == 400
        assert sentence in answer.json()["error"]["message"]


def test_a_mask_is_transparent_where_it_is_painted(client, model, png):
    mask = Image.new("RGBA", (16, 16), (0, 0, 0, 255))
    mask.paste((0, 0, 0, 0), (4, 4, 10, 9))
    file = io.BytesIO()
    mask.save(file, "PNG")
    made = client.images.edit(image=("a.png", png), mask=("m.png", file.getvalue()), prompt="a", extra_body=QUICK)
    white = Image.new("L", (16, 16))
    white.paste(255, (4, 4, 10, 9))
    wanted = model.inpaint("a", opened(png), white, steps=3, seed=5)[0]
    np.testing.assert_array_equal(np.asarray(opened(base64.b64decode(made.data[0].b64_json))), np.asarray(wanted))
    holed = opened(png).convert("RGBA")
    holed.putalpha(Image.fromarray(255 - np.asarray(white)))
    file = io.BytesIO()
    holed.save(file, "PNG")
    made = client.images.edit(image=("a.png", file.getvalue()), prompt="a", extra_body=QUICK)
    same = np.asarray(opened(base64.b64decode(made.data[0].b64_json))) == np.asarray(opened(png))
    same[4:9, 4:10] = True
    assert same.all()
    with pytest.raises(openai.BadRequestError, match="mask: its size 16×16 must be that of the picture, 8×8"):
        client.images.edit(image=shrunk(png), mask=file.getvalue(), prompt="a")


def shrunk(data):
    file = io.BytesIO()
    opened(data).resize((8, 8)).save(file, "PNG")
    return file.getvalue()
