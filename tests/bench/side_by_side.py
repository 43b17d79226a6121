"""Side by side with PyTorch, OpenVINO and ONNX Runtime: Stable Diffusion 1.5's architecture, random weights, float32.

    pip install ".[bench]" && python tests/bench/side_by_side.py --peers torch openvino -o docs/side-by-side.md

Every peer and tinyldm run in turn, A B A B …, in processes of their own that stay alive, and the table shows medians
and the ratios of each round. Peers are exported or built from diffusers' own classes.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

Works = dict[str, Callable[[], Callable[[], Any]]]  # by name: what makes the function that is timed

WORKS = ["text encoder, 2 prompts", "UNet, batch 1", "UNet, batch 2 (one guided step)", "VAE decode", "VAE encode"]
SIZE = 512


def tinyldm_works(threads: int, precision: str) -> Works:
    """The works of tinyldm, by name."""
    from tinyldm.bench import random_model, workloads
    from tinyldm.nn import Runtime

    model = random_model("sd15", Runtime("numba", threads=threads, precision=precision))
    return {name: (lambda run=run: run) for name, (run, _) in workloads(model, SIZE, SIZE).items()}


def original_modules() -> dict[str, tuple[Any, tuple[Any, ...]]]:
    """PyTorch modules of the originals with random weights, and example inputs, by work."""
    import torch
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    from tinyldm.architectures import ARCHITECTURES

    torch.manual_seed(0)
    published = ARCHITECTURES["sd15"]
    text = CLIPTextModel(CLIPTextConfig(**published["text_encoder"])).eval()
    unet = UNet2DConditionModel(**published["unet"]).eval()
    vae = AutoencoderKL(**published["vae"]).eval()

    class Text(torch.nn.Module):
        def forward(self, ids):
            return text(ids)[0]

    class Unet(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.net = unet

        def forward(self, z, t, context):
            return self.net(z, t, context, return_dict=False)[0]

    class Decode(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.net = vae

        def forward(self, z):
            return self.net.decode(z, return_dict=False)[0]

    class Encode(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.net = vae

        def forward(self, x):
            return self.net.encode(x, return_dict=False)[0].mean

    z, t, context = torch.randn(2, 4, 64, 64), torch.tensor(500), torch.randn(2, 77, 768)
    wrapped = Text()
    wrapped.net = text
    network = Unet()
    return {
        WORKS[0]: (wrapped, (torch.randint(0, 49408, (2, 77)),)),
        WORKS[1]: (network, (z[:1], t, context[:1])),
        WORKS[2]: (network, (z, t, context)),
        WORKS[3]: (Decode(), (z[:1],)),
        WORKS[4]: (Encode(), (torch.rand(1, 3, SIZE, SIZE) * 2 - 1,)),
    }


def torch_works(threads: int) -> Works:
    """The works of PyTorch."""
    import torch

    torch.set_num_threads(threads)

    def work(module: Any, inputs: tuple[Any, ...]) -> Callable[[], Any]:
        def run() -> Any:
            with torch.inference_mode():
                return module(*inputs)

        return run

    return {name: partial(work, *entry) for name, entry in original_modules().items()}


def openvino_works(threads: int) -> Works:
    """The works of OpenVINO, converted from the PyTorch modules, with the float32 hint."""
    import openvino
    import torch

    core = openvino.Core()
    options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}

    def work(module: Any, inputs: tuple[Any, ...]) -> Callable[[], Any]:
        with torch.no_grad():
            converted = openvino.convert_model(module, example_input=inputs)
        shapes = {port: openvino.PartialShape(list(x.shape)) for port, x in zip(converted.inputs, inputs, strict=True)}
        converted.reshape(shapes)
        compiled, arrays = core.compile_model(converted, "CPU", options), [x.numpy() for x in inputs]
        return lambda: compiled(arrays)

    return {name: partial(work, *entry) for name, entry in original_modules().items()}


def onnxruntime_works(threads: int) -> Works:
    """The works of ONNX Runtime, exported from the PyTorch modules."""
    import tempfile

    import onnxruntime
    import torch

    folder = Path(tempfile.mkdtemp())
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads

    def work(i: int, module: Any, inputs: tuple[Any, ...]) -> Callable[[], Any]:
        file = folder / f"{i}.onnx"
        torch.onnx.export(module, inputs, str(file), dynamo=False, external_data=True)
        session = onnxruntime.InferenceSession(str(file), options, ["CPUExecutionProvider"])
        feed = {node.name: x.numpy() for node, x in zip(session.get_inputs(), inputs, strict=True)}
        return lambda: session.run(None, feed)

    return {name: partial(work, i, *entry) for i, (name, entry) in enumerate(original_modules().items())}


MAKERS: dict[str, Callable[[int], Works]] = {
    "tinyldm": lambda threads: tinyldm_works(threads, "fast"),
    "tinyldm strict": lambda threads: tinyldm_works(threads, "strict"),
    "torch": torch_works,
    "openvino": openvino_works,
    "onnxruntime": onnxruntime_works,
}


def serve(peer: str, threads: int, pipe: Connection) -> None:
    """A process that runs the works it is told to, and answers with the seconds."""
    os.environ["OMP_NUM_THREADS"] = str(threads)
    works = MAKERS[peer](threads)
    pipe.send("ready")
    ready, run = None, None
    while (name := pipe.recv()) is not None:
        if name != ready:
            run = None  # a peer's copy of the model before the next is made
            ready, run = name, works[name]()
        start = time.perf_counter()
        run()
        pipe.send(time.perf_counter() - start)


def measure(peers: list[str], works: list[str], rounds: int, threads: int) -> dict[str, dict[str, list[float]]]:
    """Seconds by work and peer, one for each round, after a round that is not counted."""
    context = multiprocessing.get_context("spawn")
    pipes = {}
    for peer in peers:
        ours, theirs = context.Pipe()
        context.Process(target=serve, args=(peer, threads, theirs), daemon=True).start()
        ours.recv()
        pipes[peer] = ours
    seconds: dict[str, dict[str, list[float]]] = {}
    for work in works:
        seconds[work] = {peer: [] for peer in peers}
        for i in range(rounds + 1):
            for peer, pipe in pipes.items():
                pipe.send(work)
                taken = pipe.recv()
                if i:
                    seconds[work][peer].append(taken)
            print(f"{work}: round {i} of {rounds}", file=sys.stderr)
    for pipe in pipes.values():
        pipe.send(None)
    return seconds


def table(seconds: dict[str, dict[str, list[float]]]) -> str:
    """A Markdown table: medians, and the median of the rounds' ratios to tinyldm's time."""
    peers = list(next(iter(seconds.values())))
    others = [p for p in peers if p != "tinyldm"]
    lines = ["| work | " + " | ".join([*(f"{p} s" for p in peers), *(f"tinyldm / {p}" for p in others)]) + " |"]
    lines.append("|---|" + "---|" * (len(peers) + len(others)))
    for work, by_peer in seconds.items():
        cells = [f"{statistics.median(by_peer[p]):.3f}" for p in peers]
        for p in others:
            ratios = [a / b for a, b in zip(by_peer["tinyldm"], by_peer[p], strict=True)]
            cells.append(f"{statistics.median(ratios):.2f}")
        lines.append(f"| {work} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", nargs="+", default=["torch"], choices=[p for p in MAKERS if p != "tinyldm"])
    parser.add_argument("--works", nargs="+", default=WORKS, choices=WORKS)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("-o", "--output", type=Path)
    args = parser.parse_args()
    seconds = measure(["tinyldm", *args.peers], args.works, args.rounds, args.threads)
    from importlib.metadata import version

    from tinyldm.kernels import target

    versions = ", ".join(f"{p} {version(p)}" for p in args.peers if " " not in p)
    page = (
        "# Side by side\n\n"
        "Stable Diffusion 1.5's architecture, random weights, float32, "
        f"{args.threads} threads of {platform.machine()} with {target().name} vectors; {versions}. "
        f"Medians of {args.rounds} rounds in which the peers alternate; a ratio below 1 is tinyldm being faster.\n\n"
        f"{table(seconds)}\n\nMade by `python tests/bench/side_by_side.py`.\n"
    )
    print(page)
    if args.output:
        args.output.write_text(page)


if __name__ == "__main__":
    main()
