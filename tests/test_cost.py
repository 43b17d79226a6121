"""The cost model against sums by hand, and against a run that really computes."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from pipelines.test_every_family import FILES, write_file
from tiny_checkpoints import write_lcm, write_ldm, write_ldm_text, write_refiner, write_xl

import tinyldm
from tinyldm import cli, cost, tracing
from tinyldm.architectures import ARCHITECTURES, random_model
from tinyldm.descriptions import describe_cost, describe_shapes
from tinyldm.runtime import Runtime


@pytest.fixture(scope="module")
def model(checkpoint: Path) -> tinyldm.LatentDiffusion:
    return tinyldm.load(checkpoint, backend="reference")


def test_shapes_are_those_of_a_real_run(model) -> None:
    with tracing.trace() as real:
        model.unet(np.ones((1, 4, 6, 5)), 3, np.ones((1, 16, 16)))
    counted = {c.path: c.shape for c in cost.unet_costs(model.unet, 6, 5, 16) if "softmax" not in c.path}
    assert len(counted) > 50
    assert list(counted) == [path for path in real if path in counted]
    assert counted == {path: real[path].shape for path in counted}


def test_every_parameter_is_counted_once(model) -> None:
    encoder, decoder = cost.vae_costs(model.vae, 16, 16)
    for network, costs in (
        (model.unet, cost.unet_costs(model.unet, 8, 8, 16)),
        (model.vae, [*encoder, *decoder]),
        (model.text_encoder, cost.text_encoder_costs(model.text_encoder)),
    ):
        assert sum(c.parameters for c in costs) == sum(math.prod(shape) for shape in network.parameters.values())


def test_multiply_adds_by_hand(model) -> None:
    costs = {c.path: c for c in cost.unet_costs(model.unet, 8, 8, 16)}
    assert costs["conv_in"].multiply_adds == 8 * 8 * 8 * 4 * 9
    attention = "down_blocks.0.attentions.0.transformer_blocks.0"
    assert costs[f"{attention}.attn1 (softmax)"].multiply_adds == 2 * 64 * 64 * 8
    assert costs[f"{attention}.attn2 (softmax)"].multiply_adds == 2 * 64 * 16 * 8
    assert costs[f"{attention}.attn2.to_k"].multiply_adds == 16 * 16 * 8
    assert costs["mid_block"].multiply_adds == 0  # its parts are counted, not itself again


def test_blocks_sum_up(model) -> None:
    costs = cost.unet_costs(model.unet, 8, 8, 16)
    blocks = cost.by_block(costs)
    assert sum(b.multiply_adds for b in blocks) == cost.total(costs)
    assert [b.path for b in blocks][:3] == ["time_embedding", "conv_in", "down_blocks.0"]


# Parameters of the published architectures: of the checkpoints' files, by component. The last numbers of each are what
# Podell et al. 2023 (arXiv:2307.01952, table 1), Rombach et al. 2022 (arXiv:2112.10752, tables 1 and 3) and, as 0.32
# billion, Song et al. 2024 (arXiv:2403.16627) state.
PUBLISHED = {
    "sd15": {"text_encoder": 123_060_480, "unet": 859_520_964, "vae": 83_653_863},
    "sd15-taesd": {"text_encoder": 123_060_480, "unet": 859_520_964, "vae": 2_445_063},
    "sd21": {"text_encoder": 340_387_840, "unet": 865_910_724, "vae": 83_653_863},
    "sdxs-512": {"text_encoder": 340_387_840, "unet": 318_695_364, "vae": 2_445_063},
    "sdxl": {"text_encoder": 123_060_480, "text_encoder_2": 694_659_840, "unet": 2_567_463_684, "vae": 83_653_863},
    "ldm-imagenet": {"class_embedder": 512_512, "unet": 400_920_579, "vae": 55_322_782},
    "ldm-celebahq": {"unet": 274_056_163, "vae": 55_322_782},
}


@pytest.fixture(scope="module", params=ARCHITECTURES)
def architecture(request: pytest.FixtureRequest):
    return request.param, random_model(request.param, Runtime())


def test_every_architecture_has_its_published_parameters(architecture) -> None:
    name, model = architecture
    counted = {n: sum(map(math.prod, network.parameters.values())) for n, network in model.networks.items()}
    assert counted == PUBLISHED[name]


def test_every_parameter_of_an_architecture_is_counted_once(architecture) -> None:
    name, model = architecture
    size = 8 * model.vae.config.factor
    costs = {n: c for n, (_, c) in cost.picture_costs(model, size, size, 1).items()}
    costs["vae"] = costs.pop("vae decode") + cost.vae_costs(model.vae, size, size)[0]
    assert {n: sum(c.parameters for c in rows) for n, rows in costs.items()} == PUBLISHED[name]


def test_multiply_adds_of_sd15() -> None:
    """In units of 10¹² multiplications and additions: two for each multiply-add."""
    model = random_model("sd15", Runtime())
    unet = cost.unet_costs(model.unet, 64, 64, batch=2)
    encoder, decoder = cost.vae_costs(model.vae, 512, 512)
    for costs, products, attention in ((unet, 1.35, 0.252), (decoder, 2.48, 0.034), (encoder, 1.08, 0.034)):
        assert 2e-12 * (cost.total(costs) - cost.attention_products(costs)) == pytest.approx(products, abs=0.005)
        assert 2e-12 * cost.attention_products(costs) == pytest.approx(attention, abs=0.001)
    pixels = {64: 320, 32: 640, 16: 1280}  # five blocks each on this side with this width, and one in the middle
    own = 5 * sum(2 * side**4 * width for side, width in pixels.items()) + 2 * 8**4 * 1280
    assert cost.total([c for c in unet if c.path.endswith("attn1 (softmax)")]) == 2 * own  # 0.245 for a batch of 2


def test_attention_alone_grows_with_the_square_of_the_pixels() -> None:
    model = random_model("sd15", Runtime())
    small, large = (cost.unet_costs(model.unet, side, side, tokens=1) for side in (16, 32))
    attn1 = [[c for c in costs if c.path.endswith("attn1 (softmax)")] for costs in (small, large)]
    assert cost.total(attn1[1]) == 16 * cost.total(attn1[0])
    convolutions = [[c for c in costs if "resnets" in c.path and "conv" in c.path] for costs in (small, large)]
    assert cost.total(convolutions[1]) == 4 * cost.total(convolutions[0])


@pytest.mark.parametrize("write", [write_xl, write_refiner, write_ldm, write_ldm_text, write_lcm])
def test_other_families(write, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write(tmp_path / "model")
    for command in (["cost"], ["info", "--shapes"]):
        assert cli.main([*command, "--model", str(folder), "--backend", "reference"]) == 0
    shown = capsys.readouterr().out
    assert "quantize" in shown or "text_encoder" in shown
    model = tinyldm.load(folder, backend="reference")
    runs = cost.picture_costs(model, 16, 16, 10)
    assert runs["unet"][0] == (20 if len(runs) > 2 else 10)
    assert f"unet × {runs['unet'][0]}" in describe_cost(model, None, None, 10)


@pytest.mark.parametrize("family", FILES)
def test_every_family_that_loads(family: str, tmp_path: Path) -> None:
    """Conditions on classes, maps and pictures, BERT's words, VQ models, other ways to change the size, from files."""
    model = tinyldm.load(write_file(tmp_path, family), backend="reference")
    side = 8 * model.vae.config.factor
    runs = {name: costs for name, (_, costs) in cost.picture_costs(model, side, side, 1).items()}
    runs["vae"] = runs.pop("vae decode") + cost.vae_costs(model.vae, side, side)[0]
    counted = {name: sum(c.parameters for c in costs) for name, costs in runs.items()}
    assert counted == {n: sum(map(math.prod, network.parameters.values())) for n, network in model.networks.items()}
    assert all(cost.total(costs) > 0 for name, costs in runs.items() if name != "class_embedder")
    assert f"one picture of {side}×{side}" in describe_cost(model, side, side, 2)
    assert "conv_out" in describe_shapes(model, side, side)


def architectures_table() -> str:
    """What `docs/cost.md` shows of every architecture, from what the command prints."""
    lines = [
        "| architecture | picture | TFLOP of a picture | of a UNet step | the same UNet on pixels |",
        "|---|---|---|---|---|",
    ]
    for name in ARCHITECTURES:
        model = random_model(name, Runtime())
        h, w = (model.vae.config.factor * side for side in model.parts.latent_size())
        runs = cost.picture_costs(model, h, w, 25)
        own, pixels = (
            cost.total(runs["unet"][1]),
            cost.total(cost.unet_costs(model.unet, h, w, cost.context_tokens(model))),
        )
        picture = sum(n * cost.total(costs) for n, costs in runs.values())
        lines.append(
            f"| `{name}` | {w}×{h} | {2e-12 * picture:.2f} | {2e-12 * own:.2f} | {pixels / own:.1f} times as many |"
        )
    return "\n".join(lines)


def test_a_first_stage_that_computes_nothing() -> None:
    text = describe_cost(tinyldm.load("emoji-pixels"))
    assert "vae decode\n  in all                                            0             0" in text


def test_the_page_shows_what_is_computed() -> None:
    page = (Path(__file__).parents[1] / "docs" / "cost.md").read_text(encoding="utf-8")
    assert architectures_table() in page
    assert describe_cost(random_model("sd15", Runtime()), None, None, 20) in page


def test_command_without_weights(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["cost", "--architecture", "sd15", "--width", "256", "--height", "512"]) == 0
    assert "one picture of 256×512, 25 guided steps" in capsys.readouterr().out
    assert cli.main(["cost", "--architecture", "sd99"]) == 2
    assert "sd15, sd15-taesd, sd21" in capsys.readouterr().err
