"""Solutions to the exercises of chapter 6, conditioning."""

import numpy as np
import pytest

import tinyldm
from tinyldm.diffusion.prediction import rescale_guidance
from tinyldm.diffusion.samplers import make_sampler
from tinyldm.diffusion.samplers.base import denoise


@pytest.fixture(scope="module")
def model():
    return tinyldm.load()


def final(model, context, seed=0, steps=12):
    """The final latent for a context, without guidance."""
    z = tinyldm.random.torch_randn((1, 4, 16, 16), seed=seed)
    return denoise(lambda z, t: model.unet(z, t, context), make_sampler("ddim", model.scheduler_config, steps), z)


def test_1_reading_from_left_to_right(model):
    short, long = model.text_encoder(model.tokenizer.encode(["smiling face with", "smiling face with open mouth"]))
    np.testing.assert_allclose(long[:4], short[:4], atol=1e-5)  # the start and three words
    assert np.abs(long[4] - short[4]).max() > 0.01  # a word here, the end there


def test_2_a_prompt_against_itself(model):
    """The difference is zero, whatever it is multiplied by: the picture without guidance."""
    plain = np.asarray(model.text_to_image("fox", steps=4, guidance_scale=1.0)[0], int)
    for scale in (2.0, 9.0):
        against = np.asarray(model.text_to_image("fox", "fox", steps=4, guidance_scale=scale)[0], int)
        assert np.abs(against - plain).max() <= 1


def test_3_guidance_on_paper():
    """Without a condition the guess is tanh(a z / s²), with it 1; x̃ = tanh + scale (1 - tanh) is then more than 1."""
    a, s, z = 0.5, np.sqrt(0.75), np.linspace(-2, 2, 9)
    likely = [np.exp(-((z - a * x) ** 2) / (2 * s**2)) for x in (-1, 1)]
    without = (likely[1] - likely[0]) / (likely[1] + likely[0])
    np.testing.assert_allclose(without, np.tanh(a * z / s**2))

    epsilon_without, epsilon_with = (z - a * without) / s, (z - a) / s
    guided = epsilon_without + 4 * (epsilon_with - epsilon_without)
    x0 = (z - s * guided) / a
    np.testing.assert_allclose(x0, without + 4 * (1 - without))
    assert (x0 > 1).all()


def test_4_between_two_prompts(model):
    contexts = model.text_encoder(model.tokenizer.encode(["red heart", "blue heart"]))
    one, other, between = (final(model, c[None]) for c in (*contexts, contexts.mean(0)))

    def far(x, y):
        return np.sqrt(np.mean((x - y) ** 2))

    assert max(far(between, one), far(between, other)) < 1.5 * far(one, other)
    image = model.from_conditions(contexts.mean(0)[None], steps=4)[0]  # the same by the public call, and a picture
    assert image.size == (64, 64)


def test_5_hold_back_the_right_thing(model):
    prompts = ["face", "heart", "small", "animal"]
    context = model.text_encoder(model.tokenizer.encode([*prompts, *[""] * 4]))
    alpha_bar = np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2)

    def deviation(how):
        def predict(z, t):
            a, s = np.float32(alpha_bar[t] ** 0.5), np.float32((1 - alpha_bar[t]) ** 0.5)
            conditional, without = np.split(model.unet(np.concatenate([z, z]), t, context), 2)
            guided = without + 10 * (conditional - without)
            if how == "noise":
                return rescale_guidance(guided, conditional, 0.7)
            if how == "clean":
                x0 = rescale_guidance((z - s * guided) / a, (z - s * conditional) / a, 0.7)
                return (z - a * x0) / s
            return guided

        z = np.concatenate([tinyldm.random.torch_randn((1, 4, 16, 16), seed=k) for k in range(4)])
        return denoise(predict, make_sampler("ddim", model.scheduler_config, 20), z).std()

    plain, noise, clean = map(deviation, ("plain", "noise", "clean"))
    assert clean < noise < plain
