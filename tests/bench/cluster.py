"""How far a batch on a cluster reaches: the time of one worker and of two, and 100,000 rows on 200 simulated workers.

    python tests/bench/cluster.py speed    [--rows 40] [--steps 25]
    python tests/bench/cluster.py scheduler [--rows 100000] [--workers 200] [--seconds 0.3] [--processes 4]

`speed`: the rows on `local:1` and on `local:2`, one thread each, in turn (A B A B), by the whole command and from the
first task to the last picture. `scheduler`: a real scheduler in a process of its own, workers of the real kind, many in
a process, and the real client; in the place of the networks a worker sleeps. Printed is the time that was taken beside
the time that the sleeping alone takes, and how busy the scheduler's process was: below one processor it is not the
limit. With `--seconds 0` it is nothing but the scheduler and its messages, which says how many tasks it can bear.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import dask
import psutil
from distributed import Client, Scheduler, Worker

import tinyldm
from tinyldm.batches import cluster
from tinyldm.batches.making import Made
from tinyldm.batches.rows import Job, jobs_of
from tinyldm.batches.run import How, planned, run

PNG = b"\x89PNG" + bytes(8000)  # about the size of a picture of the embedded checkpoint


def pretended(task: cluster.Task) -> list[Made]:
    """What takes the place of `cluster.work`: pictures that cost a sleep."""
    time.sleep(float(task.opening) * len(task.jobs))
    return [Made.of(job, PNG, {}) for job in task.jobs]


def scheduler(address: str) -> None:
    """The process of the scheduler."""
    logging.getLogger("distributed").setLevel(logging.CRITICAL)

    async def serve() -> None:
        async with Scheduler(host="127.0.0.1", port=int(address.rpartition(":")[2]), dashboard_address=None) as found:
            await found.finished()

    asyncio.run(serve())


def workers(address: str, count: int) -> None:
    """A process with many workers, each with a thread of its own, that do not watch their own machine."""
    dask.config.set({"distributed.worker.profile.enabled": False, "distributed.admin.system-monitor.interval": "60s"})
    logging.getLogger("distributed").setLevel(logging.CRITICAL)

    async def serve() -> None:
        found = [Worker(address, nthreads=1, memory_limit=0, host="127.0.0.1", dashboard=False) for _ in range(count)]
        await asyncio.gather(*found)
        await asyncio.gather(*(worker.finished() for worker in found))

    asyncio.run(serve())


def simulate(args: argparse.Namespace) -> None:
    """100,000 rows on 200 workers that sleep."""
    address, start = "tcp://127.0.0.1:8797", multiprocessing.get_context("spawn").Process
    processes = [start(target=scheduler, args=(address,), daemon=True)]
    shares = [args.workers // args.processes + (k < args.workers % args.processes) for k in range(args.processes)]
    processes += [start(target=workers, args=(address, share), daemon=True) for share in shares]
    for process in processes:
        process.start()
        time.sleep(3)
    cluster.work = pretended
    jobs = jobs_of([("rows", {"prompt": "a", "seed": f"0:{args.rows}"})], {}, Path())
    told = cluster.Task((), str(args.seconds).encode(), "", {})
    with Client(address, set_as_default=False) as client:
        client.wait_for_workers(args.workers, timeout=300)
        print(f"{args.workers} workers are there", flush=True)
        busy, client_busy = psutil.Process(processes[0].pid), psutil.Process()
        before, mine, begun = sum(busy.cpu_times()[:2]), sum(client_busy.cpu_times()[:2]), time.perf_counter()
        pictures = tasks = most = 0
        for part in cluster.given_out(client, told, jobs):
            pictures, tasks, most = pictures + len(part), tasks + 1, max(most, len(part))
            if not tasks % 500:
                spent, wall = sum(busy.cpu_times()[:2]) - before, time.perf_counter() - begun
                print(f"{pictures:7,} rows, {wall:6.1f} s, scheduler {spent:6.1f} s of a processor", flush=True)
        wall, spent = time.perf_counter() - begun, sum(busy.cpu_times()[:2]) - before
        client_spent = sum(client_busy.cpu_times()[:2]) - mine
        memory = busy.memory_info().rss / 1e6
    assert pictures == args.rows
    ideal = args.rows * args.seconds / args.workers
    print(f"{pictures:,} rows in {tasks:,} tasks of up to {most} on {args.workers} workers: {wall:.1f} s")
    print(f"the sleeping alone: {ideal:.1f} s, {ideal / wall:.0%} of that")
    print(
        f"scheduler: {spent:.1f} s of a processor, {spent / wall:.0%} of the time, {1000 * spent / tasks:.2f} ms a task"
    )
    print(f"its memory: {memory:.0f} MB")
    print(f"the client: {client_spent:.1f} s of a processor, {1000 * client_spent / pictures:.2f} ms a picture")
    for process in processes:
        process.kill()


def speed(args: argparse.Namespace) -> None:
    """One worker and two, in turn."""
    opening = {"threads": 1}
    model = tinyldm.load(**opening)
    rows = [
        {"prompt": prompt, "seed": seed} for seed in range(args.rows // 4) for prompt in ("fox", "owl", "bus", "crab")
    ]
    jobs = planned(model, rows, {"steps": args.steps}, None)
    taken: dict[int, list[tuple[float, float]]] = {1: [], 2: []}
    for _ in range(args.rounds):
        for count in taken:
            with tempfile.TemporaryDirectory() as folder:
                taken[count].append(timed(model, jobs, count, Path(folder), opening))
                print(
                    f"local:{count}: {taken[count][-1][0]:6.1f} s in all, {taken[count][-1][1]:6.1f} s of work",
                    flush=True,
                )
    for k, what in enumerate(("in all", "of work")):
        one, two = (statistics.median(times[k] for times in taken[count]) for count in (1, 2))
        print(f"{what}: {two:.1f} s on two workers, {one:.1f} s on one: {two / one:.2f}")


def timed(
    model: tinyldm.LatentDiffusion, jobs: Sequence[Job], count: int, folder: Path, opening: dict
) -> tuple[float, float]:
    """The seconds of a batch, in all and from when the workers have their models."""
    begun = time.perf_counter()
    how, first = How(watch=lambda report, made: None), [0.0]
    with cluster.on_cluster(f"local:{count}", model, opening, how) as engine:
        ready = time.perf_counter()
        first[0] = ready
        run(model, jobs, folder, how, engine)
        end = time.perf_counter()
    return end - begun, end - first[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    p = commands.add_parser("speed")
    p.set_defaults(run=speed)
    p.add_argument("--rows", type=int, default=40)
    p.add_argument("--steps", type=int, default=25)
    p.add_argument("--rounds", type=int, default=2)
    p = commands.add_parser("scheduler")
    p.set_defaults(run=simulate)
    p.add_argument("--rows", type=int, default=100_000)
    p.add_argument("--workers", type=int, default=200)
    p.add_argument("--processes", type=int, default=4)
    p.add_argument("--seconds", type=float, default=0.3)
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
