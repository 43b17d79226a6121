"""Side by side with PyTorch, OpenVINO and ONNX Runtime: Stable Diffusion 1.5's architecture, random weights, float32.

    pip install ".[bench]" && python tests/bench/side_by_side.py -o docs/speed.md
    python tests/bench/side_by_side.py --precision bf16 -o docs/speed.md

tinyldm is measured beside one peer after the other: the two (beside PyTorch, `precision="strict"` too) take turns,
A B A B …, in processes of their own that stay alive, and the ratio is the median of the rounds' ratios. With
`--precision bf16` the peers compute in bfloat16 (ONNX Runtime does not), and tinyldm's own "fast" takes part, too.
Peers are built or exported from diffusers' and transformers' own classes, one network at a time, so that 24 GB of
memory are enough.
It takes an hour; with `--keep FILE` it can be ended after a peer and goes on with the next.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
from bench.page import setting, table, write_section

Run = Callable[[], Any]
Seconds = dict[str, dict[str, list[float]]]  # by work and by process, one for each round
Shares = dict[str, dict[str, float]]  # by work and operator, of the time

WORKS = ["text encoder, 2 prompts", "UNet, batch 1", "UNet, batch 2 (one guided step)", "VAE decode", "VAE encode"]
SIZE = 512
OURS = "tinyldm"
PRECISIONS = {"f32": "fast", "bf16": "bf16"}  # tinyldm's own names
BESIDE = {"f32": "strict", "bf16": "fast"}  # what else of tinyldm is measured beside PyTorch
TYPES = {"f32": "float32", "bf16": "products of bfloat16"}
OTHER = {precision: f"tinyldm {name}" for precision, name in BESIDE.items()}
SECTIONS = {"f32": "side_by_side.py", "bf16": "side_by_side.py --precision bf16"}  # of the page
TITLES = {"torch": "PyTorch", "openvino": "OpenVINO", "onnxruntime": "ONNX Runtime"}

# The peers: each a function that makes, of a work's name, what is timed ---------------------------------------------


class Tinyldm:
    """The networks of tinyldm; of those that are not being timed, no weights are kept."""

    def __init__(self, threads: int, precision: str) -> None:
        from tinyldm.architectures import random_model
        from tinyldm.runtime import Runtime

        self.model = random_model("sd15", Runtime("numba", threads=threads, precision=precision))

    def __call__(self, work: str) -> Any:
        """The work, with the other networks' weights dropped."""
        from tinyldm.bench import workloads

        for network in self.model.networks.values():
            network.weights.drop()
        return workloads(self.model, SIZE, SIZE)[work]

    def shares(self, run: Any) -> dict[str, float]:
        """The share of the time by operator, from one run."""
        from tinyldm.bench import by_operator

        timings = by_operator(run)
        whole = sum(t.seconds for t in timings)
        return {t.name: t.seconds / whole for t in timings}


def original(work: str) -> tuple[Any, tuple[Any, ...]]:
    """The original's module with random weights for a work, and its inputs."""
    import torch
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    from tinyldm.architectures import ARCHITECTURES

    class First(torch.nn.Module):
        """A module that calls a method of another one and gives the tensor that matters."""

        def __init__(self, net: Any, call: Callable[..., Any]) -> None:
            super().__init__()
            self.net, self.call = net, call

        def forward(self, *inputs: Any) -> Any:
            return self.call(self.net, *inputs)

    torch.manual_seed(0)
    published = {name: config for name, (_, config) in ARCHITECTURES["sd15"].items()}
    if work.startswith("text"):
        net = CLIPTextModel(CLIPTextConfig(**published["text_encoder"])).eval()
        return First(net, lambda net, ids: net(ids)[0]), (torch.randint(0, 49408, (2, 77)),)
    if work.startswith("UNet"):
        n = 1 if "batch 1" in work else 2
        inputs = torch.randn(n, 4, SIZE // 8, SIZE // 8), torch.tensor(500), torch.randn(n, 77, 768)
        net = UNet2DConditionModel(**published["unet"]).eval()
        return First(net, lambda net, z, t, context: net(z, t, context, return_dict=False)[0]), inputs
    net = AutoencoderKL(**published["vae"]).eval()
    if work == "VAE decode":
        net.encoder = None
        inputs = (torch.randn(1, 4, SIZE // 8, SIZE // 8),)
        return First(net, lambda net, z: net.decode(z, return_dict=False)[0]), inputs
    net.decoder = None
    inputs = (torch.rand(1, 3, SIZE, SIZE) * 2 - 1,)
    return First(net, lambda net, x: net.encode(x, return_dict=False)[0].mean), inputs


def pytorch(threads: int, precision: str) -> Callable[[str], Run]:
    """PyTorch, as it is; in bfloat16, all weights and activations."""
    import torch

    torch.set_num_threads(threads)

    def make(work: str) -> Run:
        module, inputs = original(work)
        if precision == "bf16":
            module = module.to(torch.bfloat16)
            inputs = tuple(x.to(torch.bfloat16) if x.is_floating_point() else x for x in inputs)

        def run() -> Any:
            with torch.inference_mode():
                return module(*inputs)

        return run

    return make


def openvino(threads: int, precision: str) -> Callable[[str], Run]:
    """OpenVINO, converted from the PyTorch module, with the hint for that precision."""
    import openvino
    import torch

    options = {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}

    def make(work: str) -> Run:
        module, inputs = original(work)
        with torch.no_grad():
            converted = openvino.convert_model(module, example_input=inputs)
        shapes = {port: openvino.PartialShape(list(x.shape)) for port, x in zip(converted.inputs, inputs, strict=True)}
        converted.reshape(shapes)
        compiled = openvino.Core().compile_model(converted, "CPU", options)
        arrays = [x.numpy() for x in inputs]
        return lambda: compiled(arrays)

    return make


def onnxruntime(threads: int, precision: str) -> Callable[[str], Run]:
    """ONNX Runtime, exported from the PyTorch module: float32 only."""
    import onnxruntime
    import torch

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads

    def make(work: str) -> Run:
        module, inputs = original(work)
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "model.onnx"
            torch.onnx.export(module, inputs, str(file), dynamo=False, external_data=True)
            session = onnxruntime.InferenceSession(str(file), options, ["CPUExecutionProvider"])
        feed = {node.name: x.numpy() for node, x in zip(session.get_inputs(), inputs, strict=True)}
        return lambda: session.run(None, feed)

    return make


MAKERS: dict[str, Callable[[int, str], Any]] = {
    OURS: lambda threads, precision: Tinyldm(threads, PRECISIONS[precision]),
    **{name: lambda threads, precision: Tinyldm(threads, BESIDE[precision]) for name in OTHER.values()},
    "torch": pytorch,
    "openvino": openvino,
    "onnxruntime": onnxruntime,
}

# Taking turns ---------------------------------------------------------------------------------------------------------


def serve(peer: str, threads: int, precision: str, pipe: Connection) -> None:
    """A process that runs the works it is told to, and answers with the seconds, or with the shares of operators."""
    os.environ["OMP_NUM_THREADS"] = str(threads)
    make = MAKERS[peer](threads, precision)
    ready, run = None, None
    while (asked := pipe.recv()) is not None:
        work, shares = asked
        if work != ready:
            run = None  # a peer's copy of the network before the next is made
            ready, run = work, make(work)
        start = time.perf_counter()
        answer = make.shares(run) if shares else run()
        pipe.send(answer if shares else time.perf_counter() - start)


def measure(peers: list[str], works: list[str], rounds: int, threads: int, precision: str) -> tuple[Seconds, Shares]:
    """Seconds by work and peer, one a round, after a round that is not counted; and tinyldm's shares of operators."""
    context = multiprocessing.get_context("spawn")
    pipes, processes = {}, []
    for peer in peers:
        pipes[peer], theirs = context.Pipe()
        processes.append(context.Process(target=serve, args=(peer, threads, precision, theirs), daemon=True))
        processes[-1].start()
        theirs.close()  # so that a process that ends is noticed
    seconds: Seconds = {}
    shares: Shares = {}
    for work in works:
        seconds[work] = {peer: [] for peer in peers}
        for i in range(rounds + 1):
            for peer, pipe in pipes.items():
                pipe.send((work, False))
                try:
                    taken = pipe.recv()
                except EOFError:
                    raise SystemExit(f"{peer}: its process ended at {work}; what it said is above") from None
                if i:
                    seconds[work][peer].append(taken)
            times = ", ".join(f"{peer} {s[-1]:.2f} s" for peer, s in seconds[work].items() if s)
            print(f"{work}: round {i} of {rounds} {times}", file=sys.stderr)
        pipes[OURS].send((work, True))
        shares[work] = pipes[OURS].recv()
    for pipe, process in zip(pipes.values(), processes, strict=True):
        pipe.send(None)
        process.join()
    return seconds, shares


# The page -------------------------------------------------------------------------------------------------------------


def results(measured: dict[str, Seconds], other: str) -> tuple[str, str]:
    """Two tables: the medians of the seconds, and the ratios; `other` is what else of tinyldm was measured."""
    works = list(next(iter(measured.values())))
    first = next(iter(measured))
    times, ratios = [["work", "tinyldm"], *([work] for work in works)], [["work"], *([work] for work in works)]
    for row, work in zip(times[1:], works, strict=True):
        row.append(f"{statistics.median(measured[first][work][OURS]):.2f} s")
    for peer, seconds in measured.items():
        columns = [(OURS, peer), *([(other, peer)] if other in seconds[works[0]] else [])]
        for name in [peer, *([other] if len(columns) > 1 else [])]:
            times[0].append(TITLES.get(name, name))
            for row, work in zip(times[1:], works, strict=True):
                row.append(f"{statistics.median(seconds[work][name]):.2f} s")
        for ours, theirs in columns:
            ratios[0].append(f"{ours} / {TITLES[theirs]}")
            for row, work in zip(ratios[1:], works, strict=True):
                pairs = zip(seconds[work][ours], seconds[work][theirs], strict=True)
                row.append(f"{statistics.median(a / b for a, b in pairs):.2f}")
    return table(times[0], times[1:]), table(ratios[0], ratios[1:])


def by_operator(shares: Shares) -> str:
    """A table of the share of the time by operator; what takes less than 0.5 % everywhere is left out."""
    names = sorted(
        {n for work in shares.values() for n in work}, key=lambda n: -max(w.get(n, 0) for w in shares.values())
    )
    names = [n for n in names if max(work.get(n, 0) for work in shares.values()) >= 0.005]
    rows = [[f"`{n}`", *(f"{work[n]:.1%}" if n in work else "" for work in shares.values())] for n in names]
    return table(["operator", *shares], rows)


def main() -> None:
    """Measure, print, and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", nargs="+", default=list(TITLES), choices=TITLES)
    parser.add_argument("--precision", default="f32", choices=PRECISIONS)
    parser.add_argument("--works", nargs="+", default=WORKS, choices=WORKS, metavar="WORK")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--keep", type=Path, help="JSON of what was measured; peers that are in it are not run again")
    parser.add_argument("-o", "--output", type=Path, help="Markdown page whose part is replaced")
    args = parser.parse_args()
    if args.precision == "bf16":
        args.peers = [peer for peer in args.peers if peer != "onnxruntime"]
    asked = {"machine": setting(args.threads, [], TYPES[args.precision]), "works": args.works, "rounds": args.rounds}
    asked |= {"precision": args.precision}
    kept = json.loads(args.keep.read_text()) if args.keep and args.keep.exists() else {**asked, "peers": {}}
    if different := [name for name in asked if kept.get(name) != asked[name]]:
        raise SystemExit(f"{args.keep}: has another {', '.join(different)}; wanted the same, or a new file")
    for peer in args.peers:
        if peer not in kept["peers"]:
            group = [OURS, *([OTHER[args.precision]] if peer == "torch" else []), peer]
            kept["peers"][peer] = measure(group, args.works, args.rounds, args.threads, args.precision)
            if args.keep:
                args.keep.write_text(json.dumps(kept))
    measured: dict[str, Seconds] = {peer: kept["peers"][peer][0] for peer in args.peers}
    shares: Shares = kept["peers"][args.peers[0]][1]
    times, ratios = results(measured, OTHER[args.precision])
    page = [
        setting(args.threads, args.peers, TYPES[args.precision]),
        f"Medians of {args.rounds} rounds in which tinyldm and the peer take turns; a ratio below 1 is tinyldm faster.",
        "",
        ratios,
        "",
        times,
        "",
        "Where tinyldm's time goes, by operator:",
        "",
        by_operator(shares),
        "",
        f"Made by `python tests/bench/side_by_side.py --precision {args.precision} --peers {' '.join(args.peers)} "
        f"--rounds {args.rounds}`.",
    ]
    print("\n".join(page))
    if args.output:
        write_section(args.output, SECTIONS[args.precision], "\n".join(page))


if __name__ == "__main__":
    main()
