"""The recorder hooks by duck typing, so a stand-in for PyTorch is enough to test it."""

import numpy as np
import pytest

from tinyldm.errors import TinyldmError
from tinyldm.golden import Golden
from tinyldm.golden.torch_recorder import ARGUMENTS, TorchRecorder, call_arguments, module_runner, to_numpy


class Tensor:
    """As much of a tensor as the recorder asks for."""

    def __init__(self, value, dtype="torch.float32"):
        self.value, self.dtype = np.asarray(value), dtype
        self.shape = self.value.shape

    def detach(self):
        return self

    cpu = detach

    def float(self):
        return Tensor(self.value)

    def numpy(self):
        assert self.dtype != "torch.bfloat16", "NumPy has no bfloat16"
        return self.value

    def is_floating_point(self):
        return True

    def to(self, dtype):
        return Tensor(self.value, dtype)

    def __len__(self):
        return len(self.value)


class Module:
    def __init__(self, function=None, **children):
        self.function, self.children = function, children
        self.before, self.after = [], []

    def named_modules(self, prefix=""):
        yield prefix, self
        for name, child in self.children.items():
            yield from child.named_modules(f"{prefix}.{name}" if prefix else name)

    def parameters(self):
        return iter([])

    def _register(self, hooks, hook):
        hooks.append(hook)
        return type("Handle", (), {"remove": lambda _: hooks.remove(hook)})()

    def register_forward_pre_hook(self, hook, with_kwargs):
        return self._register(self.before, hook)

    def register_forward_hook(self, hook, with_kwargs):
        return self._register(self.after, hook)

    def __call__(self, *args, **kwargs):
        for hook in list(self.before):
            hook(self, args, kwargs)
        y = self.function(self, *args, **kwargs)
        for hook in list(self.after):
            hook(self, args, kwargs, y)
        return y


class UNet2DConditionModel(Module):
    pass


class Dropout(Module):
    pass


def double(self, x):
    return Tensor(x.value * 2, x.dtype)


def forward(self, sample, timestep, encoder_hidden_states):
    h = self.children["conv"](sample)
    h = self.children["act"](self.children["act"](h))
    return (self.children["drop"](h),)


def unet():
    return UNet2DConditionModel(forward, conv=Module(double), act=Module(double), drop=Dropout(double))


def call(model, dtype="torch.float32"):
    z = Tensor(np.ones((2, 1, 2, 2), np.float32), dtype)
    return model(z, Tensor(np.int64(7), "torch.int64"), encoder_hidden_states=Tensor(np.zeros((2, 3, 4), np.float32)))


def test_steps_calls_boundaries_and_inputs(tmp_path):
    model = unet()
    with TorchRecorder(tmp_path / "a", inputs=True, unet=model):
        call(model)
        call(model)
    with Golden(tmp_path / "a") as golden:
        step = ["0000/unet:z", "0000/unet:t", "0000/unet:context", "0000/unet/conv", "0000/unet/act"]
        step += ["0000/unet/act#2", "0000/unet:epsilon"]
        assert golden.order == [*step, *(key.replace("0000", "0001") for key in step)]
        assert golden.inputs["0000/unet/act#2"] == ["0000/unet/act"]
        assert golden["0000/unet:t"].tolist() == [7, 7]
        assert (golden["0001/unet/act#2"] == 8).all()
    assert not model.before
    assert not model.children["conv"].after


def test_bfloat16_is_stored_as_such(tmp_path):
    model = unet()
    with TorchRecorder(tmp_path / "a", unet=model, select="*/conv"):
        call(model, "torch.bfloat16")
    with Golden(tmp_path / "a") as golden:
        assert golden.order == ["0000/unet/conv"]
        assert golden.dtype("0000/unet/conv") == "BF16"
        assert (golden["0000/unet/conv"] == 2).all()


def test_a_component_without_a_call_of_its_own_counts_steps_by_its_first_module(tmp_path):
    class AutoencoderKL(Module):
        def decode(self, z):
            return self.children["decoder"](self.children["post_quant_conv"](z))

    vae = AutoencoderKL(None, post_quant_conv=Module(double), decoder=Module(double))
    with TorchRecorder(tmp_path / "a", vae=vae):
        for _ in range(2):
            vae.decode(Tensor(np.ones(3, np.float32)))
    with Golden(tmp_path / "a") as golden:
        names = [":decode.z", "/post_quant_conv", "/decoder", ":decode.pixels"]
        assert golden.order == [f"{step}/vae{name}" for step in ("0000", "0001") for name in names]


def encoder():
    class CLIPTextModel(Module):
        pass

    def call(self, ids):
        return self.children["layer"](
            Tensor(ids.value + self.children["position_embedding"](Tensor(np.ones((1, 3)))).value)
        )

    return CLIPTextModel(call, position_embedding=Module(double), layer=Module(double))


@pytest.mark.parametrize("guidance", ["text", None])
def test_the_two_halves_of_the_guidance_are_one_batch(tmp_path, guidance):
    text, net = encoder(), unet()
    prompt, negative = Tensor(np.array([[1, 2, 3]])), Tensor(np.array([[7, 8, 9]]))
    with TorchRecorder(tmp_path / "a", guidance=guidance, inputs=True, text=text, unet=net):
        text(prompt)
        text(negative)
        call(net)
    with Golden(tmp_path / "a") as golden:
        assert golden.order[:4] == [
            "0000/text:ids",
            "0000/text/position_embedding",
            "0000/text/layer",
            "0000/text:context",
        ]
        assert golden.order[4] == "0000/unet:z"
        assert golden["0000/text:ids"].tolist() == [[7, 8, 9], [1, 2, 3]]
        assert golden["0000/text/layer"].tolist() == [[18, 20, 22], [6, 8, 10]]
        assert golden["0000/text/position_embedding"].shape == (1, 3)
        assert golden[golden.inputs["0000/text/layer"][0]].tolist() == [[9, 10, 11], [3, 4, 5]]


@pytest.mark.parametrize(("calls", "guidance"), [(1, "text"), (3, "text"), (3, None), (2, "")])
def test_any_other_number_of_calls_is_recorded_as_it_is(tmp_path, calls, guidance):
    text = encoder()
    with TorchRecorder(tmp_path / "a", guidance=guidance, text=text):
        for _ in range(calls):
            text(Tensor(np.array([[1, 2, 3]])))
    with Golden(tmp_path / "a") as golden:
        assert [key for key in golden.order if key.endswith("ids")] == [f"{i:04d}/text:ids" for i in range(calls)]
        assert golden["0000/text:ids"].shape == (1, 3)


def test_guidance_of_what_is_not_recorded(tmp_path):
    with pytest.raises(TinyldmError, match="guidance names 'text'"):
        TorchRecorder(tmp_path / "a", guidance="text", unet=unet())


def test_the_blocks_of_diffusers_are_given_their_arguments():
    kinds = {name: type(name, (), {})() for name in [*ARGUMENTS, "Other"]}
    assert call_arguments(kinds["Other"], [1]) == ([1], {})
    assert call_arguments(kinds["Other"], [1, 2]) is None
    assert call_arguments(kinds["ResnetBlock2D"], [1, 2]) == ([], {"input_tensor": 1, "temb": 2})
    assert call_arguments(kinds["ResnetBlock2D"], [1]) == ([], {"input_tensor": 1, "temb": None})
    wanted = {"hidden_states": 1, "res_hidden_states_tuple": (2, 3), "temb": 4}
    assert call_arguments(kinds["UpBlock2D"], [1, 2, 3, 4, 5]) == ([], wanted)
    assert call_arguments(kinds["CrossAttnUpBlock2D"], [1, 2, 3, 4, 5])[1]["encoder_hidden_states"] == 5
    assert call_arguments(kinds["DownBlock2D"], [1, 2, 3]) == ([], {"hidden_states": 1, "temb": 2})
    assert call_arguments(kinds["UpBlock2D"], [1, 2]) is None
    assert call_arguments(kinds["CLIPEncoderLayer"], [1, 2]) == ([], {"hidden_states": 1, "attention_mask": 2})


def test_nothing_recorded_is_an_error(tmp_path):
    def record():
        with TorchRecorder(tmp_path / "a", unet=unet(), select="nothing*") as recorder:
            assert recorder

    with pytest.raises(TinyldmError, match="nothing was recorded"):
        record()
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_module_is_refused(tmp_path):
    with pytest.raises(TinyldmError, match="not a tree"):
        TorchRecorder(tmp_path / "a", unet=3)
    with pytest.raises(TinyldmError, match="name the modules"):
        TorchRecorder(tmp_path / "a")


def test_a_runner_runs_the_modules_that_it_can():
    run = module_runner(Tensor, unet=unet())
    x = np.ones(3, np.float32)
    np.testing.assert_array_equal(to_numpy(run("0000/unet/conv", [x]))[0], x * 2)
    np.testing.assert_array_equal(to_numpy(run("0000/unet/act#2", [x]))[0], x * 2)
    assert run("0000/unet/conv", [x, x]) is None
    assert run("0000/unet/nothing", [x]) is None
    assert run("0000/vae/conv", [x]) is None
    assert run("0000/unet:z", []) is None
