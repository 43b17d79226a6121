"""What picture files say of how they were made: written, read by others and by us, damaged and hostile ones."""

from __future__ import annotations

import io
import json
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sd_parsers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from tinyldm.errors import InputError
from tinyldm.pipelines.infotext import AUTOMATIC, SAMPLER_LABELS, SCHEDULE_LABELS, infotext, read_infotext
from tinyldm.pipelines.picture_text import check_picture, read_said, read_texts, write_picture
from tinyldm.pipelines.request import READ, as_texts, read_metadata, request

SAID: dict[str, Any] = {
    "prompt": "red apple, on a table\nsecond line: é 苹果 🍎",
    "negative_prompt": "blurry, bad",
    "steps": 25,
    "guidance_scale": 7.5,
    "sampler": "dpm++_2m_karras",
    "seed": 2**32 + 5,
    "width": 32,
    "height": 24,
    "sampler_options": {"solver_order": 3},
    "Software": "tinyldm 0",
    "model": "tiny",
}
FORMATS = ("a.png", "a.jpg", "a.JPEG", "a.webp")


def noise(seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (24, 32, 3), np.uint8))


@pytest.mark.parametrize("name", FORMATS)
def test_what_is_written_is_read(tmp_path: Path, name: str) -> None:
    write_picture(tmp_path / name, noise(), SAID)
    said = read_said(tmp_path / name)
    assert (said.settings, said.unread, said.foreign) == (as_texts(SAID), (), False)
    with Image.open(tmp_path / name) as image:
        assert image.format == {"png": "PNG", "jpg": "JPEG", "jpeg": "JPEG", "webp": "WEBP"}[name[2:].lower()]
        if name.endswith(("png", "webp")):  # these have the very pixels
            assert np.array_equal(np.asarray(image.convert("RGB")), np.asarray(noise()))


@pytest.mark.parametrize("name", FORMATS)
def test_another_program_reads_it(tmp_path: Path, name: str) -> None:
    """sd-parsers takes it for a picture of the web interface, in every format."""
    write_picture(tmp_path / name, noise(), SAID)
    found = sd_parsers.ParserManager().parse(tmp_path / name)
    assert found.generator == sd_parsers.data.Generators.AUTOMATIC1111
    (sampler,) = found.samplers
    assert (sampler.name, sampler.parameters["scheduler"]) == ("DPM++ 2M", "Karras")
    assert (sampler.parameters["seed"], sampler.parameters["steps"]) == (str(2**32 + 5), "25")
    assert (sampler.parameters["cfg_scale"], sampler.model.name) == ("7.5", "tiny")
    assert [prompt.value for prompt in sampler.prompts] == [SAID["prompt"]]
    assert [prompt.value for prompt in sampler.negative_prompts] == ["blurry, bad"]
    assert found.metadata["Size"] == "32x24"


@pytest.mark.parametrize("name", FORMATS)
def test_the_form_of_the_web_is_read_where_ours_is_gone(tmp_path: Path, name: str) -> None:
    """A program that keeps `parameters` or the comment only: all is there but for the JSON."""
    write_picture(tmp_path / name, noise(), SAID | {"sampler_options": {"eta": 0.5}, "sampler": "ddim", "rng": "cuda"})
    text = read_texts(tmp_path / name)["parameters"]
    read, unread = read_infotext(text)
    assert unread == []
    again = read_metadata(read)
    assert (again.prompts, again.seeds, again.sampler) == ((SAID["prompt"],), (SAID["seed"],), "ddim")
    assert (again.sampler_options, again.rng, again.width) == ({"eta": 0.5}, "cuda", 32)


def test_pictures_of_earlier_versions_are_read(tmp_path: Path) -> None:
    text = PngImagePlugin.PngInfo()
    for key, value in as_texts(SAID).items():
        text.add_itxt(key, value)
    noise().save(tmp_path / "old.png", pnginfo=text)
    assert read_said(tmp_path / "old.png").settings == as_texts(SAID)


WEB = "a cat, (sitting:1.2)\nNegative prompt: dog\nbird\nSteps: 20, Sampler: {}, CFG scale: 7, Seed: 1, Size: 512x768{}"


@pytest.mark.parametrize(
    ("sampler", "more", "wanted", "options", "unread"),
    [
        ("Euler a", "", "euler_a_uniform", None, []),
        ("DPM++ 2M Karras", "", "dpm++_2m_karras", None, []),
        ("DPM++ 2M", ", Schedule type: Automatic", "dpm++_2m_karras", None, []),
        ("DPM++ 2M", ", Schedule type: SGM Uniform", "dpm++_2m_sgm_uniform", None, []),
        ("DPM++ 3M SDE", ", Schedule type: Automatic", "dpm++_3m_sde_exponential", '{"brownian": true}', []),
        ("DPM++ 2M", ", Schedule type: Normal", "dpm++_2m_uniform", None, []),
        ("DPM++ 2M", ", Schedule type: Fibonacci", "DPM++ 2M Fibonacci", None, []),
        ("DPM adaptive", "", "DPM adaptive", None, []),
        ("dpmpp_2m_gpu_normal", ", Version: ComfyUI", "dpm++_2m_uniform", None, []),
        ("Euler", ", Schedule max sigma: 9, Version: v1\nTemplate: {a|b}", "euler_uniform", '{"sigma_max": 9.0}', []),
        ("LCM", ", Schedule type: Karras", "lcm", None, ["Schedule type: Karras"]),
        ("DDIM", ", Schedule type: Karras", "ddim", None, []),
        ("Euler", ", Schedule type: Align Your Steps", "euler_align_your_steps", None, []),
        ("DPM++ 2M SDE Heun Karras", "", "dpm++_2m_sde_karras", '{"solver_type": "heun", "brownian": true}', []),
        ("DDIM", ", Eta DDIM: 0.5", "ddim", '{"eta": 0.5}', []),
        ("Euler", ", Sigma churn: 0.2, ENSD: 31337", "euler_uniform", '{"s_churn": 0.2}', ["ENSD: 31337"]),
        (
            "PLMS",
            ", Denoising strength: 0.7, Hires upscale: 2",
            "pndm",
            None,
            ["Denoising strength: 0.7", "Hires upscale: 2"],
        ),
        ("UniPC", ', TI hashes: "a: 1, b: 2", Version: v1.10.1, Model hash: abc', "unipc_uniform", None, []),
        ("LMS", ', Wildcard: "a, b", Clip skip: 2', "lms_uniform", None, ["Wildcard: a, b"]),
    ],
)
def test_pictures_of_the_web_interface(
    sampler: str, more: str, wanted: str, options: str | None, unread: list[str]
) -> None:
    said, left = read_infotext(WEB.format(sampler, more))
    assert (said["sampler"], said.get("sampler_options"), left) == (wanted, options, unread)
    assert (said["prompt"], said["negative_prompt"]) == ("a cat, (sitting:1.2)", "dog\nbird")
    assert (said["steps"], said["width"], said["height"], said["rng"]) == ("20", "512", "768", "cuda")


def test_variations_and_tiling_of_the_web_interface() -> None:
    """What it can and what is here, too, under its labels both ways."""
    labels = "Variation seed: 5, Variation seed strength: 0.2"
    said, left = read_infotext(WEB.format("Euler", f", {labels}, Tiling: True"))
    assert (said["variation_seed"], said["variation_strength"], said["seamless"], left) == ("5", "0.2", "both", [])
    text = infotext(SAID | {"variation_seed": 5, "variation_strength": 0.2, "seamless": "both"})
    assert labels in text
    assert "Tiling: True" in text
    assert "Seamless: x" in infotext(SAID | {"seamless": "x"})


def test_levels_by_hand_are_of_no_schedule() -> None:
    said = SAID | {"sampler": "euler", "sampler_options": {"sigmas": [14, 2]}}
    assert "Schedule type" not in infotext(said)


COMFY: dict[str, Any] = {
    "3": {
        "class_type": "KSampler",
        "inputs": {
            **{"seed": 5, "steps": 2, "cfg": 8.0, "sampler_name": "dpmpp_2m", "scheduler": "normal", "denoise": 1.0},
            **{"model": ["10", 0], "positive": ["6", 0], "negative": ["7", 0], "latent_image": ["5", 0]},
        },
    },
    "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "v1-5.ckpt"}},
    "5": {"class_type": "EmptyLatentImage", "inputs": {"width": 512, "height": 256, "batch_size": 1}},
    "6": {"class_type": "CLIPTextEncode", "inputs": {"text": "a cat", "clip": ["10", 1]}},
    "7": {"class_type": "CLIPTextEncode", "inputs": {"text": "bad", "clip": ["10", 1]}},
    "10": {"class_type": "LoraLoader", "inputs": {"lora_name": "ink", "model": ["4", 0], "clip": ["4", 1]}},
}
INVOKE = {
    **{"positive_prompt": "a cat", "seed": 5, "rand_device": "cpu", "cfg_scale": 8.0, "steps": 2, "width": 512},
    **{"height": 256, "scheduler": "euler_k", "model": {"model_name": "v1-5"}, "seamless_x": True, "loras": [1]},
}


@pytest.mark.parametrize(("name", "made"), [("prompt", COMFY), ("invokeai_metadata", INVOKE)])
def test_pictures_of_comfyui_and_invokeai(tmp_path: Path, name: str, made: dict[str, Any]) -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text(name, json.dumps(made))
    noise().save(tmp_path / "a.png", pnginfo=info)
    said = read_said(tmp_path / "a.png")
    assert said.foreign
    wanted = read_metadata(said.settings)
    assert (wanted.prompts, wanted.seeds, wanted.steps, wanted.guidance_scale) == (("a cat",), (5,), 2, 8.0)
    assert (wanted.width, wanted.height, wanted.rng) == (512, 256, "torch")
    other = {
        "prompt": ("dpmpp_2m normal", ("bad",), None, "webui"),
        "invokeai_metadata": ("euler_k", ("",), "x", "plain"),
    }
    assert (wanted.sampler, wanted.negative_prompts, wanted.seamless, wanted.prompt_syntax) == other[name]
    assert said.settings["model"].startswith("v1-5")
    assert said.unread == {"prompt": ("node LoraLoader",), "invokeai_metadata": ("loras: [1]",)}[name]


@pytest.mark.parametrize(
    ("made", "message"),
    [
        ({"1": {"class_type": "SaveImage", "inputs": {}}}, "has 0 nodes KSampler"),
        (COMFY | {"9": COMFY["3"]}, "has 2 nodes KSampler"),
        ({"3": {"class_type": "KSampler", "inputs": {}}}, "the text 'prompt' is not what its program writes"),
        ({"3": [1]}, "the text 'prompt' is not what its program writes"),
    ],
)
def test_graphs_that_are_not_read(tmp_path: Path, made: dict[str, Any], message: str) -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("prompt", json.dumps(made))
    noise().save(tmp_path / "a.png", pnginfo=info)
    with pytest.raises(InputError, match=message):
        read_said(tmp_path / "a.png")


def test_a_graph_that_begins_from_a_picture(tmp_path: Path) -> None:
    graph = json.loads(json.dumps(COMFY))
    graph["3"]["inputs"] |= {"latent_image": ["12", 0], "denoise": 0.6}
    graph |= {"12": {"class_type": "VAEEncode", "inputs": {"pixels": ["13", 0]}}}
    graph |= {"13": {"class_type": "LoadImage", "inputs": {"image": "start.png"}}}
    info = PngImagePlugin.PngInfo()
    info.add_text("prompt", json.dumps(graph))
    noise().save(tmp_path / "a.png", pnginfo=info)
    said = read_said(tmp_path / "a.png").settings
    assert (said["image"], said["strength"], "width" in said) == ("start.png", "0.6", False)


@pytest.mark.parametrize(("source", "rng"), [("CPU", "torch"), ("NV", "cuda"), ("GPU", "cuda"), ("NumPy", "numpy")])
def test_where_the_web_draws_its_noise(source: str, rng: str) -> None:
    assert read_infotext(WEB.format("Euler", f", RNG: {source}"))[0]["rng"] == rng


@pytest.mark.parametrize("sampler", SAMPLER_LABELS)
@pytest.mark.parametrize("schedule", [None, *SCHEDULE_LABELS])
def test_labels_of_samplers_are_read_as_written(sampler: str, schedule: str | None) -> None:
    from tinyldm.diffusion.samplers import find_sampler
    from tinyldm.diffusion.samplers.registry import takes_schedules

    takes = takes_schedules(sampler)
    if schedule is not None and not takes:
        return
    text = infotext(SAID | {"sampler": sampler if schedule is None else f"{sampler}_{schedule}", "sampler_options": {}})
    wanted = f"{sampler}_{(schedule or 'uniform').replace('_xl', '')}" if takes else sampler
    assert find_sampler(read_infotext(text)[0]["sampler"]) == wanted
    assert AUTOMATIC.keys() <= SAMPLER_LABELS.keys()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "have no line of settings"),
        ("a prompt: with, some: commas", "have no line of settings"),
        (WEB.format("DPM fast", ""), "'DPM fast' is unknown"),
        (WEB.format("Euler", ", Schedule type: Fibonacci"), "'Euler Fibonacci' is unknown"),
        (WEB.format("DDIM", ", Eta DDIM: much"), "Eta DDIM must be a number, not 'much'"),
        ("Steps: 2, Sampler: Euler, Seed: 1", "does not say its 'height'"),
        (WEB.format("Euler", ", RNG: dice"), "rng: 'dice' is unknown"),
        (WEB.format("Euler", "").replace("Steps: 20", "Steps: all"), "can't be read"),
        (WEB.format("Euler", "").replace("CFG scale: 7", "CFG scale: nan"), "must be a finite number"),
        (WEB.format("Euler", "").replace("Seed: 1", f"Seed: {'9' * 5000}"), "can't be read"),
    ],
)
def test_what_cannot_be_read_is_said(tmp_path: Path, text: str, message: str) -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("parameters", text)
    noise().save(tmp_path / "a.png", pnginfo=info)
    with pytest.raises(InputError, match=message) as caught:
        read_metadata(read_said(tmp_path / "a.png").settings)
    assert "\n" not in str(caught.value)


@given(st.dictionaries(st.sampled_from(list(SAID)), st.text(st.characters(exclude_categories=["Cs", "Cc"]))))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40, deadline=None)
def test_any_text_comes_back(tmp_path: Path, texts: dict[str, str]) -> None:
    said = SAID | {name: text for name, text in texts.items() if name in ("prompt", "negative_prompt", "model")}
    for name in ("a.png", "a.webp"):
        write_picture(tmp_path / name, noise(), said)
        assert read_said(tmp_path / name).settings == as_texts(said)


def test_settings_are_read_as_they_were() -> None:
    """Every setting that is written has a reader, and the request comes back."""
    more = {"guidance_rescale": 0.5, "rng": "numpy", "sampler_options": {"eta": 0.5}}
    more |= {"prompt_syntax": "webui", "clip_skip": 2}
    wanted = request("a", "b", seed=3, steps=4, guidance_scale=2.0, sampler="ddim", height=32, width=64, **more)
    assert read_metadata(wanted.metadata(0)) == wanted
    assert set(wanted.settings(0)) <= READ.keys()
    none = request(None, seed=3, steps=4, guidance_scale=2.0, sampler="ddim", height=32, width=64)
    assert read_metadata(none.metadata(0)) == none


@pytest.mark.parametrize("name", FORMATS)
@given(data=st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
def test_damaged_files_give_a_line_or_what_they_say(tmp_path: Path, name: str, data: Any) -> None:
    write_picture(tmp_path / name, noise(), SAID)
    damaged = bytearray((tmp_path / name).read_bytes())
    if data.draw(st.booleans(), label="cut"):
        damaged = damaged[: data.draw(st.integers(0, len(damaged)))]
    else:
        for place in data.draw(st.lists(st.integers(0, len(damaged) - 1), min_size=1, max_size=8)):
            damaged[place] = data.draw(st.integers(0, 255))
    (tmp_path / f"damaged-{name}").write_bytes(damaged)
    message = ""
    try:
        read_said(tmp_path / f"damaged-{name}")
    except InputError as error:
        message = str(error)
    assert "\n" not in message


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_with(*chunks: bytes) -> bytes:
    file = io.BytesIO()
    noise().save(file, "PNG")
    whole = file.getvalue()
    return whole[:33] + b"".join(chunks) + whole[33:]  # behind the header


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no picture",
        png_with(chunk(b"zTXt", b"parameters\0\0" + zlib.compress(bytes(1 << 28)))),  # a bomb
        png_with(*[chunk(b"zTXt", b"a%d\0\0" % i + zlib.compress(bytes(1 << 20))) for i in range(80)]),
        png_with(chunk(b"tEXt", b"tinyldm\0" + b"[" * 200_000)),
        png_with(chunk(b"tEXt", b"tinyldm\0[1, 2]"))[:-1],
        png_with(chunk(b"eXIf", b"MM\0*\0\0\0\x08" + b"\xff" * 40)),
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 2**31 - 1, 2**31 - 1, 8, 2, 0, 0, 0)),
    ],
)
def test_hostile_files(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_metadata(read_said(tmp_path / "a.png").settings)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("first", ["utf-16-be", "utf-16-le", "ascii", "zero"])
def test_comments_in_every_encoding(tmp_path: Path, first: str) -> None:
    text = WEB.format("Euler", "")
    head = {"ascii": b"ASCII\0\0\0", "zero": bytes(8)}.get(first, b"UNICODE\0")
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x9286] = head + text.encode("utf-8" if first in ("ascii", "zero") else first)
    noise().save(tmp_path / "a.jpg", exif=exif)
    said = read_said(tmp_path / "a.jpg")
    assert said.foreign
    assert said.settings["sampler"] == "euler_uniform"


def test_what_a_format_cannot_hold_is_said_first(tmp_path: Path) -> None:
    long = SAID | {"prompt": "word " * 10_000}
    with pytest.raises(InputError, match="too long for a JPEG"):
        check_picture(tmp_path / "a.jpg", long, (8, 8))
    check_picture(tmp_path / "a.webp", long, (8, 8))
    check_picture(tmp_path / "a.png", long, (20_000, 8))
    with pytest.raises(InputError, match="WEBP has at most 16383 pixels a side, not 20000"):
        check_picture(tmp_path / "a.webp", SAID, (20_000, 8))
    with pytest.raises(InputError, match=r"must end in \.png, \.jpg, \.jpeg, \.webp"):
        check_picture(tmp_path / "a.gif", SAID, (8, 8))


def test_a_file_says_the_same_as_json(tmp_path: Path) -> None:
    write_picture(tmp_path / "a.png", noise(), SAID)
    with Image.open(tmp_path / "a.png") as image:
        assert json.loads(image.text["tinyldm"]) == SAID
        assert image.text["steps"] == "25"
