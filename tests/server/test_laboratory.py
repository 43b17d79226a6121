"""What the laboratory's panels compute, without the web: against loops, against the walk of every picture."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import functools
import inspect
import io
import json
import math
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tiny_checkpoints import write_inpainting, write_ldm, write_ldm_text, write_xl

import tinyldm
from tinyldm import ops
from tinyldm.diffusion.samplers import make_sampler
from tinyldm.errors import InputError, Stopped, TinyldmError
from tinyldm.pipelines.request import request
from tinyldm.server.fields import Fields
from tinyldm.server.laboratory import drawing, words
from tinyldm.server.laboratory.curves import scheduled, signal_share
from tinyldm.server.laboratory.guidance import predictions
from tinyldm.server.laboratory.handover import Changes, changed, read_channels
from tinyldm.server.laboratory.laboratory import Laboratory, Trial
from tinyldm.server.laboratory.panels import PANELS, about_schedule, schedule_functions
from tinyldm.server.laboratory.sources import ROOT, source_of
from tinyldm.server.laboratory.walks import Walks, walked
from tinyldm.server.refusals import Refusal

WANTED = {"steps": 4, "guidance_scale": 3.0}


@pytest.fixture(scope="module")
def laboratory(model):
    return Laboratory(model, force=True)


def walk_of(model, maps=False, **settings):
    wanted = request("a bc", "d", **{**WANTED, **settings}).resolved(model.parts)
    return walked(model.parts, wanted, maps=maps)


def found_by(laboratory, panel, **fields):
    """All that a panel finds, joined."""
    read = Fields({"prompt": "a bc", "steps": 3, "guidance_scale": 3, **fields})
    trial = Trial(*PANELS[panel].read(laboratory, read))
    read.end()
    found = []
    laboratory.compute(trial, lambda progress: None, found.append)
    json.dumps(found, allow_nan=False)
    return functools.reduce(joined, found)


def joined(a, b):
    both = {key: joined(a[key], b[key]) for key in b if isinstance(a.get(key), dict)}
    return {**a, **b, **both}


def picture(link):
    return Image.open(io.BytesIO(base64.b64decode(link.partition(",")[2])))


# A walk that is kept --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", ["ddim", "euler", "dpm++_2m", "heun", "euler_a", "pndm"])
def test_a_walk_that_is_kept_is_that_of_every_picture(model, sampler):
    walk, times = walk_of(model, sampler=sampler, seed=3), []

    def note(step):
        times.append(float(step.timestep))

    wanted = model.text_to_image("a bc", "d", sampler=sampler, seed=3, callback=note, **WANTED)[0]
    assert [moment.timestep for moment in walk.moments] == times
    assert walk.finished(model.parts).image.tobytes() == wanted.tobytes()
    assert walk.calls == make_sampler(sampler, model.scheduler_config, 4).calls()
    assert walk.decoded(model.parts, len(walk.moments), "latent").tobytes() == wanted.tobytes()
    assert walk.nbytes > walk.latent.nbytes * 4 * len(walk.moments)


@pytest.mark.parametrize("sampler", ["ddim", "euler", "dpm++_2m"])
def test_a_moment_is_what_the_equation_says(model, sampler):
    """The clean latent is (z - s ε) / a, of the guided prediction and the signal's share, for a z of unit variance."""
    for moment in walk_of(model, sampler=sampler).moments:
        a, s = math.sqrt(moment.share), math.sqrt(1 - moment.share)
        guided = predictions(moment, 3.0).guided
        np.testing.assert_allclose((moment.latent - s * guided) / a, moment.clean, rtol=1e-3, atol=1e-3)


def test_a_moment_has_what_the_network_says(model):
    moment = walk_of(model).moments[1]
    contexts = [model.text_encoder(model.tokenizer.encode([text])) for text in ("d", "a bc")]
    for context, output in zip(contexts, moment.outputs, strict=True):
        said = model.unet(moment.latent[None], moment.timestep, context)[0]
        np.testing.assert_allclose(output, said, rtol=1e-4, atol=1e-5)
    both = predictions(moment, 3.0)
    np.testing.assert_allclose(both.guided, moment.outputs[0] + 3 * (moment.outputs[1] - moment.outputs[0]), rtol=1e-5)
    np.testing.assert_array_equal(both.difference, moment.outputs[1] - moment.outputs[0])


def test_a_walk_without_guidance_has_one_prediction(model):
    wanted = request("a", steps=2, guidance_scale=1.0).resolved(model.parts)
    said = predictions(walked(model.parts, wanted).moments[0], 1.0)
    assert said.unconditional is said.guided is said.difference is None
    assert said.conditional.shape == (4, 8, 8)


def test_a_walk_can_be_stopped(model):
    seen = []

    def watch(step):
        seen.append(step.index)
        if len(seen) == 2:
            raise Stopped

    with pytest.raises(Stopped):
        walked(model.parts, request("a", steps=4).resolved(model.parts), watch)
    assert seen == [0, 1]


def test_the_last_walks_are_kept_in_so_many_bytes(model):
    some = [walk_of(model, seed=seed) for seed in range(4)]
    walks = Walks(most=2 * some[0].nbytes + 1)
    for walk in some[:3]:
        walks.put(walk)
    assert [walks.get(walk.request) is walk for walk in some] == [False, True, True, False]
    walks.get(some[1].request)  # asked for again: now the other one is the oldest
    walks.put(some[3])
    assert [walks.get(walk.request) is walk for walk in some] == [False, True, False, True]
    assert walks.get(some[1].request, maps=True) is None
    tiny = Walks(most=0)
    tiny.put(some[0])
    assert tiny.get(some[0].request) is some[0]  # the last one always, though not its pictures
    some[0].decoded(model.parts, 1, "clean")
    tiny.trim()
    assert tiny.get(some[0].request).pictures == {}


# Words ----------------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 5), st.integers(1, 6), st.integers(1, 3), st.integers(1, 3), st.integers(0, 99))
def test_weights_are_those_of_the_attention(places, tokens, heads, width, seed):
    rng = np.random.default_rng(seed)
    q, k = rng.normal(size=(places, heads * width)), rng.normal(size=(tokens, heads * width))
    found = words.attention_weights(q, k, heads)
    wanted = np.zeros((places, tokens))
    for h in range(heads):
        mine = slice(h * width, (h + 1) * width)
        # Of values that are 1 at one token and 0 elsewhere, attention gathers the weight of that token.
        for token in range(tokens):
            v = np.repeat(np.eye(tokens)[token][:, None], 1, axis=1)
            wanted[:, token] += ops.attention(q[None, :, mine], k[None, :, mine], v[None], 1)[0, :, 0] / heads
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


def test_maps_are_of_the_prompt_and_of_every_layer(model):
    walk = walk_of(model, maps=True)
    maps = walk.moments[2].maps
    paths = [node.path for node in model.unet.weights.modules() if node.path.endswith(".attn2")]
    assert sorted(maps) == sorted(paths)
    tokens = words.looked_at(model.parts, "a bc")
    assert tokens[0] == "start"
    assert tokens[-1] == "first end"
    assert tokens[1:-1] == words.tokens_of(model.parts, "a bc")
    context = model.text_encoder(model.tokenizer.encode(["a bc"]))
    with tinyldm.tracing.trace("*attn2.to_[qk]") as seen:
        model.unet(walk.moments[2].latent[None], walk.moments[2].timestep, context)
    for path, found in maps.items():
        h, w = found.shape[1:]
        heads = model.unet.weights.at(path).settings["heads"]
        weights = words.attention_weights(seen[f"{path}.to_q"][0], seen[f"{path}.to_k"][0], heads)
        np.testing.assert_allclose(weights.sum(1), 1, rtol=1e-5)
        np.testing.assert_allclose(found, weights[:, : len(tokens)].T.reshape(-1, h, w), atol=2e-3)
    assert walk.finished(model.parts).image.size == (16, 16)


def test_layers_are_joined():
    maps = {"a.attn2": np.ones((2, 4, 4)), "b.attn2": np.zeros((2, 4, 4)), "c.attn2": np.full((2, 2, 2), 0.5)}
    assert list(words.layers_of(maps)) == ["all", "4×4", "2×2", *maps]
    np.testing.assert_allclose(words.joined(maps, "all"), np.full((2, 4, 4), 0.5))
    np.testing.assert_allclose(words.joined(maps, "4×4"), np.full((2, 4, 4), 0.5))
    np.testing.assert_allclose(words.joined(maps, "c.attn2"), np.full((2, 2, 2), 0.5))
    with pytest.raises(Refusal, match="layer 'd' is none of all, 4×4"):
        words.joined(maps, "d")


def test_tokens_are_read_by_a_person(model):
    assert words.tokens_of(model.parts, "a") == ["a"]
    assert "".join(words.tokens_of(model.parts, "a bc é")).replace("…", "").startswith("abc")
    assert words.tokens_of(model.parts, "bc")[0] == "b…"
    assert len(words.looked_at(model.parts, "a " * 50)) == model.tokenizer.max_length  # which are 16


# The hand-over --------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=40)
@given(
    st.floats(-4, 4),
    st.floats(-2, 2),
    st.one_of(st.none(), st.integers(0, 3)),
    st.lists(st.one_of(st.none(), st.integers(0, 3)), min_size=4, max_size=4),
    st.integers(0, 9),
)
def test_a_latent_is_changed_number_by_number(scale, shift, only, channels, seed):
    z = np.random.default_rng(seed).normal(size=(4, 3, 2))
    kept = z.copy()
    found = changed(z, Changes(scale, shift, 0.0, only, tuple(channels)))
    for c, y, x in np.ndindex(z.shape):
        value = 0.0 if channels[c] is None else z[channels[c], y, x]
        wanted = scale * value + shift if only in (None, c) else value
        assert found[c, y, x] == pytest.approx(wanted)
    np.testing.assert_array_equal(z, kept)


def test_noise_has_its_deviation_and_its_seed():
    z = np.zeros((4, 64, 64), np.float32)
    found = changed(z, Changes(noise=0.5), seed=7)
    assert found.std() == pytest.approx(0.5, rel=0.03)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, 0.5 * tinyldm.random.torch_randn((4, 64, 64), seed=7))
    assert not changed(z, Changes(noise=0.5, only=2), seed=7)[[0, 1, 3]].any()


@given(st.lists(st.sampled_from(["0", "1", "2", "-"]), min_size=3, max_size=3))
def test_channels_are_read(given_words):
    read = read_channels("  ".join(given_words), 3)
    wanted = tuple(None if word == "-" else int(word) for word in given_words)
    assert read == (None if wanted == (0, 1, 2) else wanted)


@pytest.mark.parametrize("text", ["0 1", "0 1 2 3", "0 1 3", "0 1 x", "0,1,2"])
def test_channels_that_there_are_not(text):
    with pytest.raises(Refusal, match="channels must be 3 numbers from 0 to 2, or -, not"):
        read_channels(text, 3)
    assert read_channels("", 3) is None


# The schedule ---------------------------------------------------------------------------------------------------------


def test_the_curves_are_those_of_the_equation(model):
    found = scheduled(model.scheduler_config, "ddim", 10)
    betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    share = np.array([np.prod(1 - betas[: int(t) + 1]) for t in found.curve.timesteps])
    np.testing.assert_allclose(found.curve.alpha_bar, share, rtol=1e-4)
    np.testing.assert_allclose(found.curve.snr, share / (1 - share), rtol=1e-3)
    np.testing.assert_allclose(found.curve.sigma, np.sqrt((1 - share) / share), rtol=1e-3)
    assert found.visited.timesteps.tolist() == [100 * k + 1 for k in reversed(range(10))]


def test_a_schedule_that_is_changed(model):
    own = scheduled(model.scheduler_config, "euler", 8)
    linear = scheduled(model.scheduler_config, "euler", 8, betas="linear").curve.alpha_bar
    assert np.all(linear[50:] < own.curve.alpha_bar[50:])
    trailing = scheduled(model.scheduler_config, "ddim", 8, spacing="trailing").visited.timesteps
    assert trailing[0] == 999
    karras = scheduled(model.scheduler_config, "euler", 8, levels="karras").visited.sigma
    steps = np.diff(karras ** (1 / 7))
    np.testing.assert_allclose(steps, steps[0], rtol=0.02)
    dark = {**model.scheduler_config, "prediction_type": "v_prediction"}
    ends = scheduled(dark, "ddim", 8, zero_snr=True).curve
    assert ends.alpha_bar[-1] == 0
    assert ends.sigma[-1] == math.inf
    assert drawing.plain(ends.sigma)[-1] is None
    with pytest.raises(Refusal, match="levels: ddim goes by timesteps"):
        scheduled(model.scheduler_config, "ddim", 8, levels="karras")
    with pytest.raises(InputError, match="it takes 'linear' or 'scaled_linear'"):
        scheduled(model.scheduler_config, "ddim", 8, betas="cubic")


def test_flow_matching_has_a_share_of_signal_as_well():
    sampler = make_sampler("flow_euler", {"_class_name": "FlowMatchEulerDiscreteScheduler"}, 4)
    np.testing.assert_allclose(signal_share(sampler, np.array([0.0, 500.0, 1000.0])), [1, 0.5, 0])


# Drawing --------------------------------------------------------------------------------------------------------------


def test_channels_are_drawn_side_by_side():
    z = np.stack([np.full((2, 3), value) for value in (-3.0, 0.0, 3.0)])
    image = drawing.channels(z)
    assert image.size == (2 * 3 + 1, 2 * 2 + 1)
    assert image.getpixel((0, 0)) == (33, 94, 168, 255)
    assert image.getpixel((4, 0)) == (247, 247, 245, 255)
    assert image.getpixel((0, 3)) == (186, 45, 37, 255)
    assert image.getpixel((3, 0))[3] == image.getpixel((4, 4))[3] == 0  # between them, and where there is none
    drawing.channels(np.full((1, 2, 2), np.nan))


def test_heat_goes_from_the_least_to_the_largest():
    image = drawing.heat(np.array([[0.2, 0.4], [0.3, 0.2]]))
    assert image.getpixel((0, 0)) == (10, 8, 40)
    assert image.getpixel((1, 0)) == (252, 250, 190)
    assert drawing.heat(np.zeros((2, 2)), 0.0, 1.0).getpixel((0, 0)) == (10, 8, 40)
    drawing.heat(np.ones((2, 2)))


def test_findings_become_json():
    @dataclasses.dataclass
    class Pair:
        a: object
        b: object

    found = Pair([np.float32(1.5), float("nan")], {"c": np.arange(2), "d": Image.new("RGB", (1, 1))})
    plain = drawing.plain((found, np.int64(3), "e", None, True))
    assert plain[0]["a"] == [1.5, None]
    assert plain[0]["b"]["c"] == [0, 1]
    assert plain[0]["b"]["d"].startswith("data:image/png;base64,")
    assert plain[1:] == [3, "e", None, True]
    json.dumps(plain, allow_nan=False)


# The panels -----------------------------------------------------------------------------------------------------------


def test_the_prompt_and_its_guidance(laboratory, model):
    found = found_by(laboratory, "prompt", compare="1, 5 3", step=2)
    assert found["tokens"] == words.tokens_of(model.parts, "a bc")
    assert (found["step"], found["steps"]) == (2, 3)
    assert list(found["predictions"]) == ["unconditional", "conditional", "difference", "guided"]
    assert found["scale"] == 5  # the last that was found; 3 is the one asked for
    assert found["score"] is None  # there are no statistics
    wanted = model.text_to_image("a bc", steps=3, guidance_scale=5.0)[0]
    assert picture(found["image"]).tobytes() == wanted.tobytes()


def test_the_walk(laboratory, model):
    found = found_by(laboratory, "walk", step=2)
    walk = laboratory.walks.get(request("a bc", steps=3, guidance_scale=3.0).resolved(model.parts))
    assert found["timestep"] == walk.moments[1].timestep
    assert found["share"] == pytest.approx(walk.moments[1].share)
    for which, z in (("latent", walk.moments[1].latent), ("clean", walk.moments[1].clean)):
        assert picture(found[f"{which}_picture"]).tobytes() == model.decode(z[None])[0].tobytes()
        assert found["numbers"][which][1] == pytest.approx(float(z.std()))
    assert len(found["strip"]) == len(found["numbers"]["likeness"]) == 4
    assert found["numbers"]["likeness"][3] == 1
    end = found_by(laboratory, "walk", step=99, strip=False)
    assert (end["step"], end["timestep"], end["share"]) == (4, None, 1)
    assert "strip" not in end
    assert end["latent_picture"] == end["clean_picture"]


def test_the_decoders_input(laboratory, model):
    found = found_by(laboratory, "decoder", scale=0.25, channels="1 0 2 -", only=1)
    walk = laboratory.walks.get(request("a bc", steps=3, guidance_scale=3.0).resolved(model.parts))
    z = walk.latent[[1, 0, 2, 3]]
    z[3] = 0
    z[1] *= 0.25
    assert picture(found["after"]["picture"]).tobytes() == model.decode(z[None])[0].tobytes()
    assert picture(found["before"]["picture"]).tobytes() == model.decode(walk.latent[None])[0].tobytes()
    assert found["after"]["report"]["std"] == pytest.approx(z.std((1, 2)).tolist(), rel=1e-4)
    assert "this checkpoint has no statistics of latents" in found["notes"][0]


def test_samplers_side_by_side(laboratory, model):
    found = found_by(laboratory, "samplers", samplers="DDIM heun", counts="1,3")
    assert found["columns"] == [1, 3]
    assert found["row"] == 1
    assert found["apart"][-1] == 0
    assert found["apart"][0] > 0
    assert found["calls"] == 5  # of Heun's in three steps
    wanted = model.text_to_image("a bc", steps=3, guidance_scale=3.0, sampler="heun")[0]
    assert picture(found["image"]).tobytes() == wanted.tobytes()


def test_words(laboratory, model):
    found = found_by(laboratory, "words", word=2, step=1)
    assert found["tokens"] == ["start", *words.tokens_of(model.parts, "a bc"), "first end"]
    assert len(found["maps"]) == len(found["tokens"])
    assert found["layers"][0] == "all"
    assert [each["step"] for each in found["strip"]] == [1, 2, 3]
    assert picture(found["picture"]).size == (16, 16)
    assert found_by(laboratory, "words", layer=found["layers"][-1], word=99)["word"] == len(found["tokens"]) - 1


def test_the_schedule(laboratory):
    found = drawing.plain(about_schedule(laboratory, Fields({"steps": 5, "sampler": "euler", "levels": "karras"})))
    assert found["sampler"] == "euler"
    assert len(found["visited"]["timesteps"]) == 5
    assert found["own"]["alpha_bar"] == found["curve"]["alpha_bar"]


@pytest.mark.parametrize(
    ("panel", "fields", "field", "sentence"),
    [
        ("walk", {"steps": 201}, "steps", "steps must be from 1 to 200, not 201"),
        ("walk", {"guidance_scale": -1}, None, "guidance_scale must be a finite number, and not negative"),
        ("walk", {"sampler": "eular"}, None, "sampler 'eular' is unknown; did you mean 'euler'?"),
        ("walk", {"step": 0}, "step", "step must be from 1 to 202, not 0"),
        ("walk", {"words": 1}, "words", "field 'words' is unknown"),
        ("prompt", {"compare": "1 x"}, "compare", "compare must be a number, not 'x'"),
        ("prompt", {"compare": "1 2 3 4 5 6 7"}, "compare", "compare: 7 are too many to compare; take 6 at most"),
        ("prompt", {"compare": "-1"}, "compare", "compare: a guidance scale is 0 or more"),
        ("decoder", {"noise": -1}, "noise", "noise is a deviation, 0 or more, not -1"),
        ("decoder", {"scale": 1e30}, "scale", "scale must be from -1000 to 1000, not 1e+30"),
        ("decoder", {"only": 4}, "only", "only must be from 0 to 3, not 4"),
        ("decoder", {"channels": "0 1"}, "channels", "channels must be 4 numbers"),
        ("samplers", {"samplers": "a"}, "samplers", "sampler 'a' is unknown"),
        ("samplers", {"samplers": "ddim euler heun lms ddpm"}, "samplers", "samplers: 5 are too many to compare"),
        ("samplers", {"counts": "0"}, "counts", "counts: steps must be from 1 to 200"),
        ("samplers", {"counts": "1.5"}, "counts", "counts must be a whole number, not '1.5'"),
        ("words", {"word": "x"}, "word", "word must be a whole number, not 'x'"),
        ("words", {"layer": "x"}, "layer", "layer 'x' is none of all"),
    ],
)
def test_bad_input_is_one_sentence(laboratory, panel, fields, field, sentence):
    with pytest.raises(InputError, match=re.escape(sentence)) as refused:
        found_by(laboratory, panel, **fields)
    assert field is None or refused.value.field == field


GIVEN = (0, 1, 2, 7.5, -1, 1e300, True, None, "", "a", "1 2", "ddim", "euler", "karras", "linear", "- 0 1 2", "\ud800")
NAMES = ("prompt", "steps", "seed", "guidance_scale", "sampler", "step", "compare", "strip", "scale", "shift", "noise")
NAMES += ("only", "channels", "samplers", "counts", "word", "layer", "betas", "zero_snr", "spacing", "levels", "other")
questions = st.dictionaries(st.sampled_from(NAMES), st.sampled_from(GIVEN), max_size=4)


@settings(deadline=None, max_examples=150)
@given(st.sampled_from([*PANELS, "schedule"]), questions)
def test_whatever_is_asked_is_read_or_refused_in_words(laboratory, panel, question):
    fields = Fields(question)
    with contextlib.suppress(TinyldmError):
        about_schedule(laboratory, fields) if panel == "schedule" else PANELS[panel].read(laboratory, fields)
        fields.end()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("panel", PANELS)
def test_a_walk_that_overflows_is_shown_as_well(laboratory, panel):
    found_by(laboratory, panel, guidance_scale=1e38)


def test_a_prompt_that_is_too_long_has_maps_of_what_is_read(laboratory):
    with pytest.warns(UserWarning, match="cut"):
        found = found_by(laboratory, "words", prompt="a " * 40, word=15)
    assert len(found["tokens"]) == len(found["maps"]) == 16


def test_a_trial_that_is_stopped_ends(laboratory):
    for panel in PANELS:
        trial = Trial(*PANELS[panel].read(laboratory, Fields({"prompt": "stop", "steps": 200})))
        trial.stopping = True
        with pytest.raises(Stopped):
            laboratory.compute(trial, lambda progress: None, lambda found: None)


def test_progress_is_told(laboratory, monkeypatch):
    monkeypatch.setattr("tinyldm.server.laboratory.laboratory.BETWEEN", 0)
    trial = Trial(
        *PANELS["samplers"].read(laboratory, Fields({"prompt": "p", "samplers": "ddim,euler", "counts": "2"}))
    )
    told = []
    laboratory.compute(trial, told.append, lambda found: None)
    assert [progress.part for progress in told] == [0.25, 0.5, 0.75, 1.0]
    assert all(progress.previews[0].startswith(b"\x89PNG") for progress in told)


# Which functions computed it ------------------------------------------------------------------------------------------


def called(run):
    """The functions that a call passes through, by file and first line."""
    seen = set()

    def note(frame, event, argument):
        if event == "call":
            seen.add((frame.f_code.co_filename, frame.f_code.co_firstlineno))

    sys.setprofile(note)
    try:
        run()
    finally:
        sys.setprofile(None)
    return seen


@pytest.mark.parametrize("panel", PANELS)
def test_the_functions_that_a_panel_names_computed_it(model, panel):
    laboratory = Laboratory(model, force=True)
    fields = {"samplers": {"samplers": "euler"}, "decoder": {"scale": 2}}.get(panel, {})
    sampler = fields.get("samplers", "ddim")
    seen = called(lambda: found_by(laboratory, panel, **fields))
    functions = PANELS[panel].functions(model.parts, [make_sampler(sampler, model.scheduler_config, 3)])
    without = {"scores", "explained"}  # which is of a checkpoint with statistics
    for function in functions:
        code = inspect.unwrap(function).__code__
        assert function.__name__ in without or (code.co_filename, code.co_firstlineno) in seen, function


@pytest.mark.parametrize(("sampler", "options"), [("ddim", {}), ("euler", {"sigma_schedule": "karras"}), ("ddpm", {})])
def test_the_functions_of_the_schedule(model, sampler, options):
    made = make_sampler(sampler, model.scheduler_config, 5, **options)
    seen = called(lambda: scheduled(model.scheduler_config, sampler, 5, levels=options.get("sigma_schedule")))
    functions = schedule_functions(model.parts, [made])
    assert {function.__name__ for function in functions} >= {"make_betas", "alpha_bar", "snr", "sigmas"}
    assert ("karras_sigmas" in [function.__name__ for function in functions]) == bool(options)
    for function in functions:
        assert (function.__code__.co_filename, function.__code__.co_firstlineno) in seen, function


def test_a_source_is_the_functions_own(model):
    every = {function for panel in PANELS.values() for function in panel.functions(model.parts, [])}
    for function in every | set(schedule_functions(model.parts, [])):
        source = source_of(function)
        lines = (Path(ROOT) / source.file).read_text(encoding="utf-8").splitlines()
        assert source.text.splitlines()[0] == lines[source.line - 1].strip()
        assert f"def {source.name.rpartition('.')[2]}(" in source.text
        found = tinyldm
        for name in source.name.split(".")[1:]:
            found = getattr(found, name)
        assert inspect.unwrap(found) is inspect.unwrap(function)


# Other models ---------------------------------------------------------------------------------------------------------


def loaded(write, folder):
    return tinyldm.load(write(folder), backend="reference")


def test_an_unconditional_model(tmp_path):
    laboratory = Laboratory(loaded(write_ldm, tmp_path / "ldm"), force=True)
    assert laboratory.example is None
    plain = {"prompt": "", "guidance_scale": ""}
    assert found_by(laboratory, "walk", **plain)["steps"] == 3
    assert found_by(laboratory, "decoder", **plain, channels="2 1 0")["after"]["picture"]
    with pytest.raises(Refusal, match="ldm takes no text, so that there is no cross-attention by word"):
        found_by(laboratory, "words", **plain)
    with pytest.raises(Refusal, match="ldm takes no prompt, so that there is nothing to guide"):
        found_by(laboratory, "prompt", **plain)


@pytest.mark.parametrize("write", [write_xl, write_ldm_text])
def test_other_models_of_texts(tmp_path, write):
    laboratory = Laboratory(loaded(write, tmp_path / "model"), force=True)
    for panel in PANELS:
        found = found_by(laboratory, panel, sampler="ddim")
        assert found
    assert len(found_by(laboratory, "words", sampler="ddim")["maps"]) >= 4


def test_a_model_that_wants_more_than_a_prompt_is_refused_at_once(tmp_path):
    with pytest.raises(InputError, match="mask"):
        Laboratory(loaded(write_inpainting, tmp_path / "inpainting"))
