"""Solutions to the exercises of chapter 5, the UNet."""

import numpy as np
import pytest

import tinyldm
from tinyldm import cost, ops
from tinyldm.models.unet import Conditions, mid_block, time_embedding, up_block, way_down
from tinyldm.nn import conv2d, norm_silu_conv2d


@pytest.fixture(scope="module")
def model():
    return tinyldm.load(backend="reference")


@pytest.fixture(scope="module")
def context(model):
    return model.text_encoder(model.tokenizer.encode("red apple"))


def test_1_clocks():
    """The fastest tells neighbours apart, the slowest early from late; alone, neither says which timestep it is."""
    d = 320
    k = np.arange(d // 2)
    around = 2 * np.pi * 10_000.0 ** (k / (d // 2))  # timesteps for one turn
    assert around[0] == pytest.approx(6.28, abs=0.01)
    assert around[-1] > 50_000  # over all 1000 timesteps it moves by a sixtieth of a turn
    here, there = ops.timestep_embedding(np.array([500, 500 + 6.283185]), d, dtype=np.float64)
    assert here[0] == pytest.approx(there[0], abs=1e-5)  # the fastest is where it was …
    assert np.abs(here - there).max() > 0.3  # … and others are not


def test_2_any_size(model, context):
    for size, smallest in (((24, 16), (6, 4)), ((17, 16), (5, 4))):  # an odd size is rounded up
        z = tinyldm.random.torch_randn((1, 4, *size), seed=0)
        with tinyldm.tracing.trace("mid_block") as trace:
            assert model.unet(z, 500, context).shape == z.shape
        assert trace["mid_block"].shape[2:] == smallest


def test_3_the_order_of_words(model, context):
    """Only the text encoder knows an order; the UNet takes a weighted mean over the rows, whichever comes first."""
    z = tinyldm.random.torch_randn((1, 4, 16, 16), seed=0)
    exchanged = context[:, [0, 2, 1, *range(3, context.shape[1])]]
    np.testing.assert_allclose(model.unet(z, 500, exchanged), model.unet(z, 500, context), atol=1e-4)
    other_way = model.text_encoder(model.tokenizer.encode("apple red"))
    assert np.abs(model.unet(z, 500, other_way) - model.unet(z, 500, context)).max() > 1e-3


def test_4_zero_without_touching(model, context):
    z, t, w = tinyldm.random.torch_randn((1, 4, 16, 16), seed=0), np.array([500]), model.unet.weights
    temb = time_embedding(t, Conditions(), model.unet.config, w)
    x, skips = way_down(conv2d(np.moveaxis(z, 1, -1), w.conv_in), temb, context, w, iter(()))
    residuals = [np.moveaxis(np.zeros_like(skip), -1, 1) for skip in [*skips, x]]
    residuals[0] = -np.moveaxis(skips[0], -1, 1)

    skips[0] = np.zeros_like(skips[0])
    x = mid_block(x, temb, context, w.mid_block)
    for block in w.up_blocks:
        x = up_block(x, skips, temb, context, block)
    epsilon = np.moveaxis(norm_silu_conv2d(x, w.conv_norm_out, w.conv_out), -1, 1)
    np.testing.assert_allclose(model.unet(z, t, context, residuals), epsilon, atol=1e-5)


def test_5_who_pays_for_size(model):
    """Convolutions and linear layers grow with the pixels, pixels that look at each other with their square."""

    def of_self_attention(costs):
        return sum(c.multiply_adds for c in costs if c.path.endswith("attn1 (softmax)"))

    small, large = (cost.unet_costs(model.unet, side, side, 16) for side in (32, 64))
    assert of_self_attention(large) == 16 * of_self_attention(small)
    rest = [cost.total(costs) - cost.attention_products(costs) for costs in (small, large)]
    assert rest[1] / rest[0] == pytest.approx(4, rel=0.02)
