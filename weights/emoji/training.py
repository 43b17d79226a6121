"""What the training scripts share: schedule, one step on threads or on an accelerator, averages, checkpoints."""

import argparse
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from pathlib import Path
from typing import Any

import data
import torch
from torch import Tensor, nn

SAVE_EVERY = 120.0  # seconds between checkpoints on disk
LOG_EVERY = 10.0  # seconds between log lines
Loss = Callable[..., tuple[Tensor, Tensor]]  # of a replica and a batch: the loss, and the figure that is logged


def add_training_arguments(
    parser: argparse.ArgumentParser, *, steps: int, decay: float, lr: float, batch: int, part: int
) -> None:
    data.add_data_arguments(parser)
    parser.add_argument("--work", type=Path, required=True, help="folder for checkpoints; a run resumes from it")
    parser.add_argument("--steps", type=int, default=steps, help="last step; may be changed on resume (%(default)s)")
    parser.add_argument("--seconds", type=float, help="train for so long instead, whatever the steps")
    parser.add_argument("--decay", type=float, default=decay, help="part of the run that is decay (%(default)s)")
    parser.add_argument("--lr", type=float, default=lr, help="peak learning rate (%(default)s)")
    parser.add_argument("--batch", type=int, default=batch, help="pictures a step (%(default)s)")
    parser.add_argument("--part", type=int, default=part, help="pictures a thread takes at a time (%(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2, help="of a processor (%(default)s)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="(%(default)s)")


def step_generator(seed: int, step: int, device: torch.device | str = "cpu") -> torch.Generator:
    """All chance of a step comes from this, so a resumed run draws what an uninterrupted one would."""
    return torch.Generator(device).manual_seed(seed * 1_000_000 + step)


def trained(module: nn.Module) -> list[nn.Parameter]:
    """The parameters that are not frozen."""
    return [parameter for parameter in module.parameters() if parameter.requires_grad]


class Threads:
    """A step on a processor: passes of one batch on several threads, each with its own gradients and shared weights.

    A batch is cut into parts and each thread takes the next one when it is free. Threads meet once a step, not in
    every operator, so a processor that others also use costs its own time only. (The order in which the parts'
    gradients are added is left to chance: two runs differ by rounding.)
    """

    def __init__(self, module: nn.Module, optimizer: torch.optim.Optimizer, threads: int, part: int) -> None:
        torch.set_num_threads(1)
        self.part, self.optimizer = part, optimizer
        self.replicas = [module] + [deepcopy(module) for _ in range(threads - 1)]
        for replica in self.replicas:
            for parameter, shared in zip(replica.parameters(), module.parameters(), strict=True):
                parameter.data = shared.data
        self.pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))

    def __call__(self, loss_of: Loss, *batch: Tensor) -> Tensor:
        """One step down the gradient of the mean loss; returns the mean figure."""
        parts = deque(zip(*(tensor.split(self.part) for tensor in batch), strict=True))
        count = len(parts)

        def work(replica: nn.Module) -> Tensor:
            total = torch.zeros(())
            replica.zero_grad()
            while True:
                try:
                    part = parts.popleft()
                except IndexError:
                    return total
                loss, figure = loss_of(replica, *part)
                (loss / count).backward()
                total += figure.detach() / count

        figure = torch.stack(list(self.pool.map(work, self.replicas))).sum()
        first, *others = (g for g in ([p.grad for p in trained(r)] for r in self.replicas) if g[0] is not None)
        for other in others:
            torch._foreach_add_(first, other)
        for parameter, gradient in zip(trained(self.replicas[0]), first, strict=True):
            parameter.grad = gradient
        nn.utils.clip_grad_norm_(trained(self.replicas[0]), 1.0)
        self.optimizer.step()
        return figure


class Graph:
    """A step on an accelerator, recorded once as a CUDA graph and played back: no time goes into launching kernels."""

    def __init__(self, module: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self.module, self.optimizer = module, optimizer
        self.graph: torch.cuda.CUDAGraph | None = None
        self.inputs: tuple[Tensor, ...] = ()
        self.figure = torch.zeros((), device="cuda")

    def step(self, loss_of: Loss) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        loss, figure = loss_of(self.module, *self.inputs)
        loss.backward()
        nn.utils.clip_grad_norm_(trained(self.module), 1.0)
        self.optimizer.step()
        self.figure.copy_(figure.detach())

    def record(self, loss_of: Loss, batch: tuple[Tensor, ...]) -> None:
        """Warm up and record, at a learning rate of 0 and with the optimizer's state put back."""
        self.inputs = tuple(tensor.clone() for tensor in batch)
        rates = [group["lr"].clone() for group in self.optimizer.param_groups]
        saved = deepcopy(self.optimizer.state_dict()["state"])
        for group in self.optimizer.param_groups:
            group["lr"].zero_()
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                self.step(loss_of)
        torch.cuda.current_stream().wait_stream(stream)
        self.graph = torch.cuda.CUDAGraph()
        self.optimizer.zero_grad(set_to_none=True)
        with torch.cuda.graph(self.graph):
            self.step(loss_of)
        with torch.no_grad():
            for i, state in enumerate(
                self.optimizer.state[p] for g in self.optimizer.param_groups for p in g["params"]
            ):
                for name, value in state.items():
                    value.copy_(saved[i][name]) if saved else value.zero_()
            for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
                group["lr"].copy_(rate)

    def __call__(self, loss_of: Loss, *batch: Tensor) -> Tensor:
        if self.graph is None:
            self.record(loss_of, batch)
        for own, tensor in zip(self.inputs, batch, strict=True):
            own.copy_(tensor)
        assert self.graph is not None
        self.graph.replay()
        return self.figure


class Average:
    """Exponential moving average of a module's parameters, with a shorter memory in the first steps.

    Updated every fourth step with the fourth power of the decay: the same average to the eye, a quarter of the work.
    """

    EVERY = 4

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.source = list(module.parameters())
        self.mean = [p.detach().clone() for p in self.source]

    @torch.no_grad()
    def update(self, step: int) -> None:
        if step % self.EVERY:
            return
        weight = 1.0 - min(self.decay, (1 + step) / (10 + step)) ** self.EVERY
        torch._foreach_lerp_(self.mean, self.source, weight)


@torch.no_grad()
def load_average(module: nn.Module, saved: list[Tensor]) -> None:
    """Give a module the averaged parameters of a checkpoint."""
    for parameter, mean in zip(module.parameters(), saved, strict=True):
        parameter.copy_(mean)


def make_optimizer(groups: list[dict[str, Any]], device: str, weight_decay: float = 1e-4) -> torch.optim.Optimizer:
    """AdamW over groups of parameters, each with a `scale` of its learning rate."""
    if torch.device(device).type == "cuda":
        groups = [{"scale": 1.0, **group, "lr": torch.zeros((), device=device)} for group in groups]
        return torch.optim.AdamW(groups, betas=(0.9, 0.99), weight_decay=weight_decay, fused=True, capturable=True)
    groups = [{"scale": 1.0, **group} for group in groups]
    return torch.optim.AdamW(groups, betas=(0.9, 0.99), weight_decay=weight_decay, fused=True)


class Run:
    """A resumable run: counts steps and time, logs, and writes checkpoints by atomic renames."""

    def __init__(self, path: Path, module: nn.Module, optimizer: torch.optim.Optimizer, average: Average) -> None:
        self.path, self.module, self.optimizer, self.average = path, module, optimizer, average
        self.step, self.wall_seconds, self.cpu_seconds = 0, 0.0, 0.0
        if path.exists():
            self.load()
        self.wall_start = time.monotonic() - self.wall_seconds
        self.cpu_start = time.process_time() - self.cpu_seconds
        self.saved_at = self.logged_at = time.monotonic()

    def load(self) -> None:
        state = torch.load(self.path, map_location=self.average.mean[0].device, weights_only=True)
        self.module.load_state_dict(state["module"])
        self.optimizer.load_state_dict(state["optimizer"])
        for mean, saved in zip(self.average.mean, state["average"], strict=True):
            mean.copy_(saved)
        self.step, self.wall_seconds, self.cpu_seconds = state["step"], state["wall_seconds"], state["cpu_seconds"]
        print(f"resumed at step {self.step}", flush=True)

    def clock(self) -> None:
        self.wall_seconds = time.monotonic() - self.wall_start
        self.cpu_seconds = time.process_time() - self.cpu_start

    def save(self) -> None:
        self.clock()
        state = {
            "module": self.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average.mean,
            "step": self.step,
            "wall_seconds": self.wall_seconds,
            "cpu_seconds": self.cpu_seconds,
        }
        self.path.parent.mkdir(parents=True, exist_ok=True)
        partial = self.path.with_suffix(".partial")
        torch.save(state, partial)
        partial.replace(self.path)
        self.saved_at = time.monotonic()

    def progress(self, arguments: argparse.Namespace) -> float:
        """The part of the run that is over, from 0 to 1: of its time where it has `--seconds`, or of its steps."""
        if arguments.seconds is None:
            return self.step / arguments.steps
        return (time.monotonic() - self.wall_start) / arguments.seconds

    def steps(self, arguments: argparse.Namespace, warmup: int = 100) -> Iterator[tuple[int, float]]:
        """The steps still to do, each with the part that is over; sets the learning rates, logs and saves.

        Warm-up, constant, linear decay to zero: the end may be moved while a run is constant. SIGTERM saves and ends.
        """
        stop: list[int] = []
        signal.signal(signal.SIGTERM, lambda number, frame: stop.append(number))
        while (over := self.progress(arguments)) < 1 and not stop:
            rate = arguments.lr * min(1.0, (self.step + 1) / warmup, (1 - over) / arguments.decay)
            for group in self.optimizer.param_groups:
                value = rate * group["scale"]
                group["lr"].fill_(value) if isinstance(group["lr"], Tensor) else group.update(lr=value)
            yield self.step, over
            self.average.update(self.step)
            self.step += 1
            if time.monotonic() - self.saved_at > SAVE_EVERY:
                self.save()
        self.save()

    def note(self, figure: Tensor) -> None:
        """Log a figure now and then; that is also when an accelerator is waited for."""
        if time.monotonic() - self.logged_at < LOG_EVERY:
            if self.step % 16 == 0 and figure.is_cuda:
                torch.cuda.synchronize()
            return
        self.clock()
        times = f"wall {self.wall_seconds:.0f} s cpu {self.cpu_seconds:.0f} s"
        print(f"{self.path.stem}: step {self.step} figure {figure.item():.5f} {times}", flush=True)
        self.logged_at = time.monotonic()


def train(
    name: str,
    module: nn.Module,
    batch_of: Callable[[int, float], tuple[Tensor, ...]],
    loss_of: Loss,
    arguments: argparse.Namespace,
    *,
    average: float,
    groups: list[dict[str, Any]] | None = None,
    weight_decay: float = 1e-4,
) -> None:
    """The loop of every recipe, from its checkpoint `name`.pt on, if there is one.

    `batch_of(step, over)` gives tensors on the device; `loss_of(replica, *tensors)` a loss and a figure.
    """
    device = arguments.device
    optimizer = make_optimizer(groups or [{"params": trained(module)}], device, weight_decay)
    run = Run(arguments.work / f"{name}.pt", module, optimizer, Average(module, average))
    cuda = torch.device(device).type == "cuda"
    step_of = Graph(module, optimizer) if cuda else Threads(module, optimizer, arguments.threads, arguments.part)
    if cuda:
        torch.backends.cudnn.benchmark = True
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
        step_of.record(loss_of, batch_of(run.step, 0.0))
        run.wall_start = time.monotonic() - run.wall_seconds
    figure = torch.zeros(())
    for step, over in run.steps(arguments):
        figure = step_of(loss_of, *batch_of(step, over))
        run.note(figure)
    run.clock()
    print(
        f"{name}: {run.step} steps, {run.wall_seconds:.0f} s of wall, {run.cpu_seconds:.0f} s of processor time",
        flush=True,
    )


class HalfGroupNorm(nn.GroupNorm):
    """Group norm in the dtype of its input: autocast would make float32 of every activation."""

    def forward(self, x: Tensor) -> Tensor:
        if x.dtype != torch.bfloat16:
            return super().forward(x)
        with torch.autocast(x.device.type, enabled=False):
            weight, bias = (None if p is None else p.to(x.dtype) for p in (self.weight, self.bias))
            return nn.functional.group_norm(x, self.num_groups, weight, bias, self.eps)


def halved_norms(module: nn.Module) -> nn.Module:
    """The module with `HalfGroupNorm` in place of its group norms."""
    for part in module.modules():
        if type(part) is nn.GroupNorm:
            part.__class__ = HalfGroupNorm
    return module
