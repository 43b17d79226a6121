import dataclasses
import json
import sys
import textwrap

import numpy as np
import pytest
from PIL import Image
from tiny_checkpoints import write_controlnet, write_image_encoder, write_ip_adapter, write_ldm, write_sd

import tinyldm
from tinyldm.cli import main
from tinyldm.errors import TinyldmError
from tinyldm.golden import Golden, GoldenWriter
from tinyldm.golden.bisect import bisect, load_callable
from tinyldm.golden.check import check
from tinyldm.golden.fixtures import record_fixture
from tinyldm.golden.record import Recording, record, request_of
from tinyldm.golden.tolerance import AutoTolerance, Tolerance
from tinyldm.pipelines.request import request

NORMS = "0000/unet/*norm*"


def candidate(golden, wrong=()):
    """A port that has the right answers, but for some modules."""

    def run(key, inputs):
        y = golden[key]
        return y * 1.01 if key in wrong else y

    return run


def test_each_module_is_judged_alone(oracle):
    wrong = ["0000/unet/conv_norm_out", "0000/unet/mid_block.resnets.0.norm2"]
    found = bisect(oracle, candidate(oracle, wrong), select=[NORMS])
    assert [r.key for r in found.failed] == sorted(wrong, key=oracle.order.index)
    assert found.culprit == "0000/unet/mid_block.resnets.0.norm2"
    assert not any(r.inherited for r in found.results)
    assert found.status == 1


def test_our_own_operators_pass_as_a_candidate(oracle, model64):
    """Group norms, from the recorded inputs and the weights."""
    weights = {node.path: node for node in model64.unet.weights.modules()}

    def group_norm(key, inputs):
        node = weights[key.partition("/unet/")[2]]
        (x,) = inputs
        if x.ndim != 4:
            return None
        y = tinyldm.nn.group_norm(np.moveaxis(x, 1, -1), node)
        return np.moveaxis(y, -1, 1)

    found = bisect(oracle, group_norm, Tolerance(1e-12), select=["0000/unet/*resnets*norm?", "0000/unet/conv_norm_out"])
    assert found.status == 0
    assert len(found.results) > 10


def test_modules_that_the_candidate_lacks_are_counted(oracle):
    def run(key, inputs):
        return oracle[key] if "norm1" in key else None

    found = bisect(oracle, run, select=[NORMS])
    assert found.status == 0
    assert found.missing
    with pytest.raises(TinyldmError, match="nothing to compare"):
        bisect(oracle, lambda key, inputs: None, select=[NORMS])


# Limits of a module alone ------------------------------------------------------------------------------------------


def layer_by_layer(model, eps_factor=1.0):
    """A candidate that computes the UNet's convolutions, norms and linear layers with the model's own operators."""
    nodes = {node.path: node for node in model.unet.weights.modules()}

    def run(key, inputs):
        node = nodes.get(key.partition("/unet/")[2])
        if node is None or "weight" not in node or len(inputs) != 1:
            return None
        x = inputs[0].astype(model.runtime.dtype)
        if len(node.shapes["weight"]) == 1 and x.ndim == 3:
            return tinyldm.ops.layer_norm(x, node.weight, node.bias, node.settings["eps"] * eps_factor)
        if x.ndim != 4:
            return tinyldm.nn.linear(x, node)
        x = np.moveaxis(x, 1, -1)
        if len(node.shapes["weight"]) == 1:
            y = tinyldm.ops.group_norm(
                x, node.weight, node.bias, node.settings["groups"], node.settings["eps"] * eps_factor
            )
        else:
            y = tinyldm.nn.conv2d(x, node, stride=2 if "downsamplers" in key else 1)
        return np.moveaxis(y, -1, 1)

    return run


DEEP = ["0000/unet/mid_block.resnets.1.norm1", "0000/unet/conv_norm_out"]


def test_a_small_error_deep_in_the_network_hides_in_what_has_gathered_and_not_in_the_module_alone(oracle, model64):
    """An epsilon of 1e-6 where it is 1e-5."""
    wrong = layer_by_layer(model64, eps_factor=0.1)
    assert bisect(oracle, wrong, AutoTolerance(oracle, "float32"), select=DEEP).status == 0
    found = bisect(oracle, wrong, AutoTolerance(oracle, "float32", per_module=True), select=DEEP)
    assert [r.key for r in found.failed] == DEEP
    assert "of each module alone" in found.tolerance
    right = bisect(oracle, layer_by_layer(model64), AutoTolerance(oracle, "float32", per_module=True), select=DEEP)
    assert right.status == 0


@pytest.mark.parametrize("precision", ["strict", "fast"])
def test_honest_modules_pass_alone(oracle, checkpoint, precision):
    model = tinyldm.load(checkpoint, backend="numba", precision=precision)
    found = bisect(
        oracle, layer_by_layer(model), AutoTolerance(oracle, "float32", per_module=True), select=["0000/unet/*"]
    )
    assert found.status == 0
    assert len(found.results) > 80


def test_every_module_with_inputs_has_an_error_of_its_own(oracle):
    for arithmetic, errors in oracle.metadata["rounding_alone"].items():
        assert set(errors) == set(oracle.inputs)
        whole = oracle.metadata["rounding"][arithmetic]
        # What has gathered since the run began is more, but for the first modules and by luck.
        assert np.median([whole[key][1] / errors[key][1] for key in errors if errors[key][1]]) > 2


def test_the_error_alone_is_that_of_the_operator_on_rounded_inputs(oracle, model64):
    """A SiLU by its definition: in bfloat16 the input is rounded, then the result."""
    from tinyldm.golden.rounding import to_bfloat16

    key = "0000/unet/conv_act"
    x = to_bfloat16(oracle[oracle.inputs[key][0]].astype(np.float32))
    wanted = np.abs(to_bfloat16(x / (1 + np.exp(-x))) - oracle[key])
    found = oracle.metadata["rounding_alone"]["bfloat16"][key]
    np.testing.assert_allclose(found, [wanted.max(), np.sqrt(np.mean(wanted**2))], rtol=0.01)  # a tie may go either way


def test_a_file_without_errors_of_single_modules_says_so(oracle):
    del oracle.metadata["rounding_alone"]
    found = AutoTolerance(oracle, "float32", per_module=True)
    assert found.errors == oracle.metadata["rounding"]["float32"]
    assert "whole run" in found.describe()


@pytest.mark.parametrize("table", [7, [1], {"float32": 1}, {"float32": {"a": 1}}, {"float32": {"a": [1, "x"]}}])
@pytest.mark.parametrize("entry", ["rounding", "rounding_alone"])
def test_malformed_tables_are_told(oracle, entry, table):
    oracle.metadata[entry] = table
    with pytest.raises(TinyldmError, match=f"metadata entry '{entry}'"):
        AutoTolerance(oracle, "float32", per_module=True)


PORT = """
import sys
from tinyldm.golden import Golden, GoldenWriter
from tinyldm.golden.bisect import requested
source, target = sys.argv[-2:]
with Golden(source) as file, GoldenWriter(target) as out:
    for key, (x,) in requested(file).items():
        out.add(key, x / (1 + 2.718281828459045 ** -x) * (1.5 if key.endswith("conv_act") else 1))
"""


def test_a_command_reads_and_writes_the_format(oracle, tmp_path):
    port = tmp_path / "port.py"
    port.write_text(textwrap.dedent(PORT))
    silu = ["0000/unet/conv_act", "0000/unet/*nonlinearity"]
    found = bisect(oracle, f"{sys.executable} {port}", select=silu)
    assert [r.key for r in found.failed] == ["0000/unet/conv_act"]
    assert len(found.results) > 5
    assert "times 1.5" in found.first.hint


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("/nowhere/port", "cannot be run"),
        (f"{sys.executable} -c 'raise SystemExit(\"no such layer\")'", "status 1: no such layer"),
        (f"{sys.executable} -c pass", "wrote no file"),
    ],
)
def test_a_command_that_fails_says_why(oracle, command, said):
    with pytest.raises(TinyldmError, match=said):
        bisect(oracle, command, select=["0000/unet/conv_act"])


def test_a_callable_that_fails_is_told_with_the_module(oracle):
    def fails(key, inputs):
        raise ValueError("no such layer")

    with pytest.raises(
        TinyldmError, match=r"failed at 0000/unet/conv_act \(inputs \(2, 8, 8, 8\)\): ValueError: no such"
    ):
        bisect(oracle, fails, select=["0000/unet/conv_act"])
    with pytest.raises(TinyldmError, match="not an array of numbers"):
        bisect(oracle, lambda key, inputs: "text", select=["0000/unet/conv_act"])


def test_bisect_needs_inputs(oracle):
    with pytest.raises(TinyldmError, match="record --inputs"):
        bisect(oracle, lambda key, inputs: None, select=["nothing"])


@pytest.mark.parametrize("name", ["nowhere", "nowhere:function", "json:nothing", "json:__name__"])
def test_a_callable_that_is_not_there(name):
    with pytest.raises(TinyldmError, match="candidate"):
        load_callable(name)


def test_a_callable_by_name():
    assert load_callable("json:dumps") is json.dumps


# Check ------------------------------------------------------------------------------------------------------------


def test_a_run_is_repeated(oracle):
    found = check(oracle, tolerance=Tolerance(0))
    assert found.status == 0
    assert len(found.results) == len(oracle)


def test_a_change_of_the_computation_is_found(oracle, monkeypatch):
    from tinyldm import ops

    original = ops.silu
    monkeypatch.setattr(ops, "silu", lambda x: original(x) * 1.0001)
    found = check(oracle)
    assert found.status == 1
    assert "act" in found.culprit or "nonlinearity" in found.culprit


@pytest.mark.parametrize("component", ["unet", "vae", "text_encoder", "scheduler"])
def test_fixtures_are_repeated(component, model64, tmp_path):
    record_fixture(model64, tmp_path / "a", component, Recording(sample=50))
    with Golden(tmp_path / "a") as golden:
        assert check(golden, tolerance=Tolerance(0)).status == 0
        assert golden.order


def test_fixtures_of_a_model_without_a_text(tmp_path):
    model = tinyldm.load(write_ldm(tmp_path / "ldm"), backend="reference", dtype="float64")
    for component in ("unet", "vae"):
        record_fixture(model, tmp_path / "a", component, Recording(inputs=True, rounding=["float32"]))
        with Golden(tmp_path / "a") as golden:
            assert check(golden, tolerance=Tolerance(0)).status == 0
    with pytest.raises(TinyldmError, match="has no text_encoder; its networks are unet, vae"):
        record_fixture(model, tmp_path / "b", "text_encoder")


@pytest.mark.parametrize("options", [{}, {"inputs": True}, {"sample": 3}, {"values": False}, {"select": ("*/*/*",)}])
def test_a_fixture_of_given_inputs_is_repeated(model64, tmp_path, options):
    z = np.linspace(-1, 1, 140, dtype=np.float32).reshape(1, 4, 5, 7)
    record_fixture(model64, tmp_path / "a", "vae", Recording(**options), inputs={"z": z})
    with Golden(tmp_path / "a") as golden:
        np.testing.assert_array_equal(golden[golden.given["z"]], z)
        assert check(golden, tolerance=Tolerance(0)).status == 0
        assert not any(key.startswith("given") for key in golden.order)


def test_a_given_array_that_is_a_result_too_is_not_stored_twice(model64, tmp_path):
    record_fixture(model64, tmp_path / "a", "vae", inputs={"z": np.ones((1, 4, 5, 7))})
    with Golden(tmp_path / "a") as golden:
        assert golden.given == {"z": "0000/vae:decode.z"}


def test_given_inputs_that_are_too_large_are_told(model64, tmp_path, monkeypatch):
    monkeypatch.setattr("tinyldm.golden.record.GIVEN_BYTES", 100)
    told = []
    record_fixture(model64, tmp_path / "a", "vae", Recording(tell=told.append), inputs={"z": np.ones((1, 4, 5, 7))})
    assert told == ["the given inputs, 1,120 bytes, are not kept: `golden check` can't run this file again"]
    with Golden(tmp_path / "a") as golden, pytest.raises(TinyldmError, match="does not hold z"):
        check(golden)


@pytest.mark.parametrize(
    ("component", "inputs", "said"),
    [
        ("unet", {"t": np.array([1.0, np.nan])}, "'t' holds NaN"),
        ("unet", {"foo": np.ones(3)}, "no condition 'foo'"),
        ("vae", {"foo": np.ones(3)}, "takes pixels and z, not 'foo'"),
        ("scheduler", {"z": np.ones(3)}, "takes no inputs, not 'z'"),
    ],
)
def test_given_inputs_that_make_no_sense_are_refused(model64, tmp_path, component, inputs, said):
    with pytest.raises(TinyldmError, match=said):
        record_fixture(model64, tmp_path / "a", component, inputs=inputs)
    assert list(tmp_path.iterdir()) == []


def test_names_of_the_original_layout(model64, tmp_path):
    from tinyldm.golden.names import compvis_names

    recording = Recording(sample=1, rename=compvis_names(model64))
    record_fixture(model64, tmp_path / "a", "unet", recording)
    record_fixture(model64, tmp_path / "b", "vae", recording)
    with Golden(tmp_path / "a") as golden:
        wanted = [
            "input_blocks.0.0",
            "input_blocks.1.0.in_layers.2",
            "input_blocks.1.1.transformer_blocks.0.attn2.to_k",
        ]
        wanted += ["middle_block.1.proj_out", "output_blocks.1.0.skip_connection", "out.0", "out.1", "time_embed.1"]
        wanted += ["input_blocks.2.0.op", "output_blocks.1.1.conv", "input_blocks.1.0.emb_layers.0"]
        assert [name for name in wanted if f"0000/unet/{name}" not in golden] == []
        assert check(golden, tolerance=Tolerance(0)).status == 0
    with Golden(tmp_path / "b") as golden:
        wanted = [
            "encoder.down.0.block.0.conv1",
            "encoder.mid.attn_1.q",
            "decoder.up.1.block.0.norm1",
            "post_quant_conv",
        ]
        assert [name for name in wanted if f"0000/vae/{name}" not in golden] == []


def test_patterns_may_be_in_the_names_that_are_asked_for(model64, tmp_path):
    from tinyldm.golden.names import compvis_names

    for pattern in ("*/input_blocks.0.0", "*/conv_in"):
        rename = compvis_names(model64)
        recording = Recording(select=(pattern,), inputs=True, rename=rename, rounding=["float32"])
        record_fixture(model64, tmp_path / "a", "unet", recording)
        with Golden(tmp_path / "a") as golden:
            assert golden.order == ["0000/unet/input_blocks.0.0"]
            assert list(golden.metadata["rounding"]["float32"]) == golden.order
            assert list(golden.metadata["rounding_alone"]["float32"]) == golden.order
            assert check(golden, tolerance=Tolerance(0)).status == 0


def test_other_weights_are_refused(oracle, own_checkpoint):
    from tinyldm.checkpoints.safetensors import read_safetensors, write_safetensors

    file = own_checkpoint / "vae" / "diffusion_pytorch_model.safetensors"
    with read_safetensors(file) as source:
        tensors = {name: source.read(name).copy() for name in source}
    tensors["decoder.conv_in.bias"][0] += 1
    write_safetensors(file, tensors)
    with pytest.raises(TinyldmError, match="weights of the vae"):
        check(oracle, own_checkpoint)


@pytest.mark.parametrize(
    "wanted",
    [
        {"prompt": ["a", "b"], "negative_prompt": ["c", "d"], "steps": 2, "sampler": "euler"},
        {"prompt": "a", "num_images": 2, "steps": 1, "one_stream": True, "sampler_options": {"eta": 0.5}},
        {"prompt": "a", "steps": 1, "height": 32, "width": 16},
        {"prompt": "(a:1.3) AND b", "steps": 1, "prompt_syntax": "webui", "clip_skip": 2, "guidance_rescale": 0.5},
        {"prompt": "a", "steps": 1, "seamless": "x", "rng": "cuda"},
        {"prompt": ["a", "b"], "steps": 1, "seed": 3, "variation_seed": 0, "variation_strength": 0.5},
    ],
)
def test_a_request_is_stated_and_repeated(wanted, model64, tmp_path):
    record(model64, tmp_path / "a", request(**wanted), Recording(select=("*latents", "noise", "picture")))
    with Golden(tmp_path / "a") as golden:
        stated, asked = request_of(golden.metadata["settings"]), request(**wanted)
        assert {name: getattr(stated, name) for name in ("seeds", *wanted.keys() & vars(asked).keys())} == {
            name: getattr(asked, name) for name in ("seeds", *wanted.keys() & vars(asked).keys())
        }
        assert stated.prompts == asked.prompts
        assert golden["picture"].shape == (len(asked.prompts), 3, asked.height or 16, asked.width or 16)
        assert check(golden, tolerance=Tolerance(0)).status == 0


@pytest.mark.parametrize("setting", ["prompt_syntax", "clip_skip", "seamless", "rng", "guidance_rescale"])
def test_a_setting_that_was_lost_would_be_found(setting, model64, tmp_path):
    wanted = {"prompt_syntax": "webui", "clip_skip": 2, "seamless": "both", "rng": "numpy", "guidance_rescale": 0.9}
    record(model64, tmp_path / "a", request("(a:1.4) b", steps=1, **wanted), Recording(select=("*latents", "picture")))
    with Golden(tmp_path / "a") as golden:
        del golden.metadata["settings"][setting]
        assert check(golden, tolerance=Tolerance(0)).status == 1


@pytest.fixture(scope="module")
def guiding(checkpoint, tmp_path_factory):
    """A model that pictures guide, through two kinds of networks and one that is there for nothing."""
    folder = tmp_path_factory.mktemp("guides")
    for name in ("control", "unused"):
        write_controlnet(folder / name)
    write_image_encoder(folder / "image_encoder")
    write_ip_adapter(folder / "ip-adapter.safetensors", "sd", "projection")
    write_sd(folder / "sd")
    names = {"controlnet": [folder / "unused", folder / "control"], "ip_adapter": folder / "ip-adapter.safetensors"}
    return tinyldm.load(folder / "sd", backend="reference", dtype="float64", **names)


def test_guides_are_stated_and_repeated(guiding, tmp_path):
    picture = Image.effect_noise((16, 16), 90)
    model = guiding.controlled(picture, 0.7, 1, start=0.5).prompted_by(picture, 0.6)
    recording = Recording(select=("*latents", "picture"), rounding=["float32"])
    record(model, tmp_path / "a", request("a", steps=2), recording)
    record(guiding, tmp_path / "b", request("a", steps=2), recording)
    with Golden(tmp_path / "a") as golden, Golden(tmp_path / "b") as plain:
        assert (golden["picture"] != plain["picture"]).any()
        assert "guides" not in plain.metadata["settings"]
        assert check(golden, tolerance=Tolerance(0)).status == 0
        assert check(plain, tolerance=Tolerance(0)).status == 0
        assert 0 < golden.metadata["rounding"]["float32"]["0001/latents"][0] < 1e-3
        said = golden.metadata["settings"]["guides"]
        assert said[0] == {"network": "controlnet_1", "scale": 0.7, "start": 0.5, "end": 1.0}
        assert said[1] == {"network": "ip_adapter", "scale": 0.6}
        for name, value in (("network", "controlnet_7"), ("start", None)):
            damaged = {key: v for key, v in said[0].items() if key != name} | ({name: value} if value else {})
            golden.metadata["settings"]["guides"] = [damaged, said[1]]
            with pytest.raises(TinyldmError, match="does not say or hold what guided its run"):
                check(golden)


def test_a_guide_that_the_model_was_not_loaded_with_is_refused(guiding, model64, tmp_path):
    model = guiding.replaced(controlnet_1=None).controlled(np.zeros((1, 3, 16, 16)), 1.0, guiding.controlnets[1])
    with pytest.raises(TinyldmError, match="load the model with it"):
        record(model, tmp_path / "a", request("a", steps=1))


def test_what_a_request_leaves_open_is_stated_as_the_model_has_it(model64, tmp_path):
    record(model64, tmp_path / "a", request("a", steps=1), Recording(select=("noise",)))
    record(model64, tmp_path / "b", request("a", steps=1, sampler="DPM++ 2M"), Recording(select=("noise",)))
    with Golden(tmp_path / "a") as golden, Golden(tmp_path / "b") as named_otherwise:
        stated = golden.metadata["settings"]
        assert (stated["sampler"], stated["guidance_scale"], stated["height"]) == ("ddim", 7.5, None)
        assert named_otherwise.metadata["settings"]["sampler"] == "dpm++_2m"


def test_a_request_that_a_file_could_not_state_is_refused(model64, tmp_path):
    for changes in ({"seeds": (3, 5)}, {"noise": np.ones((2, 4, 8, 8))}):
        wanted = dataclasses.replace(request(["a", "b"], steps=1), **changes)
        with pytest.raises(TinyldmError, match=r"seeds one after the other|can't be recorded"):
            record(model64, tmp_path / "a", wanted)


def test_a_file_that_does_not_say_how_it_was_made(tmp_path):
    with GoldenWriter(tmp_path / "a") as writer:
        writer.add("x", np.ones(3))
    with Golden(tmp_path / "a") as golden, pytest.raises(TinyldmError, match="how it was made"):
        check(golden)


# Recording --------------------------------------------------------------------------------------------------------


def test_rounding_errors_are_ordered_as_the_types_are(oracle):
    errors = oracle.metadata["rounding"]
    pairs = [[errors[a]["0000/unet:epsilon"][1] for a in ("float32", "float16", "bfloat16")]]
    pairs.append([errors[a]["0000/vae:decode.pixels"][1] for a in ("float32", "float16", "bfloat16")])
    for f32, f16, bf16 in pairs:
        assert 0 < f32 < f16 / 100
        assert 2 * f16 < bf16 < 32 * f16


def test_the_error_is_the_largest_of_all_honest_evaluations(model64, oracle, monkeypatch, tmp_path):
    """Evaluation by evaluation, each is at most what stands in the file, and in every tensor one is just that."""
    from tinyldm.golden.rounding import EVALUATIONS, rounded_model

    wanted = oracle.metadata["rounding"]["float32"]
    keys = ["0000/unet:epsilon", "0000/vae:decode.pixels", "0000/unet/mid_block", "0000/text_encoder:context"]
    found = []
    for i in range(EVALUATIONS):
        same = request("a", steps=1, seed=3, guidance_scale=4.0)
        record(rounded_model(model64, "float32", i), tmp_path / "a", same)
        with Golden(tmp_path / "a") as one:
            found.append([float(np.abs(one[key] - oracle[key]).max()) for key in keys])
    np.testing.assert_allclose(np.max(found, axis=0), [wanted[key][0] for key in keys], rtol=1e-6)
    assert (np.min(found, axis=0) < 0.99 * np.max(found, axis=0)).all()


def test_it_is_told_what_takes_long(model64, tmp_path):
    told = []
    record_fixture(model64, tmp_path / "a", "text_encoder", Recording(rounding=["float16"], tell=told.append))
    assert len(told) == 8
    assert told[2] == "the error of honest float16: evaluation 3 of 8"


def test_selecting_nothing_is_an_error(model64, tmp_path):
    with pytest.raises(TinyldmError, match="nothing to record"):
        record(model64, tmp_path / "a", request("a", steps=1), Recording(select=("nothing",)))
    assert list(tmp_path.iterdir()) == []


def test_tracing_changes_nothing(model64):
    plain = model64.text_to_image("a", steps=1, seed=3)[0]
    with tinyldm.golden.trace() as t:
        traced = model64.text_to_image("a", steps=1, seed=3)[0]
    assert plain.tobytes() == traced.tobytes()
    assert {"noise", "0000/latents", "0000/unet:epsilon", "0000/unet/mid_block"} <= set(t)


# Commands ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def files(checkpoint, tmp_path, capsys):
    """An oracle and a float32 run, recorded by the command."""
    common = ["--prompt", "a", "--steps", "1", "--seed", "3", "--select", "0000/unet*", "--select", "picture"]
    oracle, single = str(tmp_path / "o.safetensors"), str(tmp_path / "c.safetensors")
    assert main(["golden", "record", str(checkpoint), "-o", oracle, "--dtype", "float64", "--inputs", *common]) == 0
    assert main(["golden", "record", str(checkpoint), "-o", single, "--backend", "reference", *common]) == 0
    capsys.readouterr()
    return oracle, single


def test_diff_report_and_check_from_the_command_line(files, tmp_path, capsys):
    oracle, single = files
    assert main(["golden", "diff", oracle, single, "--tolerance", "auto"]) == 0
    assert "tensors within tolerance" in capsys.readouterr().out
    assert main(["golden", "diff", oracle, single]) == 0
    assert "honest float32" in capsys.readouterr().out  # by default too, since the oracle can say it
    assert main(["golden", "diff", oracle, oracle]) == 0
    assert "float64 1e-09" in capsys.readouterr().out  # of float64 it can't
    assert main(["golden", "diff", oracle, single, "--factor", "0.01"]) == 1
    capsys.readouterr()
    assert main(["golden", "diff", oracle, single, "--tolerance", "1e-12", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["status"] == 1
    assert found["first"] == found["culprit"] == "0000/unet:context"
    assert main(["golden", "report", oracle, single, "-o", str(tmp_path / "r.html")]) == 0
    assert (tmp_path / "r.html").stat().st_size > 10_000
    assert main(["golden", "check", single, "--tolerance", "0"]) == 0
    capsys.readouterr()
    assert main(["golden", "check", oracle, "--dtype", "float32"]) == 0
    assert "honest float32" in capsys.readouterr().out
    assert main(["golden", "check", oracle]) == 0
    assert "float64 1e-09" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["diff", "O", "nowhere"], "cannot be read"),
        (["diff", "O", "C", "--tolerance", "much"], "number or auto"),
        (["diff", "O", "C", "--tolerance", "auto", "--arithmetic", "float64"], "record it with"),
        (["diff", "O", "C", "--select", "nothing"], "nothing to compare"),
        (["diff", "O", "C", "--tolerance", "1e-4", "--factor", "2"], "are of --tolerance auto"),
        (["record", "-o", "OUT", "--fixture", "unet", "--prompt", "a"], "--prompt is of a run from a prompt"),
        (["record", "-o", "OUT", "--fixture", "vae", "--steps", "3"], "--steps is of a run"),
        (["record", "-o", "OUT", "--sample", "3", "--statistics"], "one of them"),
        (["record", "-o", "OUT", "--rounding", "float32"], "measured by a float64 run"),
        (["record", "-o", "OUT", "--rounding", "float32,float8", "--dtype", "float64"], "float8"),
        (["bisect", "O"], "either --candidate"),
        (["bisect", "O", "--candidate", "nowhere:function"], "candidate"),
        (["record", "-o", "OUT", "--size", "big"], "--size"),
        (["record", "-o", "OUT", "--fixture", "vae", "--size", "31x31"], "multiples of"),
        (["record", "-o", "OUT", "--given", "O"], "--fixture"),
        (["record", "-o", "/nowhere/file"], "no folder"),
    ],
)
def test_bad_input_is_one_line_and_status_2(arguments, said, oracle_file, checkpoint, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("tinyldm.pipelines.load.embedded", lambda: checkpoint)
    places = {"O": str(oracle_file), "C": str(oracle_file), "OUT": str(tmp_path / "out")}
    assert main(["golden", *(places.get(word, word) for word in arguments)]) == 2
    assert said in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_the_settings_are_in_the_file(oracle, checkpoint):
    assert oracle.metadata["settings"]["prompt"] == ["a"]
    assert oracle.metadata["versions"]["tinyldm"] == tinyldm.__version__
    assert oracle.metadata["model"] == str(checkpoint)
    assert oracle.metadata["config"]["unet"]["block_out_channels"] == [8, 16]
