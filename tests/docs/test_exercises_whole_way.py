"""Solutions to the exercises of chapter 1, the whole way."""

import numpy as np
import pytest

import tinyldm

A, A_NEXT = 0.0093, 0.0153  # two entries of a table of ᾱ, at a noisier and at a less noisy timestep


@pytest.fixture(scope="module")
def model() -> tinyldm.LatentDiffusion:
    return tinyldm.load()


def test_1_a_seed_is_a_picture(model):
    several = model.text_to_image("fox", steps=4, seed=5, num_images=4)
    alone = model.text_to_image("fox", steps=4, seed=7)[0]
    assert several[2].tobytes() == alone.tobytes()  # pictures have the seeds 5, 6, 7, 8


def test_2_guidance_of_1_and_0(model):
    context = model.text_encoder(model.tokenizer.encode(["fox", ""]))
    z = tinyldm.random.torch_randn((1, 4, 16, 16), seed=0)
    with_prompt, without = (model.unet(z, 961, context[k : k + 1]) for k in (0, 1))

    def predict(scale):
        return without + scale * (with_prompt - without)

    np.testing.assert_allclose(predict(1), with_prompt, atol=1e-6)  # the prediction with the prompt, unexaggerated
    np.testing.assert_array_equal(predict(0), without)  # the prompt is not looked at


def test_3_one_jump(model):
    """Asked for nothing, it guesses a mean of all pictures, and a mean varies less than what it is a mean of."""
    steps = []
    model.text_to_image("", steps=25, guidance_scale=1.0, callback=steps.append)
    assert steps[0].clean.var() < 0.8 * steps[-1].latent.var()


def test_4_linear_in_both():
    rng = np.random.default_rng(0)
    z, noise = rng.standard_normal((2, 1, 4, 16, 16))
    x0 = (z - np.sqrt(1 - A) * noise) / np.sqrt(A)
    after = np.sqrt(A_NEXT) * x0 + np.sqrt(1 - A_NEXT) * noise

    a = np.sqrt(A_NEXT / A)
    b = np.sqrt(1 - A_NEXT) - a * np.sqrt(1 - A)
    np.testing.assert_allclose(after, a * z + b * noise)
