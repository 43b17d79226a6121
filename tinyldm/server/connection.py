"""What the endpoints of every API have, and how they follow a job as long as its client is there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request as Asked

from tinyldm.pipelines.request import Request
from tinyldm.server.fields import Fields
from tinyldm.server.jobs import Job, Queue
from tinyldm.server.refusals import Ending
from tinyldm.server.studio import Studio


@dataclass
class Endpoints:
    """What answers at the addresses of an API: it has a studio and its queue."""

    studio: Studio
    queue: Queue

    def asked_for(self, fields: Fields, count: int | None, settings: Mapping[str, Any]) -> Request:
        """The resolved request for `count` pictures (None: one) of fields that all APIs have, and of `settings`.

        Raises `InputError` for what can't be honoured, and for a field that nothing has read.
        """
        prompt, negative = fields.text("prompt"), fields.text("negative_prompt")
        wanted = self.studio.request(prompt, negative, fields.integer("seed", -1), count or 1, **settings)
        fields.end()
        return wanted


async def disconnected(asked: Asked) -> None:
    """Wait until the client of a request, whose body has been read, is gone."""
    while (await asked.receive())["type"] != "http.disconnect":
        pass


async def followed(asked: Asked, queue: Queue, job: Job) -> AsyncIterator[None]:
    """The changes of a job, from its place in the queue to its end; it is stopped when its client is gone.

    Ended early (the client's connection is cut while an answer is written), it stops the job as well.
    """
    queue.enter(job)
    leaving = asyncio.ensure_future(disconnected(asked))
    leaving.add_done_callback(lambda _: None if job.over else queue.stop(job))
    try:
        async for _ in job.changes():
            yield
    finally:
        leaving.cancel()
        if not job.over:
            queue.stop(job)


async def awaited(asked: Asked, queue: Queue, job: Job) -> None:
    """Wait until a job is over. Raises what it failed with, and `Ending` where the server ends before it is done."""
    async for _ in followed(asked, queue, job):
        pass
    if job.error is not None:
        raise job.error
    if queue.ending and job.state == "stopped":
        raise Ending("the server is being ended")
