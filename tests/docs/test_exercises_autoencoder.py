"""Solutions to the exercises of chapter 3, the autoencoder."""

import numpy as np
import pytest

import tinyldm


def psnr(x, y):
    return 10 * np.log10(2**2 / np.mean((np.clip(y, -1, 1) - x) ** 2))


@pytest.fixture(scope="module")
def model():
    return tinyldm.load()


@pytest.fixture(scope="module")
def x(model):
    picture = model.text_to_image("red apple", steps=12, guidance_scale=4.0, seed=0)[0]
    return np.moveaxis(np.asarray(picture, np.float32) / 127.5 - 1, -1, 0)[None]


def test_1_the_closed_form():
    mu, sigma = 1.5, 0.3
    z = np.linspace(mu - 10 * sigma, mu + 10 * sigma, 20_001)
    log_q = -0.5 * ((z - mu) / sigma) ** 2 - np.log(sigma)  # both without the same constant
    log_p = -0.5 * z**2
    q = np.exp(log_q) / np.sqrt(2 * np.pi)
    integral = np.sum(q * (log_q - log_p)) * (z[1] - z[0])
    assert integral == pytest.approx(0.5 * (mu**2 + sigma**2 - 1 - np.log(sigma**2)), rel=1e-6)


def test_2_derivatives_through_a_draw():
    mu, sigma = 0.7, 0.5
    z = mu + sigma * np.random.default_rng(0).standard_normal(10_000)
    assert np.mean(3 * z**2) == pytest.approx(3 * (mu**2 + sigma**2), rel=0.05)


def test_3_decibels():
    x = np.zeros(1000)
    all_wrong = x + 2 / 255  # one of 255 levels, where the range is 2
    some_wrong = x + 20 / 255 * (np.arange(1000) % 10 == 0)
    assert psnr(x, all_wrong) == pytest.approx(20 * np.log10(255))  # 48.1 dB
    assert psnr(x, some_wrong) == pytest.approx(psnr(x, all_wrong) - 10)  # the squared error is ten times as large


def test_4_what_is_a_channel(model, x):
    """Each channel means something of its own, so that whoever makes latents must know which is which, and its sign."""
    mean, _ = model.vae.encode(x)
    whole = psnr(x, model.vae.decode(mean))
    assert psnr(x, model.vae.decode(mean[:, [1, 0, 2, 3]])) < whole - 10
    assert psnr(x, model.vae.decode(-mean)) < whole - 10


def test_5_sharp_posteriors(model, x):
    mean, logvar = model.vae.encode(x)
    noise = np.exp(logvar / 2) * tinyldm.random.torch_randn(mean.shape, seed=0)
    whole = psnr(x, model.vae.decode(mean))
    times = next(k for k in 2.0 ** np.arange(12) if psnr(x, model.vae.decode(mean + k * noise)) < whole - 1)
    assert times > 1
