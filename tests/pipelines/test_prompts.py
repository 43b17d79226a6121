"""Prompts with syntax on whole models: what each call of the UNet is asked with, and what is refused."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tiny_checkpoints import write_controlnet, write_lcm, write_ldm, write_ldm_text, write_sd, write_xl

import tinyldm
from tinyldm.checkpoints.safetensors import write_safetensors
from tinyldm.diffusion.prediction import rescale_guidance
from tinyldm.diffusion.samplers import make_sampler
from tinyldm.errors import InputError
from tinyldm.golden.seeded import seeded_weights
from tinyldm.pipelines.prompt_checks import length_of_run
from tinyldm.pipelines.prompted import words
from tinyldm.pipelines.request import read_metadata, request
from tinyldm.pipelines.walk import Walk, condition_of

WRITERS: dict[str, Callable[[Path], Path]] = {
    "sd": write_sd,
    "xl": write_xl,
    "lcm": write_lcm,
    "bert": write_ldm_text,
    "unconditional": write_ldm,
}
SETTINGS = {"steps": 4, "guidance_scale": 3.0, "sampler": "ddim", "seed": 5}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tinyldm.LatentDiffusion]:
    folder = tmp_path_factory.mktemp("models")
    return {name: tinyldm.load(write(folder / name), backend="reference") for name, write in WRITERS.items()}


def latents(model: tinyldm.LatentDiffusion, prompt: Any, negative: Any = "", **settings: Any) -> np.ndarray:
    settings = {**SETTINGS, "prompt_syntax": "webui", **settings}
    wanted = request(prompt, negative, **settings)
    return np.concatenate([picture.latent for picture in model.pictures(wanted, Walk())])


def by_hand(model: tinyldm.LatentDiffusion, predict: Callable[[int, np.ndarray, Any], np.ndarray]) -> np.ndarray:
    """The latent of the settings above, `predict(call, z, t)` being what the sampler asks."""
    sampler = make_sampler("ddim", model.scheduler_config, SETTINGS["steps"])
    calls = iter(range(SETTINGS["steps"]))
    z = tinyldm.random.torch_randn((1, 4, 8, 8), seed=SETTINGS["seed"])
    for i in range(len(sampler)):
        z = sampler.step(lambda z, t: predict(next(calls), z, t), i, z, None)
    return z


def context(model: tinyldm.LatentDiffusion, *chunks: str) -> np.ndarray:
    """The contexts of texts that fit, one behind the other."""
    return np.concatenate([model.text_encoder(model.tokenizer.encode(chunk)) for chunk in chunks], axis=1)


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("backend", ["reference", "numba"])
def test_words_are_the_same_picture_in_every_syntax(models, name: str, backend: str) -> None:
    model = tinyldm.load(models[name].path, backend=backend)
    prompt: Any = [None, None] if name == "unconditional" else ["a: b, c", "abc"]
    away = "" if name in ("unconditional", "lcm") else "x"  # these have nothing that they draw away from
    scale = {"guidance_scale": None} if name == "unconditional" else {}
    plain = latents(model, prompt, away, prompt_syntax="plain", **scale)
    np.testing.assert_array_equal(latents(model, prompt, away, **scale), plain)
    if name in ("sd", "xl"):  # and so is a schedule that says nothing else
        for negative in ("", "x"):
            steady = latents(model, "a[: b:0], c[d:9]", negative)
            wanted = latents(model, "a b, c", negative, prompt_syntax="plain")
            np.testing.assert_allclose(steady, wanted, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("backend", ["numba", "reference"])
def test_a_picture_is_the_same_in_any_group(backend: str) -> None:
    """To the last bit, beside pictures whose prompts change, join others, or are longer."""
    model = tinyldm.load(backend=backend)
    prompts = ["red apple", "[red|green] apple", "(fox:1.3)", "owl AND bus :0.5", "a fox BREAK an owl", "red apple"]
    negatives = ["", "", "", "x", "[a:b:2]", "(" * 3 + "blue"]
    together = latents(model, prompts, negatives, steps=2)
    for k, (prompt, negative) in enumerate(zip(prompts, negatives, strict=True)):
        alone = latents(model, prompt, negative, steps=2, seed=SETTINGS["seed"] + k)
        np.testing.assert_array_equal(together[k : k + 1], alone)


def test_weights_are_on_the_context(models) -> None:
    """Against the parts of the condition; the goldens have it whole."""
    parts = models["sd"].parts
    wanted = request("a(b:2)", "(c:0.5)", **SETTINGS, prompt_syntax="webui").resolved(parts)
    found = condition_of(parts, wanted, range(1))
    assert found.composed is None
    for row, text, weight, place in ((0, "c", 0.5, 1), (1, "a b", 2.0, 2)):
        plain = context(models["sd"], text)[0]
        factor = np.ones((len(plain), 1))
        factor[place] = weight
        multiplied = plain * factor
        np.testing.assert_allclose(found.context[row], multiplied * plain.mean() / multiplied.mean(), rtol=1e-5)


def test_each_call_has_the_text_of_its_step(models) -> None:
    """A stretch up to step 2 is that of calls 0 to 2, as in the original; the negative prompt changes, too."""
    model = models["sd"]

    def predict(call: int, z: np.ndarray, t: Any) -> np.ndarray:
        negative, positive = context(model, "cd"[call > 1]), context(model, "ab"[call > 2])
        unconditional, conditional = model.unet(z, t, negative), model.unet(z, t, positive)
        return unconditional + 3 * (conditional - unconditional)

    np.testing.assert_allclose(latents(model, "[a:b:2]", "[c:d:.25]"), by_hand(model, predict), rtol=2e-5, atol=2e-5)


def test_alternatives_take_turns(models) -> None:
    """The first twice, since its stretch ends at step 1, and calls are counted from 0."""
    model = models["sd"]

    def predict(call: int, z: np.ndarray, t: Any) -> np.ndarray:
        return model.unet(z, t, context(model, "aaba"[call]))

    np.testing.assert_allclose(
        latents(model, "[a|b]", guidance_scale=1.0), by_hand(model, predict), rtol=2e-5, atol=2e-5
    )


@pytest.mark.parametrize("rescale", [0.0, 0.7])
def test_joined_prompts(models, rescale: float) -> None:
    model = models["sd"]

    def predict(call: int, z: np.ndarray, t: Any) -> np.ndarray:
        none, a, b = (model.unet(z, t, context(model, text)) for text in ("n", "a", "b"))
        whole = none + 0.5 * (a - none) - 0.25 * (b - none)
        prediction = none + 3 * (whole - none)
        return rescale_guidance(prediction, whole, rescale) if rescale else prediction

    found = latents(model, "a:0.5 AND b:-.25", "n", guidance_rescale=rescale)
    np.testing.assert_allclose(found, by_hand(model, predict), rtol=2e-5, atol=2e-5)


def test_a_long_prompt_beside_a_short_negative_one(models) -> None:
    """Contexts of two lengths; those that AND joins are as long as the longest, by their last vector."""
    model = models["sd"]

    def predict(call: int, z: np.ndarray, t: Any) -> np.ndarray:
        short = context(model, "b")
        filled = np.concatenate([short, np.repeat(short[:, -1:], 16, axis=1)], axis=1)
        none, a, b = (model.unet(z, t, text) for text in (context(model, ""), context(model, "a", "c"), filled))
        return none + 3 * ((a - none) + (b - none))

    np.testing.assert_allclose(latents(model, "a BREAK c AND b"), by_hand(model, predict), rtol=2e-5, atol=2e-5)


def test_stretches_of_one_prompt_have_as_many_chunks(models) -> None:
    model = models["sd"]

    def predict(call: int, z: np.ndarray, t: Any) -> np.ndarray:
        return model.unet(z, t, context(model, "a", "") if call <= 2 else context(model, "a", "b"))

    found = latents(model, "a[ BREAK b:2]", guidance_scale=1.0)
    np.testing.assert_allclose(found, by_hand(model, predict), rtol=2e-5, atol=2e-5)


def test_an_image_to_begin_from_counts_its_own_calls(models) -> None:
    model = models["sd"]
    settings = {"image": Image.new("RGB", (16, 16), "red"), "strength": 0.5}
    changing = latents(model, "[a:b:1]", **settings)  # two of four steps, 0 and 1
    np.testing.assert_allclose(changing, latents(model, "a", **settings), rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize(("sampler", "steps"), [("ddim", 4), ("euler_a", 4), ("heun", 8), ("dpm2", 8), ("pndm", 13)])
def test_samplers_of_two_calls_a_step_have_twice_the_steps(models, sampler: str, steps: int) -> None:
    parts = models["sd"].parts
    wanted = request("a", **{**SETTINGS, "sampler": sampler}).resolved(parts)
    assert length_of_run(wanted.begun(parts)[0], 4) == steps
    plms = request("a", **{**SETTINGS, "sampler": "pndm"}, sampler_options={"skip_prk_steps": True}).resolved(parts)
    assert length_of_run(plms.begun(parts)[0], 4) == 4  # though it takes five calls


def test_two_text_encoders(models) -> None:
    """What changes over the steps changes in both contexts and in the pooled text; a plain `XL` row is the same."""
    parts = models["xl"].parts
    wanted = request("[a:b:2]", "n", **SETTINGS, prompt_syntax="webui").resolved(parts)
    (joined,) = condition_of(parts, wanted, range(1)).composed.pictures
    assert joined.prompts[0][1].ends == (2, 4)
    for text, row in zip("ab", joined.prompts[0][1].rows, strict=True):
        plain = parts.conditioner.encode([text], ["n"], 3.0, (16, 16))
        np.testing.assert_allclose(row.context, plain.context[1], rtol=2e-5, atol=2e-5)
        for name, array in row.arrays.items():
            np.testing.assert_allclose(array, plain.arrays[name][1], rtol=2e-5, atol=2e-5)
    assert latents(models["xl"], "[a|b] (c:1.2) AND d", "[e:f:1]").shape == (1, 4, 8, 8)


def test_a_learned_word_has_a_weight(models, tmp_path: Path) -> None:
    write_safetensors(tmp_path / "toy.safetensors", {"emb_params": seeded_weights({"a": (2, 16)})["a"]})
    model = tinyldm.load(models["sd"].path, backend="reference", words=[tmp_path / "toy.safetensors"])
    plain = latents(model, "<toy> a", prompt_syntax="plain")
    np.testing.assert_array_equal(latents(model, "<toy> a"), plain)
    wanted = request("(<toy>:2) a", **SETTINGS, prompt_syntax="webui").resolved(model.parts)
    row, unweighted = condition_of(model.parts, wanted, range(1)).context[1], context(model, "<toy> a")[0]
    ratio = (row / unweighted)[:, 0]
    np.testing.assert_allclose(ratio / ratio[0], [1, 2, 2, *[1] * 13], rtol=1e-4)
    assert (latents(model, "(<toy>:2) a") != plain).any()


def test_the_layer_that_is_read(models, tmp_path: Path) -> None:
    model = models["sd"]

    def predict(call: int, z: np.ndarray, t: Any) -> np.ndarray:
        return model.unet(z, t, model.text_encoder(model.tokenizer.encode("a"), layer=-2))

    for syntax in ("plain", "webui"):
        found = latents(model, "a", prompt_syntax=syntax, guidance_scale=1.0, clip_skip=2)
        np.testing.assert_allclose(found, by_hand(model, predict), rtol=2e-5, atol=2e-5)
    np.testing.assert_array_equal(latents(model, "a", clip_skip=1), latents(model, "a"))
    np.testing.assert_array_equal(latents(models["xl"], "a", clip_skip=2), latents(models["xl"], "a"))


def test_with_a_controlnet_and_a_distilled_model(models, tmp_path: Path) -> None:
    model = tinyldm.load(models["sd"].path, backend="reference", controlnet=write_controlnet(tmp_path / "control"))
    edges = Image.new("RGB", (16, 16), "white")
    plain = latents(model.controlled(edges), "ab", prompt_syntax="plain")
    same = latents(model.controlled(edges), "a[c::0]b")
    np.testing.assert_allclose(same, plain, rtol=2e-5, atol=2e-5)
    assert (latents(model.controlled(edges), "a AND b BREAK c") != plain).any()
    lcm, settings = models["lcm"], {"sampler": "lcm", "guidance_scale": 8.0}
    weighted = latents(lcm, "(a:1.5)", **settings)
    assert (weighted != latents(lcm, "a", **settings)).any()
    assert latents(lcm, "[a|b]", **settings).shape == weighted.shape


@pytest.mark.parametrize(
    ("name", "prompt", "settings", "message"),
    [
        ("sd", "a", {"prompt_syntax": "comfy"}, "prompt_syntax must be plain or webui, not 'comfy'"),
        ("sd", "a", {"clip_skip": 0}, "clip_skip must be 1 or more"),
        ("sd", "a", {"clip_skip": 2.0}, "clip_skip must be 1 or more"),
        ("sd", "a", {"clip_skip": 3}, "has 2 layers; clip_skip 3 is too many"),
        ("xl", "a", {"clip_skip": 1}, "layer 2 from the last; clip_skip 1"),
        ("bert", "a", {"clip_skip": 2}, "clip_skip wants CLIP's text encoder"),
        ("unconditional", None, {"clip_skip": 1, "guidance_scale": None}, "clip_skip wants CLIP's text encoder"),
        ("bert", "(a:1.2)", {}, "has weights or other syntax, which wants CLIP's text encoder; prompt_syntax 'plain'"),
        ("sd", "a AND b", {"guidance_scale": 1.0}, "want a guidance scale above 1"),
        ("sd", "a:0.5", {"guidance_scale": 1.0}, "the weight of a whole prompt"),
        ("lcm", "a AND b", {"sampler": "lcm"}, "want guidance, which this model was distilled from"),
        ("sd", "(" * 8000 + "a", {}, "the weight of 'a' is inf"),
        ("sd", "a <lora:x:1>", {}, "<lora:x:1>: the model is loaded with other LoRAs (none)"),
        ("sd", "a <hypernet:x:1>", {}, "<hypernet:x:1>: the adapters that a prompt may name"),
    ],
)
def test_what_is_refused(models, name: str, prompt: str | None, settings: dict, message: str) -> None:
    """Before anything is read."""
    model = tinyldm.load(models[name].path, backend="reference")
    with pytest.raises(InputError) as refused:
        latents(model, prompt, **settings)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)
    assert not any(node._cache for network in model.networks.values() for node in network.weights.modules())


def test_bert_reads_words_alone(models) -> None:
    assert latents(models["bert"], "a bad cafe!").shape == (1, 4, 8, 8)
    assert latents(models["bert"], "(a:1.2)", prompt_syntax="plain").shape == (1, 4, 8, 8)


def test_the_settings_are_read_back(models) -> None:
    model = models["sd"]
    wanted = request("[a:b:2]", "(c)", **SETTINGS, prompt_syntax="webui", clip_skip=2).resolved(model.parts)
    said = wanted.metadata(0)
    assert (said["prompt_syntax"], said["clip_skip"]) == ("webui", "2")
    again = read_metadata(said)
    assert dataclasses.replace(again, sampler_options={}) == dataclasses.replace(wanted, sampler_options={})
    plain = request("a", **SETTINGS).resolved(model.parts).metadata(0)
    assert not {"prompt_syntax", "clip_skip"} & set(plain)
    assert read_metadata(plain).prompt_syntax == "plain"


def test_the_words_of_a_request(models) -> None:
    parts = models["sd"].parts
    wanted = request(["(a:1.2) [b:c:2] AND d <lora:x>", "e"], "[f]", **SETTINGS, prompt_syntax="webui")
    assert [text.split() for text in words(parts, wanted)] == [["a", "b"], ["a", "c"], ["d"], ["e"], ["f"]]
    plain = dataclasses.replace(wanted, prompt_syntax="plain")
    assert words(parts, plain) == ["(a:1.2) [b:c:2] AND d <lora:x>", "e", "[f]"]
