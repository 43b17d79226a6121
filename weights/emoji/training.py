"""What the training scripts share: arguments, schedule, batches, averaged weights and checkpoints on disk."""

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
LOG_EVERY = 25  # steps between log lines


def add_training_arguments(
    parser: argparse.ArgumentParser, *, steps: int, decay: int, lr: float, batch: int, part: int
) -> None:
    data.add_data_arguments(parser)
    parser.add_argument("--work", type=Path, required=True, help="folder for checkpoints; a run resumes from it")
    parser.add_argument("--steps", type=int, default=steps, help="last step; may be changed on resume (%(default)s)")
    parser.add_argument("--decay", type=int, default=decay, help="steps of decay at the end (%(default)s)")
    parser.add_argument("--lr", type=float, default=lr, help="peak learning rate (%(default)s)")
    parser.add_argument("--batch", type=int, default=batch, help="pictures a step (%(default)s)")
    parser.add_argument("--part", type=int, default=part, help="pictures a thread takes at a time (%(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2, help="of a processor (%(default)s)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="(%(default)s)")


def learning_rate(step: int, arguments: argparse.Namespace, warmup: int = 100) -> float:
    """Warm-up, constant, linear decay to zero over the last steps: the end may be moved while a run is constant."""
    remaining = (arguments.steps - step) / max(arguments.decay, 1)
    return arguments.lr * min(1.0, (step + 1) / warmup, remaining)


def step_generator(seed: int, step: int) -> torch.Generator:
    """All chance of a step comes from this, so a resumed run draws what an uninterrupted one would."""
    return torch.Generator().manual_seed(seed * 1_000_000 + step)


def batch_indices(step: int, batch: int, count: int, seed: int) -> Tensor:  # -> (batch,) int64
    """The pictures of a step: every picture once an epoch, in a new order each epoch."""
    epoch, place = divmod(step, count // batch)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed * 1_000_000 + 500_000 + epoch))
    return order[place * batch : (place + 1) * batch]


def trained(module: nn.Module) -> list[nn.Parameter]:
    """The parameters that are not frozen."""
    return [parameter for parameter in module.parameters() if parameter.requires_grad]


class Workers:
    """Forward and backward passes of one batch on several threads, each with its own gradients and shared weights.

    On an accelerator there is one thread, which takes the parts one after the other.

    A batch is cut into parts and each thread takes the next one when it is free. Threads meet once a step, not in
    every operator, so a processor that others also use costs its own time only. (The order in which the parts'
    gradients are added is left to chance: two runs differ by rounding.)
    """

    def __init__(self, module: nn.Module, threads: int, part: int) -> None:
        torch.set_num_threads(1)
        self.part, self.device = part, next(module.parameters()).device
        threads = threads if self.device.type == "cpu" else 1
        self.replicas = [module] + [deepcopy(module) for _ in range(threads - 1)]
        for replica in self.replicas:
            for parameter, shared in zip(replica.parameters(), module.parameters(), strict=True):
                parameter.data = shared.data
        self.pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))

    def backward(self, loss_of: Callable[..., tuple[Tensor, float]], *batch: Tensor) -> float:
        """Set the module's gradients to those of the mean loss; `loss_of(replica, *part)` gives a loss and a figure.

        Returns the mean figure.
        """
        parts = deque(zip(*(tensor.to(self.device).split(self.part) for tensor in batch), strict=True))
        count = len(parts)

        def work(replica: nn.Module) -> float:
            total = 0.0
            replica.zero_grad()
            while True:
                try:
                    part = parts.popleft()
                except IndexError:
                    return total
                loss, figure = loss_of(replica, *part)
                (loss / count).backward()
                total += figure / count

        figure = sum(self.pool.map(work, self.replicas))
        first, *others = (g for g in ([p.grad for p in trained(r)] for r in self.replicas) if g[0] is not None)
        for other in others:
            torch._foreach_add_(first, other)
        for parameter, gradient in zip(trained(self.replicas[0]), first, strict=True):
            parameter.grad = gradient
        return figure


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


class Run:
    """A resumable run: counts steps and time, logs, and writes checkpoints by atomic renames."""

    def __init__(self, path: Path, module: nn.Module, optimizer: torch.optim.Optimizer, average: Average) -> None:
        self.path, self.module, self.optimizer, self.average = path, module, optimizer, average
        self.step, self.wall_seconds, self.cpu_seconds, self.running_loss = 0, 0.0, 0.0, 0.0
        if path.exists():
            self.load()
        self.wall_start = time.monotonic() - self.wall_seconds
        self.cpu_start = time.process_time() - self.cpu_seconds
        self.saved_at = time.monotonic()

    def load(self) -> None:
        state = torch.load(self.path, map_location=self.average.mean[0].device, weights_only=True)
        self.module.load_state_dict(state["module"])
        self.optimizer.load_state_dict(state["optimizer"])
        for mean, saved in zip(self.average.mean, state["average"], strict=True):
            mean.copy_(saved)
        self.step, self.wall_seconds, self.cpu_seconds = state["step"], state["wall_seconds"], state["cpu_seconds"]
        self.running_loss = state["running_loss"]
        print(f"resumed at step {self.step}", flush=True)

    def clock(self) -> None:
        self.wall_seconds = time.monotonic() - self.wall_start
        self.cpu_seconds = time.process_time() - self.cpu_start

    def save(self, **extra: Any) -> None:
        self.clock()
        state = {
            "module": self.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average.mean,
            "step": self.step,
            "wall_seconds": self.wall_seconds,
            "cpu_seconds": self.cpu_seconds,
            "running_loss": self.running_loss,
            **extra,
        }
        self.path.parent.mkdir(parents=True, exist_ok=True)
        partial = self.path.with_suffix(".partial")
        torch.save(state, partial)
        partial.replace(self.path)
        self.saved_at = time.monotonic()

    def steps(self, arguments: argparse.Namespace) -> Iterator[int]:
        """The steps still to do; sets the learning rate before each, logs and saves after. SIGTERM saves and ends."""
        stop: list[int] = []
        signal.signal(signal.SIGTERM, lambda number, frame: stop.append(number))
        while self.step < arguments.steps and not stop:
            rate = learning_rate(self.step, arguments)
            for group in self.optimizer.param_groups:
                group["lr"] = rate * group.get("scale", 1.0)
            yield self.step
            self.average.update(self.step)
            self.step += 1
            if self.step % LOG_EVERY == 0 or self.step == arguments.steps:
                self.clock()
                print(
                    f"step {self.step} loss {self.running_loss:.4f} lr {rate:.2e} "
                    f"wall {self.wall_seconds:.0f} s cpu {self.cpu_seconds:.0f} s",
                    flush=True,
                )
            if time.monotonic() - self.saved_at > SAVE_EVERY:
                self.save()
        self.save()

    def note_loss(self, loss: float) -> None:
        self.running_loss = loss if self.step == 0 else self.running_loss + 0.02 * (loss - self.running_loss)
