"""Small torch checkpoints as torch itself writes them, with the values that torch itself reads back from them.

Run as `python tests/golden/make_checkpoints.py`; it writes `tests/golden/checkpoints/`.
"""

import json
import sys
from collections import Counter, OrderedDict, defaultdict
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from provenance import save_golden

HERE = Path(__file__).parent / "checkpoints"
DTYPES = "float64 float32 float16 bfloat16 int64 int32 int16 int8 uint8 bool".split()
NEW_DTYPES = "uint16 uint32 uint64".split()  # torch cannot read them back from its legacy format


def every_dtype(dtypes):
    values = torch.arange(6).reshape(2, 3)
    return OrderedDict(
        (f"weight.{name}", (values % 2 if name == "bool" else values).to(getattr(torch, name))) for name in dtypes
    )


def views():
    torch.manual_seed(0)
    base = torch.randn(4, 6)
    module = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 3), torch.nn.GroupNorm(1, 3), torch.nn.BatchNorm2d(3))
    named = torch.nn.Parameter(torch.randn(2))
    named.note = "a Python attribute on a parameter"
    return {
        "base": base,
        "again": base,
        "transposed": base.T,
        "every_second": base[::2, 1::2],
        "row": base[2],
        "one": base[3, 5],
        "expanded": base[0, :1].expand(5),
        "empty": base[:0],
        "scalar": torch.tensor(3.25),
        "channels_last": torch.randn(1, 3, 2, 2).to(memory_format=torch.channels_last),
        "half": torch.randn(3, 2).half().T,
        "parameter": torch.nn.Parameter(torch.randn(3)),
        "with_attribute": named,
        "module": module.state_dict(),
        "list": [torch.ones(1), (torch.zeros(2), {"deep": torch.full((1,), 7)})],
    }


def framework_class(path):
    """A class that pickles under the name of a training framework's, without the framework."""
    module_name, name = path.rsplit(".", 1)
    for depth in range(1, module_name.count(".") + 2):
        part = ".".join(module_name.split(".")[:depth])
        sys.modules.setdefault(part, ModuleType(part))
    cls = type(name, (dict,) if name == "AttributeDict" else (), {"__module__": module_name})
    setattr(sys.modules[module_name], name, cls)
    return cls


def training_run():
    torch.manual_seed(1)
    module = torch.nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(module.parameters())
    module(torch.ones(2)).sum().backward()
    optimizer.step()
    checkpoint = framework_class("pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint")
    attributes = framework_class("pytorch_lightning.utilities.parsing.AttributeDict")
    config = framework_class("omegaconf.dictconfig.DictConfig")()
    config._content = {"lr": 1e-4, "list": [1, 2]}
    return {
        "epoch": 3,
        "global_step": np.int64(12),
        "loss": np.float32(0.5),
        "state_dict": module.state_dict(),
        "optimizer_states": [optimizer.state_dict()],
        "lr_schedulers": [{"milestones": Counter({5: 1}), "last": -1}],
        "callbacks": {checkpoint: {"best": np.float64(0.25), "dtype": torch.float16}},
        "hyper_parameters": attributes(lr=0.1, config=config),
        "rng": np.arange(4, dtype=np.uint32).reshape(2, 2),
        "odds": (None, True, 2**40, -1, 2**70, 1.5, b"bytes", {1, 2}, frozenset({3}), torch.Size([1, 2])),
        "device": torch.device("cpu"),
        "counts": defaultdict(int, {"a": 1}),
    }


def textual_inversion():
    torch.manual_seed(2)
    return {
        "string_to_token": {"*": torch.tensor(265)},
        "string_to_param": torch.nn.ParameterDict({"*": torch.nn.Parameter(torch.randn(2, 4))}),
        "name": "a-style",
        "step": 1000,
    }


def leaves(value, name=""):
    """The tensors of a structure under their joined names, by recursion over what torch itself loaded."""
    if isinstance(value, torch.Tensor):
        yield name, value.detach()
    elif isinstance(value, dict | torch.nn.ParameterDict):
        for key, child in value.items():
            yield from leaves(child, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list | tuple):
        for key, child in enumerate(value):
            yield from leaves(child, f"{name}.{key}" if name else str(key))


def main():
    HERE.mkdir(exist_ok=True)
    structures = {
        "dtypes": every_dtype(DTYPES),
        "new_dtypes": every_dtype(NEW_DTYPES),
        "views": views(),
        "training": training_run(),
        "inversion": textual_inversion(),
    }
    expected = {}
    for name, structure in structures.items():
        for kind, options in {
            "zip": {},
            "legacy": {"_use_new_zipfile_serialization": False},
            "protocol4": {"pickle_protocol": 4},
            "legacy4": {"_use_new_zipfile_serialization": False, "pickle_protocol": 4},
        }.items():
            if name in ("new_dtypes", "inversion") and "legacy" in kind:
                continue  # the legacy format would carry the source code of ParameterDict
            path = HERE / f"{name}_{kind}.pt"
            torch.save(structure, path, **options)
            loaded = torch.load(path, weights_only=False)
            for key, tensor in leaves(loaded.get("state_dict", loaded)):
                array = tensor.float().numpy() if tensor.dtype == torch.bfloat16 else tensor.numpy()
                array = np.frombuffer(array.tobytes(), np.uint8) if array.dtype in (bool, "u2", "i2", "i1") else array
                expected[f"{path.name}|{key}|{tensor.dtype}".replace("torch.", "")] = array
    first, second = "pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"
    torch.save({"a": torch.arange(3.0)}, HERE / first)
    torch.save({"b": torch.arange(4).half()}, HERE / second)
    index = {"metadata": {"total_size": 20}, "weight_map": {"a": first, "b": second}}
    (HERE / "pytorch_model.bin.index.json").write_text(json.dumps(index, indent=2) + "\n")
    save_golden("checkpoints/expected", expected, ("torch", "numpy"), seed=[0, 1, 2], config="see make_checkpoints.py")


if __name__ == "__main__":
    main()
