"""The request and its walk: seeds of their own, groups, callbacks, settings that are read back."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import tinyldm
from tinyldm.errors import InputError
from tinyldm.pipelines.request import read_metadata, request
from tinyldm.pipelines.walk import Step, Walk

MODES = {
    "fast": {"backend": "numba", "precision": "fast"},
    "strict": {"backend": "numba", "precision": "strict"},
    "reference": {"backend": "reference"},
    "oracle": {"backend": "reference", "dtype": "float64"},
}


@pytest.fixture(scope="module")
def model(checkpoint: Path) -> tinyldm.LatentDiffusion:
    return tinyldm.load(checkpoint, backend="reference")


def latents(model: tinyldm.LatentDiffusion, wanted, **how) -> np.ndarray:
    return np.concatenate([picture.latent for picture in model.pictures(wanted, Walk(**how))])


@pytest.mark.parametrize(
    ("mode", "sampler"), [*((mode, "euler_a") for mode in MODES), ("fast", "ddim"), ("fast", "pndm")]
)
def test_picture_k_is_the_picture_of_a_single_run_with_seed_k_more(mode: str, sampler: str) -> None:
    """To the last bit, with guidance, and for any number of pictures that are computed together."""
    model = tinyldm.load(**MODES[mode])
    settings = {"steps": 4 if sampler == "pndm" else 2, "guidance_scale": 4.0, "sampler": sampler}
    prompts = ["red apple", "fox", "red apple"]
    alone = [latents(model, request(p, seed=7 + k, **settings)) for k, p in enumerate(prompts)]
    for batch_size in (None,) if model.runtime.backend == "reference" else (None, 1, 2, 3):
        together = latents(model, request(prompts, seed=7, **settings), batch_size=batch_size)
        np.testing.assert_array_equal(together, np.concatenate(alone))


def test_a_picture_to_begin_from_has_a_draw_for_each_seed(model) -> None:
    settings = {"image": Image.new("RGB", (16, 16), "red"), "strength": 0.5, "steps": 4}
    both = latents(model, request("a", num_images=2, seed=3, **settings))
    alone = [latents(model, request("a", seed=seed, **settings)) for seed in (3, 4)]
    np.testing.assert_array_equal(both, np.concatenate(alone))


def test_one_stream_is_one_generator_over_the_batch(model) -> None:
    from tinyldm.diffusion.samplers import make_sampler

    z = tinyldm.random.torch_randn((2, 4, 8, 8), seed=5)
    context = model.text_encoder(model.tokenizer.encode(["a", "b"]))
    sampler = make_sampler("ddim", model.scheduler_config, 2)
    for i in range(2):
        z = sampler.step(lambda z, t: model.unet(z, t, context), i, z, None)
    wanted = request(["a", "b"], seed=5, steps=2, guidance_scale=1.0, sampler="ddim", one_stream=True)
    np.testing.assert_array_equal(latents(model, wanted), z)
    assert (latents(model, dataclasses.replace(wanted, one_stream=False))[1] != z[1]).any()


def test_pictures_come_as_they_are_finished(model) -> None:
    steps: list[tuple[range, int]] = []
    wanted = request(["a", "b"], steps=2)
    walk = model.pictures(wanted, Walk(callback=lambda step: steps.append((step.pictures, step.index))))
    assert next(walk).index == 0
    assert steps == [(range(1), 0), (range(1), 1)]
    assert [picture.index for picture in walk] == [1]
    assert steps[2:] == [(range(1, 2), 0), (range(1, 2), 1)]


def test_a_callback_sees_every_step(model) -> None:
    seen: list[Step] = []
    found = latents(model, request("a", steps=3, sampler="ddim"), callback=seen.append)
    assert [(step.index, step.count, step.calls) for step in seen] == [(0, 3, 1), (1, 3, 2), (2, 3, 3)]
    assert [int(step.timestep) for step in seen] == [667, 334, 1]
    np.testing.assert_array_equal(seen[-1].latent, found)
    assert seen[0].clean is not None
    assert seen[0].clean.shape == seen[0].latent.shape


def test_a_callback_may_change_the_latent_and_may_stop(model) -> None:
    wanted = request("a", steps=3, sampler="ddim")
    zeros = latents(model, wanted, callback=lambda step: np.zeros_like(step.latent) if step.index == 2 else None)
    assert not zeros.any()

    def stop(step: Step) -> None:
        if step.pictures.start == 1 and step.index == 1:
            raise tinyldm.Stopped("enough")

    walk = model.pictures(request(["a", "b", "c"], steps=3), Walk(callback=stop))
    assert next(walk).index == 0
    with pytest.raises(tinyldm.Stopped, match="enough"):
        next(walk)


def test_progress_counts_the_calls_of_the_whole_run(model) -> None:
    seen: list[int] = []

    def progress(calls: range):
        for call in calls:
            seen.append(call)
            yield call
        seen.append(-1)

    model.text_to_image(
        ["a", "b"], steps=3, sampler="pndm", sampler_options={"skip_prk_steps": True}, progress=progress
    )
    assert seen == [*range(2 * 4), -1]  # the first step of PLMS takes two calls


def test_metadata_is_read_back(model) -> None:
    wanted = request(
        ["a", "b"], "c", seed=9, steps=3, guidance_scale=2.5, sampler="ddim", sampler_options={"eta": 0.5}, width=22
    ).resolved(model.parts)
    said = wanted.metadata(1)
    assert said["seed"] == "10"
    again = read_metadata(said)
    assert again.resolved(model.parts).metadata(0) == said
    np.testing.assert_array_equal(latents(model, again)[0], latents(model, wanted)[1])
    with pytest.raises(InputError, match="many"):
        read_metadata(said | {"steps": "many"})
    with pytest.raises(InputError, match="seed"):
        read_metadata({name: value for name, value in said.items() if name != "seed"})


def test_nothing_is_read_before_a_request_is_refused(checkpoint: Path) -> None:
    model = tinyldm.load(checkpoint, backend="reference")
    for settings in ({"sampler": "magic"}, {"height": 15}, {"steps": 0}, {"sampler_options": {"magic": 1}}):
        with pytest.raises(InputError):
            next(model.pictures(request("a", **settings)))
    assert not any(node._cache for network in model.networks.values() for node in network.weights.modules())


def test_guidance_is_rescaled(model) -> None:
    """The standard deviation of a picture's prediction becomes that of its conditional one: the last step shows it."""
    settings = {"steps": 1, "sampler": "ddim", "guidance_scale": 9.0, "seed": 3}
    plain, mixed, rescaled = (
        latents(model, request("a", "b", guidance_rescale=amount, **settings)) for amount in (0.0, 0.5, 1.0)
    )
    np.testing.assert_allclose(mixed, (plain + rescaled) / 2, rtol=0, atol=1e-5)
    assert (plain != rescaled).any()
    with pytest.raises(InputError, match="guidance_rescale must be from 0 to 1"):
        request("a", guidance_rescale=2.0)


def test_the_sampler_options_reach_the_sampler(model) -> None:
    settings = {"steps": 3, "sampler": "ddim", "seed": 1}
    plain, noisy = (np.asarray(model.text_to_image("a", sampler_options={"eta": e}, **settings)[0]) for e in (0, 1))
    assert (plain != noisy).any()
    np.testing.assert_array_equal(plain, np.asarray(model.text_to_image("a", **settings)[0]))
