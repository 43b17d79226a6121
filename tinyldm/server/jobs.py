"""Jobs, and the queue in which they wait: one is worked on at a time, the others follow in the order they came.

All that changes here changes on the event loop; the thread that computes hands over what it has (`Queue._run`), and
looks at `Job.stopping` between the steps. So nothing needs a lock, and answers never wait for a step.
"""

from __future__ import annotations

import asyncio
import secrets
import time
import traceback
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from tinyldm.errors import Stopped, TinyldmError
from tinyldm.pipelines.request import Request
from tinyldm.server.refusals import Broken, Ending, QueueFull


@dataclass(frozen=True)
class Made:
    """A finished picture: which of its request, the file that says how it was made, and that file's name if it is kept.

    `text` is what it says in the words of AUTOMATIC1111's pages.
    """

    index: int
    image: Image.Image
    png: bytes
    seed: int
    text: str
    name: str | None = None


@dataclass(frozen=True)
class Progress:
    """How far a job is: `part` of its work, from 0 to 1; the step of how many; small pictures of how they look so far.

    `previews` are PNGs by the number of the picture; `seconds` is about how long the rest takes.
    """

    part: float = 0.0
    step: int = 0
    steps: int = 0
    previews: Mapping[int, bytes] = field(default_factory=dict)
    seconds: float | None = None


class Job:
    """Pictures that somebody waits for: a resolved request, who asked (`source`), and what has come of it.

    `state` is waiting, working, done, stopped or failed; then `error` says why. `before` counts the jobs before it.
    `results` come one by one, `notes` are what there is to say about it. `keep` says that its pictures are kept as
    files, `began_from` what they began from; `finish` makes of each what its client gets.
    """

    def __init__(
        self,
        request: Request,
        source: str,
        *,
        keep: bool = False,
        began_from: str | None = None,
        finish: Callable[[Image.Image], Image.Image] | None = None,
    ) -> None:
        self.id = secrets.token_hex(8)
        self.request, self.source, self.keep, self.began_from = request, source, keep, began_from
        self.finish = finish
        self.state, self.before = "waiting", 0
        self.results: list[Any] = []
        self.notes: list[str] = []
        self.progress = Progress()
        self.error: TinyldmError | None = None
        self.stopping = False
        self.started = self.ended = time.monotonic()
        self._changed = asyncio.Event()

    @property
    def pictures(self) -> list[Made]:
        """The results, of a job that makes pictures."""
        return self.results

    @property
    def over(self) -> bool:
        """Whether nothing more will come of it."""
        return self.state in ("done", "stopped", "failed")

    def change(self, **changes: Any) -> None:
        """Set fields, and wake who waits for a change."""
        for name, value in changes.items():
            setattr(self, name, value)
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def changes(self) -> AsyncIterator[None]:
        """Yield at once, and then after changes, until it is over; changes that come quickly are yielded as one."""
        while True:
            changed = self._changed
            yield
            if self.over:
                return
            await changed.wait()


Tell = Callable[[Progress], None]
Compute = Callable[[Any, Tell, Callable[[Any], None]], None]  # a job of the kind that it is for, and its results


class Queue:
    """The job that is worked on, and those that wait, at most `length`.

    `compute(job, tell, add)` makes a job's results, in a thread of the queue's own; it calls `tell` with its progress
    and `add` with each of them, and raises `Stopped` once `job.stopping` is set.
    """

    def __init__(self, compute: Compute, length: int) -> None:
        self.compute, self.length = compute, length
        self.waiting: deque[Job] = deque()
        self.working: Job | None = None
        self.ending = False
        self._arrived = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, "tinyldm serve")

    def enter(self, job: Job) -> None:
        """Take a place at the end. Raises `QueueFull`, and `Ending` once the server is being ended."""
        if self.ending:
            raise Ending("the server is being ended")
        # The first of the row does not wait where nothing is under way, though it may not have been taken yet.
        if len(self.waiting) >= self.length + (self.working is None):
            raise QueueFull(f"the queue is full: {self.length} wait; try again when some are done")
        self.waiting.append(job)
        self._move()
        self._arrived.set()

    def stop(self, job: Job) -> None:
        """Take a job out: at once where it waits, after the step under way where it is worked on."""
        if job in self.waiting:
            self.waiting.remove(job)
            job.change(state="stopped")
            self._move()
        job.stopping = True

    def end(self) -> None:
        """Take in nothing more, and stop all there is."""
        self.ending = True
        for job in [*self.waiting, *([self.working] if self.working else [])]:
            self.stop(job)
        self._arrived.set()

    async def run(self) -> None:
        """Work, until the server ends and the job that was under way has ended."""
        while True:
            while not self.waiting and not self.ending:
                self._arrived.clear()
                await self._arrived.wait()
            if self.ending:
                break
            self.working = job = self.waiting.popleft()
            job.change(state="working", before=0, started=time.monotonic())
            self._move()
            state, error = await self._run(job)
            self.working = None
            self._move()
            job.change(state=state, error=error, ended=time.monotonic())
        self._thread.shutdown(wait=False)

    async def _run(self, job: Job) -> tuple[str, TinyldmError | None]:
        loop = asyncio.get_running_loop()

        def tell(progress: Progress) -> None:
            loop.call_soon_threadsafe(lambda: job.change(progress=progress))

        def add(result: Any) -> None:
            loop.call_soon_threadsafe(lambda: job.change(results=[*job.results, result]))

        try:
            await loop.run_in_executor(self._thread, self.compute, job, tell, add)
            return "done", None
        except Stopped:
            return "stopped", None
        except TinyldmError as error:
            return "failed", error
        except Exception as error:
            traceback.print_exception(error)
            return "failed", Broken()

    def _move(self) -> None:
        """Tell those who wait how many are before them."""
        for i, job in enumerate(self.waiting):
            before = i + (self.working is not None)
            if job.before != before:
                job.change(before=before)
