"""LoRAs that a prompt names: their files, their strengths, and models that were loaded without them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import tinyldm
from tinyldm.checkpoints.safetensors import write_safetensors
from tinyldm.errors import InputError
from tinyldm.golden.seeded import seeded_weights
from tinyldm.pipelines.prompt_loras import named_loras
from tinyldm.pipelines.request import request

LAYER = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    weights = seeded_weights({"down": (2, 8), "up": (8, 2)})
    named = {f"{LAYER}.lora_A.weight": weights["down"], f"{LAYER}.lora_B.weight": 3 * weights["up"]}
    folder = tmp_path / "loras"
    for name in ("charcoal/pytorch_lora_weights.safetensors", "chalk/pytorch_lora_weights.safetensors"):
        (folder / name).parent.mkdir(parents=True)
        write_safetensors(folder / name, named)
    for name in ("ink.safetensors", "styles/soft oil v1.0.safetensors", "a/two.safetensors", "b/two.safetensors"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_safetensors(folder / name, named)
    (folder / "notes.txt").write_text("x")
    return folder


def test_files_are_found_by_name(folder: Path) -> None:
    ink, oil = str(folder / "ink.safetensors"), str(folder / "styles" / "soft oil v1.0.safetensors")
    assert named_loras(["a", "b"]) == []
    assert named_loras(["a <lora:ink:0.8>"], folder) == [(ink, 0.8)]
    assert named_loras(["<lora:ink> a", "b<lyco:ink:1>"], folder) == [(ink, 1.0)]
    both = named_loras(["<lora:soft oil v1.0:.5:.5><lora:ink:-1>", "<lora:ink:-1.0>b<lora:soft oil v1.0:0.5>"], folder)
    assert both == [(oil, 0.5), (ink, -1.0)]
    assert named_loras(["<lora:ink:1>"], beside=[folder / "other.safetensors"]) == [(ink, 1.0)]
    assert named_loras(["<lora:ink:1>"], folder, [folder / "other.safetensors"]) == [(ink, 1.0)]


def test_a_published_folder_and_a_sister_by_name(folder: Path) -> None:
    charcoal = str(folder / "charcoal" / "pytorch_lora_weights.safetensors")
    assert named_loras(["<lora:charcoal:0.5> a"], folder) == [(charcoal, 0.5)]
    assert named_loras(["<lora:emoji-lines:0.8>"]) == [("emoji-lines", 0.8)]
    model = tinyldm.load(loras=named_loras(["<lora:emoji-lines:0.8>"]))
    wanted = request("fox <lora:emoji-lines:0.8>", prompt_syntax="webui", steps=1)
    assert wanted.resolved(model.parts).prompts == wanted.prompts
    with pytest.raises(InputError, match="several files have that name"):
        named_loras(["<lora:pytorch_lora_weights:1>"], folder)


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        (["<lora:inc:1>"], "<lora:inc>: no file of that name is in {folder}; near are ink"),
        (["<lora:notes:1>"], "<lora:notes>: no file of that name"),
        (["<lora:two:1>"], "<lora:two>: several files have that name"),
        (["<lora:ink:much>"], "'much' is no strength"),
        (["<lora:ink:nan>"], "'nan' is no strength"),
        (["<lora:ink:0.5:0.8>"], "wants one strength"),
        (["<hypernet:ink:1>"], "<hypernet:ink:1>: the adapters that a prompt may name"),
        (["<lora:ink:1> a", "b"], "name different LoRAs"),
    ],
)
def test_what_is_no_lora(folder: Path, prompts: list[str], message: str) -> None:
    with pytest.raises(InputError) as refused:
        named_loras(prompts, folder)
    assert message.format(folder=folder) in str(refused.value)


def test_no_folder(folder: Path) -> None:
    with pytest.raises(InputError, match="nowhere: is no folder of LoRAs"):
        named_loras(["a"], "nowhere")
    with pytest.raises(InputError, match="--lora-dir"):
        named_loras(["<lora:ink:1>"])


def test_a_model_has_the_loras_of_its_prompts(checkpoint: Path, folder: Path) -> None:
    prompt, settings = "a <lora:ink:0.5>", {"steps": 2, "seed": 1, "sampler": "ddim"}

    def picture(model: tinyldm.LatentDiffusion, text: str, syntax: str = "webui", negative: str = "") -> bytes:
        return model.text_to_image(text, negative, prompt_syntax=syntax, **settings)[0].tobytes()

    model = tinyldm.load(checkpoint, backend="reference", loras=named_loras([prompt], folder))
    assert picture(model, prompt) == picture(model, "a", "plain")
    assert picture(model, prompt) != picture(tinyldm.load(checkpoint, backend="reference"), "a", "plain")
    with pytest.raises(InputError, match=r"<lora:ink:1>: the model is loaded with other LoRAs \(ink at 0\.5\)"):
        picture(model, "a <lora:ink:1>")
    with pytest.raises(InputError, match=r"negative prompt: <lora:ink:0\.5> acts on the whole picture"):
        picture(model, "a", negative="<lora:ink:0.5>")
    model.scale_loras(1.0)
    picture(model, "a <lora:ink:1>")


def test_from_the_command_line(run, folder: Path) -> None:
    words = ("--steps", "2", "--seed", "1")
    by_name = ("sample", "a <lora:ink:0.5>", "-o", "named.png", "--lora-dir", str(folder), *words)
    by_option = ("sample", "a", "--lora", f"{folder}/ink.safetensors@0.5", "-o", "option.png", *words)
    beside = ("sample", "a <lora:ink:0.5>", "--lora", f"{folder}/ink.safetensors", "-o", "beside.png", *words)
    for command in (by_name, by_option, beside):
        assert run(*command)[0] == 0
    found = [np.asarray(Image.open(name)) for name in ("named.png", "option.png", "beside.png")]
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], found[2])
    status, _, err = run("sample", "--from", "named.png", "-o", "again.png")
    assert status == 2
    assert "--lora-dir" in err
    assert run("sample", "--from", "named.png", "-o", "again.png", "--lora-dir", str(folder))[0] == 0
    np.testing.assert_array_equal(np.asarray(Image.open("again.png")), found[0])
