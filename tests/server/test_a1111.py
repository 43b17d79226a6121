"""AUTOMATIC1111's API, spoken to by `webuiapi`, a client from PyPI, and by hand where that client is too polite."""

from __future__ import annotations

import base64
import io
import json
import threading

import numpy as np
import pytest
from PIL import Image
from serving import WITHOUT, until

webuiapi = pytest.importorskip("webuiapi", reason=WITHOUT)
requests = pytest.importorskip("requests", reason=WITHOUT)
pytestmark = pytest.mark.extra
SMALL = {"width": 16, "height": 16}


@pytest.fixture
def client(serving):
    return webuiapi.WebUIApi(host="127.0.0.1", port=serving.port, sampler="Euler a", steps=3)


def post(serving, name, **fields):
    return requests.post(f"{serving.url}/sdapi/v1/{name}", json=fields, timeout=30)


def same(image, other):
    np.testing.assert_array_equal(np.asarray(image.convert("RGB")), np.asarray(other))


def test_text_to_image_with_the_clients_own_defaults(client, model):
    made = client.txt2img(prompt="a", negative_prompt="b", seed=5, **SMALL)
    wanted = model.text_to_image("a", "b", steps=3, guidance_scale=7.0, seed=5, sampler="euler_a", height=16, width=16)
    same(made.image, wanted[0])
    assert made.info["seed"] == 5
    assert made.info["sampler_name"] == "euler_a"
    assert made.info["infotexts"] == [made.image.text["parameters"]]
    lines = made.image.text["parameters"].splitlines()
    assert lines[:2] == ["a", "Negative prompt: b"]
    assert lines[2].startswith(
        "Steps: 3, Sampler: Euler a, Schedule type: Uniform, CFG scale: 7.0, Seed: 5, Size: 16x16, Model: tiny"
    )
    assert made.parameters["prompt"] == "a"


def test_weights_of_words_and_the_layer_of_clip(client, model):
    made = client.txt2img(prompt="a (b:1.4)", seed=5, override_settings={"CLIP_stop_at_last_layers": 2}, **SMALL)
    how = {"steps": 3, "guidance_scale": 7.0, "seed": 5, "sampler": "euler_a"}
    same(made.image, model.text_to_image("a (b:1.4)", prompt_syntax="webui", clip_skip=2, **how)[0])
    assert made.info["clip_skip"] == 2
    with pytest.raises(AssertionError):
        same(made.image, model.text_to_image("a b", **how)[0])


@pytest.mark.parametrize(("source", "rng"), [("CPU", "torch"), ("GPU", "cuda"), ("NV", "cuda")])
def test_what_a_seed_means(client, model, source, rng):
    made = client.txt2img(prompt="a", seed=5, override_settings={"randn_source": source}, **SMALL)
    how = {"steps": 3, "guidance_scale": 7.0, "seed": 5, "sampler": "euler_a"}
    same(made.image, model.text_to_image("a", rng=rng, **how)[0])


def test_several_pictures_have_seeds_in_a_row(client, model):
    made = client.txt2img(
        prompt="a", seed=7, batch_size=2, n_iter=2, sampler_name="DPM++ 2M", scheduler="karras", **SMALL
    )
    wanted = model.text_to_image(
        "a", steps=3, guidance_scale=7.0, seed=7, sampler="dpm++_2m_karras", height=16, width=16, num_images=4
    )
    assert made.info["all_seeds"] == [7, 8, 9, 10]
    for image, other in zip(made.images, wanted, strict=True):
        same(image, other)


def test_a_seed_is_drawn_where_none_is_given(client):
    seeds = {client.txt2img(prompt="a", **SMALL).info["seed"] for _ in range(2)}
    assert len(seeds) == 2
    assert min(seeds) >= 0


def test_what_is_absent_is_the_models_own(serving, model):
    answer = post(serving, "txt2img", prompt="a", seed=0).json()
    info = json.loads(answer["info"])
    assert (info["steps"], info["cfg_scale"], info["sampler_name"]) == tuple(model.defaults)
    assert (info["width"], info["height"]) == (16, 16)


@pytest.mark.parametrize(("mode", "how"), [(0, "stretch"), (1, "crop"), (2, "pad")])
def test_image_to_image(client, model, mode, how):
    from tinyldm.server.uploads import resized

    begun = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8))
    made = client.img2img([begun], prompt="a", denoising_strength=0.7, seed=5, resize_mode=mode, cfg_scale=3, **SMALL)
    wanted = model.image_to_image(
        "a", resized(begun, 16, 16, how), strength=0.7, steps=3, guidance_scale=3.0, seed=5, sampler="euler_a"
    )
    same(made.image, wanted[0])
    assert made.info["denoising_strength"] == 0.7
    assert made.parameters["init_images"] is None


def test_pictures_are_kept_where_that_is_asked_for(serving, client):
    before = set(serving.folder.iterdir())
    made = client.txt2img(prompt="a kept one", seed=1, save_images=True, send_images=False, **SMALL)
    assert made.images == []
    (file,) = set(serving.folder.iterdir()) - before
    assert file.name == "a-kept-one.png"
    with Image.open(file) as image:
        assert image.text["seed"] == "1"


def test_the_lists(client, serving):
    assert {"name": "euler_a", "options": {"summary": "Euler's method, with noise added in each step"}}.keys() <= (
        client.get_samplers()[0].keys()
    )
    names = {sampler["name"] for sampler in client.get_samplers()}
    assert {"ddim", "euler_a", "dpm++_2m"} <= names
    assert {"automatic", "karras"} <= {schedule["name"] for schedule in client.get_schedulers()}
    (model,) = client.get_sd_models()
    assert model["title"] == "tiny"
    assert client.util_get_current_model() == "tiny"
    assert client.util_get_model_names() == ["tiny"]
    assert client.get_scripts() == {"txt2img": [], "img2img": []}
    assert client.get_loras() == client.get_upscalers() == []
    client.util_set_model("tiny")
    assert client.set_options({"sd_model_checkpoint": "tiny"}) is None


def test_progress_and_interrupt(serving, client):
    idle = client.get_progress()
    assert idle["progress"] == 0
    assert idle["state"]["job_count"] == 0
    made = []
    thread = threading.Thread(target=lambda: made.append(client.txt2img(prompt="a", steps=900, batch_size=3, **SMALL)))
    thread.start()
    other = webuiapi.WebUIApi(host="127.0.0.1", port=serving.port)
    until(lambda: other.get_progress()["current_image"])
    now = other.get_progress()
    assert 0 < now["progress"] < 1
    assert now["eta_relative"] > 0
    assert now["state"]["sampling_steps"] == 900
    assert 0 < now["state"]["sampling_step"] <= 900
    assert Image.open(io.BytesIO(base64.b64decode(now["current_image"]))).size == (8, 8)
    skipped = requests.get(f"{serving.url}/sdapi/v1/progress?skip_current_image=true", timeout=10).json()
    assert skipped["current_image"] is None
    assert other.interrupt() == {}
    thread.join(20)
    assert made[0].images == []  # the first was not finished
    assert made[0].info["infotexts"] == []


def test_interrupt_leaves_the_jobs_of_others_alone(serving, client):
    with requests.post(f"{serving.url}/page/pictures", json={"prompt": "a", "steps": 900}, stream=True, timeout=30):
        until(lambda: serving.queue.working)
        assert client.get_progress()["state"]["job_count"] == 0
        client.interrupt()
        assert not serving.queue.working.stopping
    until(lambda: serving.queue.working is None)


@pytest.mark.parametrize(
    ("fields", "field", "sentence"),
    [
        ({"steps": 0}, "steps", "steps: 0 is out of range; it must be from 1 to 1000"),
        ({"steps": "many"}, "steps", "steps must be a whole number, not 'many'"),
        ({"steps": 2.5}, "steps", "steps must be a whole number, not 2.5"),
        ({"cfg_scale": [1]}, "cfg_scale", "cfg_scale must be a number, not [1]"),
        ({"prompt": 3}, "prompt", "prompt must be a text, not 3"),
        ({"prompt": "a" * 40_000}, "prompt", "prompt has 40,000 characters; it may have 32,000"),
        ({"width": 15}, "width", "width must be a multiple of 2 pixels, not 15"),
        ({"sampler_name": "Eulr"}, "sampler", "sampler 'Eulr' is unknown; did you mean 'euler'?"),
        ({"enable_hr": True}, "enable_hr", "enable_hr True is not supported; leave it out, or take false"),
        ({"tiling": True}, "tiling", "tiling True is not supported; leave it out, or take false"),
        ({"styles": ["noir"]}, "styles", "styles ['noir'] is not supported"),
        ({"script_name": "X/Y/Z plot"}, "script_name", "script_name 'X/Y/Z plot' is not supported"),
        ({"alwayson_scripts": {"ControlNet": {}}}, "alwayson_scripts", "is not supported; leave it out"),
        ({"subseed_strength": 0.5}, "subseed_strength", "subseed_strength 0.5 is not supported"),
        ({"promt": "a"}, "promt", "field 'promt' is unknown; did you mean prompt?"),
        ({"batch_size": 200}, "batch_size", "200 pictures are too many; take 100"),
        ({"seed": -7}, "seed", "seed must be -1 or more, not -7"),
        ({"seed": 1 << 70}, "seed", "seed"),
        ({"sampler_name": "DDIM", "s_churn": 1}, None, "sampler ddim has no option s_churn"),
        ({"override_settings": {"sd_vae": "x"}}, "sd_vae", "the setting sd_vae is 'Automatic' here, and can't be 'x'"),
        ({"override_settings": {"randn_source": "dice"}}, "randn_source", "randn_source must be one of CPU, GPU, NV"),
        ({"override_settings": {"x": 1}}, "x", "the setting 'x' is not one of this server"),
        ({"override_settings": 1}, "override_settings", "override_settings must be an object"),
        ({"save_images": "perhaps"}, "save_images", "save_images must be true or false, not 'perhaps'"),
    ],
)
def test_bad_input_is_one_sentence(serving, fields, field, sentence):
    answer = post(serving, "txt2img", **{"prompt": "a", **fields})
    assert answer.status_code == 422, answer.text
    said = answer.json()
    assert sentence in said["detail"]
    assert "\n" not in said["detail"]
    if field is not None:
        assert said["field"] == field


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({}, "init_images must be a list of one picture in base64"),
        ({"init_images": ["?"]}, "init_images is no valid base64"),
        ({"init_images": ["aaaa"]}, "init_images: is no picture; wanted PNG, JPEG, WEBP, GIF, BMP"),
        ({"init_images": [7]}, "init_images must be a picture in base64, not int"),
        ({"init_images": ["http://example.org/a.png"]}, "init_images is a link, which this server does not follow"),
        ({"init_images": ["a", "b"]}, "init_images has 2 pictures; this server begins from one"),
        ({"init_images": ["PNG"], "resize_mode": 3}, "resize_mode must be 0 (stretch), 1 (crop) or 2 (fill), not 3"),
        ({"init_images": ["PNG"], "denoising_strength": 2}, "strength: 2.0 is out of range; it must be from 0 to 1"),
        ({"init_images": ["PNG"], "width": 15}, "the picture's size 15×16 must be a multiple of 2 pixels each way"),
    ],
)
def test_a_picture_to_begin_from_that_will_not_do(serving, fields, sentence):
    file = io.BytesIO()
    Image.new("RGB", (16, 16)).save(file, "PNG")
    png = base64.b64encode(file.getvalue()).decode()
    fields = {k: [png] if v == ["PNG"] else v for k, v in fields.items()}
    answer = post(serving, "img2img", prompt="a", **fields)
    assert answer.status_code == 422, answer.text
    assert sentence in answer.json()["detail"]


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'"a"', b"\xff", b"[" * 100_000])
def test_a_body_that_is_no_object(serving, body):
    answer = requests.post(f"{serving.url}/sdapi/v1/txt2img", data=body, timeout=10)
    assert answer.status_code == 422
    assert answer.json()["detail"].startswith("the body ")


def test_another_model_is_not_there(serving):
    answer = post(serving, "txt2img", prompt="a", override_settings={"sd_model_checkpoint": "other"})
    assert answer.status_code == 404
    assert answer.json()["detail"] == "the model 'other' is not here; this server has 'tiny'"
    assert post(serving, "options", sd_model_checkpoint="other").status_code == 404
    assert requests.get(f"{serving.url}/sdapi/v1/nothing", timeout=10).json()["detail"] == (
        "there is nothing at this address"
    )
    assert requests.get(f"{serving.url}/sdapi/v1/txt2img", timeout=10).status_code == 405


@pytest.fixture(scope="module")
def scene():
    """A picture, and the mask of a spot in it."""
    picture = Image.fromarray(np.random.default_rng(1).integers(0, 256, (32, 48, 3), np.uint8))
    mask = Image.new("L", picture.size, 0)
    mask.paste(255, (20, 8, 30, 16))
    return picture, mask


def test_a_mask_over_the_whole_picture(client, model, scene):
    picture, mask = scene
    how = {"inpaint_full_res": False, "inpainting_fill": 1, "mask_blur": 2, "denoising_strength": 0.7}
    made = client.img2img([picture], mask_image=mask, prompt="a", seed=5, width=48, height=32, **how)
    settings = {"strength": 0.7, "steps": 3, "guidance_scale": 7.0, "seed": 5, "sampler": "euler_a", "mask_blur": 2}
    same(made.image, model.inpaint("a", picture, mask, **settings)[0])
    inverse = client.img2img(
        [picture], mask_image=mask, inpainting_mask_invert=1, prompt="a", seed=5, width=48, height=32, **how
    )
    turned = Image.fromarray(255 - np.asarray(mask))
    same(inverse.image, model.inpaint("a", picture, turned, **settings)[0])


def test_a_mask_as_the_client_sends_it_by_default_is_painted_from_close_by(client, scene):
    picture, mask = scene
    made = client.img2img([picture], mask_image=mask, prompt="a", seed=5, mask_blur=0, **SMALL)
    assert made.image.size == picture.size
    changed = (np.asarray(made.image.convert("RGB")) != np.asarray(picture)).any(axis=-1)
    assert changed[8:16, 20:30].mean() > 0.9
    changed[8:16, 20:30] = False
    assert not changed.any()
    soft = client.img2img([picture], mask_image=mask, prompt="a", seed=5, **SMALL)  # its mask_blur is 4
    changed = (np.asarray(soft.image.convert("RGB")) != np.asarray(picture)).any(axis=-1)
    assert changed[7, 20:30].any()
    changed[2:22, 14:36] = False
    assert not changed.any()


def test_a_mask_in_the_opacity_of_a_picture(client, scene):
    picture, mask = scene
    drawn = Image.new("RGBA", picture.size, (9, 9, 9, 0))
    drawn.putalpha(mask)
    one, other = (client.img2img([picture], mask_image=m, prompt="a", seed=5, **SMALL).image for m in (mask, drawn))
    same(one, other)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"mask": Image.new("L", (3, 3), 255)}, "mask: its size 3×3 must be that of the picture, 48×32"),
        ({"mask": Image.new("L", (48, 32))}, "mask: nothing in it is white"),
        ({"inpainting_fill": 2}, "inpainting_fill must be 0 (fill) or 1 (original), not 2"),
        ({"inpaint_full_res_padding": -1}, "inpaint_full_res_padding must be 0 or more, not -1"),
        ({"mask_blur": -1, "inpaint_full_res": False}, "mask_blur must be 0 or more pixels, not -1"),
        ({"mask_blur_x": 2}, "mask_blur_x 2 is not supported"),
    ],
)
@pytest.mark.parametrize("whole", [True, False])
def test_a_mask_that_will_not_do(serving, scene, fields, sentence, whole):
    picture, mask = scene
    given = {"mask": mask, "inpaint_full_res": not whole, **SMALL, **fields}
    given["mask"] = webuiapi.b64_img(given["mask"])
    answer = post(serving, "img2img", prompt="a", init_images=[webuiapi.b64_img(picture)], **given)
    assert answer.status_code == 422, answer.text
    assert sentence in answer.json()["detail"]
