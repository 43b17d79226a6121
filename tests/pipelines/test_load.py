"""Loading a folder: what is accepted, and what each damage is answered with."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import tinyldm
from tinyldm.checkpoints.folder import find_weights, read_folder
from tinyldm.checkpoints.safetensors import read_safetensors, write_safetensors
from tinyldm.errors import CheckpointError, ConfigError, InputError, TinyldmError

UNET_FILE = "unet/diffusion_pytorch_model.safetensors"


def load(path: Path, **options):
    return tinyldm.load(path, **{"backend": "reference", **options})


def latents(model) -> np.ndarray:
    z = tinyldm.random.torch_randn((1, 4, 8, 8), seed=0)
    return model.unet(z, 500, model.text_encoder(model.tokenizer.encode(["a"])))


def edit_json(path: Path, **fields) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def edit_weights(path: Path, change) -> None:
    with read_safetensors(path) as file:
        tensors = {name: np.array(file.read(name)) for name in file.names}
    change(tensors)
    write_safetensors(path, tensors)


def test_public_arrays(checkpoint: Path) -> None:
    model = load(checkpoint)
    ids = model.tokenizer.encode(["red", "a"])
    assert ids.shape == (2, 16)
    assert ids.dtype == np.int64
    context = model.text_encoder(ids)
    assert context.shape == (2, 16, 16)
    pixels = np.zeros((2, 3, 16, 12), np.float32)
    mean, logvar = model.vae.encode(pixels)
    assert mean.shape == logvar.shape == (2, 4, 8, 6)
    assert model.vae.decode(mean).shape == pixels.shape
    assert model.unet(mean, np.array([3, 500]), context).shape == mean.shape


def test_dtype_is_kept(checkpoint: Path) -> None:
    for dtype in ("float32", "float64"):
        assert latents(load(checkpoint, dtype=dtype)).dtype == dtype
    difference = latents(load(checkpoint)) - latents(load(checkpoint, dtype="float64"))
    assert 0 < np.abs(difference).max() < 1e-5


@pytest.mark.parametrize("dtype", ["F16", "BF16"])
def test_half_precision_files(own_checkpoint: Path, dtype: str) -> None:
    exact = latents(load(own_checkpoint))
    file = own_checkpoint / UNET_FILE
    with read_safetensors(file) as source:
        tensors = {name: np.array(source.read(name)) for name in source.names}
    write_safetensors(file, tensors, dtype=dtype)
    error = np.abs(latents(load(own_checkpoint)) - exact).max() / np.abs(exact).max()
    assert 0 < error < 0.05


def test_names_without_prefix_and_old_attention_names(own_checkpoint: Path) -> None:
    model = load(own_checkpoint)
    exact, pixels = latents(model), model.vae.decode(np.ones((1, 4, 4, 4)))

    def strip(tensors):
        for name in list(tensors):
            tensors[name.removeprefix("text_model.")] = tensors.pop(name)
        tensors["embeddings.position_ids"] = np.arange(16)[None]

    def age(tensors):
        for new, old in (("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "proj_attn")):
            for name in [n for n in tensors if f".attentions.0.{new}." in n]:
                tensors[name.replace(f".{new}.", f".{old}.")] = tensors.pop(name)

    edit_weights(own_checkpoint / "text_encoder/model.safetensors", strip)
    edit_weights(own_checkpoint / "vae/diffusion_pytorch_model.safetensors", age)
    model = load(own_checkpoint)
    np.testing.assert_array_equal(latents(model), exact)
    np.testing.assert_array_equal(model.vae.decode(np.ones((1, 4, 4, 4))), pixels)


def test_sharded(own_checkpoint: Path) -> None:
    exact = latents(load(own_checkpoint))
    file = own_checkpoint / UNET_FILE
    with read_safetensors(file) as source:
        tensors = {name: np.array(source.read(name)) for name in source.names}
    file.unlink()
    names, where = list(tensors), {}
    for i, part in enumerate((names[:50], names[50:]), start=1):
        shard = f"diffusion_pytorch_model-0000{i}-of-00002.safetensors"
        write_safetensors(file.parent / shard, {name: tensors[name] for name in part})
        where |= dict.fromkeys(part, shard)
    index = {"metadata": {"total_size": 1}, "weight_map": where}
    (file.parent / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
    np.testing.assert_array_equal(latents(load(own_checkpoint)), exact)


def test_variant_is_preferred_and_found_when_alone(tmp_path: Path) -> None:
    for name in ("model.safetensors", "model.fp16.safetensors", "model.non_ema.safetensors", "pytorch_model.bin"):
        (tmp_path / name).touch()
    (tmp_path / "model-00001-of-00002.safetensors").touch()
    assert find_weights(tmp_path).name == "model.safetensors"
    assert find_weights(tmp_path, "fp16").name == "model.fp16.safetensors"
    (tmp_path / "model.safetensors").unlink()
    assert find_weights(tmp_path).name == "pytorch_model.bin"
    (tmp_path / "pytorch_model.bin").unlink()
    assert find_weights(tmp_path).name == "model.fp16.safetensors"
    (tmp_path / "model.safetensors.index.fp16.json").touch()
    assert find_weights(tmp_path, "fp16").name == "model.fp16.safetensors"


def test_safety_checker_is_passed_over_with_a_note(own_checkpoint: Path) -> None:
    edit_json(own_checkpoint / "model_index.json", safety_checker=["stable_diffusion", "SafetyChecker"])
    assert any("safety_checker" in note for note in load(own_checkpoint).notes)
    assert "safety_checker" not in read_folder(own_checkpoint)


def test_unused_runtime_options_are_errors(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="reference"):
        tinyldm.load(checkpoint, backend="numba", dtype="float64")
    with pytest.raises(InputError, match="cuda"):
        tinyldm.load(checkpoint, backend="cuda")
    with pytest.raises(InputError, match="float16"):
        tinyldm.load(checkpoint, backend="reference", dtype="float16")
    monkeypatch.setenv("TINYLDM_BACKEND", "reference")
    assert tinyldm.load(checkpoint).runtime.backend == "reference"
    for threads in ("many", "0", "-1", "2.5"):
        monkeypatch.setenv("TINYLDM_THREADS", threads)
        with pytest.raises(InputError, match="TINYLDM_THREADS"):
            tinyldm.load(checkpoint)


@pytest.mark.parametrize(("name", "wrong", "right"), [("BACKEND", "cuda", "numba"), ("PRECISION", "exact", "strict")])
def test_environment_variables_mean_the_same(checkpoint: Path, monkeypatch, name: str, wrong: str, right: str) -> None:
    monkeypatch.setenv(f"TINYLDM_{name}", wrong)
    with pytest.raises(InputError, match=f"TINYLDM_{name} '{wrong}' is unknown; known are .*{right}"):
        tinyldm.load(checkpoint)
    assert tinyldm.load(checkpoint, backend="reference", precision="strict").runtime.backend == "reference"
    monkeypatch.setenv(f"TINYLDM_{name}", right)
    assert getattr(tinyldm.load(checkpoint).runtime, name.lower()) == right
    with pytest.raises(InputError, match="precision 'exact' is unknown"):
        tinyldm.load(checkpoint, precision="exact")
    with pytest.raises(InputError, match="backend='reference'"):
        tinyldm.load(checkpoint, backend="numba", dtype="float64")


def test_numba_is_not_imported_for_the_reference_nor_scipy_for_numba() -> None:
    """Nobody waits for what is not used."""
    script = (
        "import sys, tinyldm; model = tinyldm.load({}); model.text_encoder([[1, 2]]);"
        "print([name in sys.modules for name in ('numba', 'scipy.special', 'huggingface_hub', 'tqdm')])"
    )
    for arguments, loaded in (("backend='reference'", [False, True, False, False]), ("", [True, False, False, False])):
        command = [sys.executable, "-c", script.format(arguments)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == str(loaded)


DAMAGES = {
    "no index": (lambda p: (p / "model_index.json").unlink(), "model_index.json"),
    "no component folder": (lambda p: shutil.rmtree(p / "vae"), "vae"),
    "no weights": (lambda p: (p / UNET_FILE).unlink(), "no weights"),
    "broken json": (lambda p: (p / "unet/config.json").write_text("{"), "JSON"),
    "json list": (lambda p: (p / "unet/config.json").write_text("[]"), "object"),
    "unknown field": (lambda p: edit_json(p / "unet/config.json", wings=2), "wings"),
    "unsupported value": (lambda p: edit_json(p / "unet/config.json", act_fn="mish"), "mish"),
    "unsupported block": (lambda p: edit_json(p / "vae/config.json", up_block_types=["X", "Y"]), "'X'"),
    "other class": (lambda p: edit_json(p / "model_index.json", unet=["diffusers", "UNet3D"]), "UNet3D"),
    "width": (lambda p: edit_json(p / "unet/config.json", block_out_channels=[8, 32]), "shape"),
    "truncated": (lambda p: (p / UNET_FILE).write_bytes((p / UNET_FILE).read_bytes()[:-5]), UNET_FILE),
    "missing weight": (
        lambda p: edit_weights(p / UNET_FILE, lambda t: t.pop("conv_in.weight")),
        r"conv_in\.weight.*\(8, 4, 3, 3\)",
    ),
    "extra weight": (
        lambda p: edit_weights(p / UNET_FILE, lambda t: t.update(extra=np.zeros(3, np.float32))),
        r"extra.*\(3,\)",
    ),
    "misshapen weight": (
        lambda p: edit_weights(p / UNET_FILE, lambda t: t.update({"conv_in.bias": np.zeros(9, np.float32)})),
        r"conv_in\.bias.*\(9,\).*\(8,\)",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_named(own_checkpoint: Path, damage: str) -> None:
    do, message = DAMAGES[damage]
    do(own_checkpoint)
    with pytest.raises(TinyldmError, match=message) as caught:
        load(own_checkpoint)
    assert isinstance(caught.value, CheckpointError | ConfigError)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("backend", ["reference", "numba"])
def test_nan_in_weights(own_checkpoint: Path, value: float, backend: str) -> None:
    edit_weights(own_checkpoint / UNET_FILE, lambda t: t["conv_out.weight"].__setitem__((0, 0, 0, 0), value))
    with pytest.raises(CheckpointError, match=re.escape("conv_out.weight")):
        latents(load(own_checkpoint, backend=backend))


def test_wrong_inputs(checkpoint: Path) -> None:
    model = load(checkpoint)
    z, context = np.zeros((1, 4, 8, 8)), np.zeros((1, 8, 16))
    for call, message in (
        (lambda: model.unet(z[0], 0, context), "z must"),
        (lambda: model.unet(z, 0, context[..., :3]), "context"),
        (lambda: model.unet(z, np.zeros(3), context), "t must"),
        (lambda: model.unet(z, 0, context, class_labels=[1]), "class_labels"),
        (lambda: model.vae.encode(np.zeros((1, 3, 7, 8))), "multiples of 2"),
        (lambda: model.vae.decode(np.zeros((1, 3, 8, 8))), "z must"),
        (lambda: model.text_encoder(np.full((1, 8), 600)), "vocabulary"),
        (lambda: model.text_encoder(np.zeros((1, 17), int)), "L from 1 to 16"),
        (lambda: model.text_encoder(np.zeros((1, 8), int), layer=-4), "layer -4"),
    ):
        with pytest.raises(InputError, match=message):
            call()


@pytest.mark.parametrize("backend", ["reference", "numba"])
def test_low_memory_keeps_nothing_and_changes_nothing(checkpoint: Path, backend: str) -> None:
    usual, low = load(checkpoint, backend=backend), load(checkpoint, backend=backend, low_memory=True)
    np.testing.assert_array_equal(latents(low), latents(usual))

    def kept(model):
        return sum(
            isinstance(v, np.ndarray) or hasattr(v, "nbytes")
            for n in model.unet.weights.modules()
            for v in n._cache.values()
        )

    assert kept(low) == 0
    assert kept(usual) > 50
