"""What the routes of every API are given, and how they wait for a job as long as its client is there."""

from __future__ import annotations

from dataclasses import dataclass

from starlette.requests import Request as Asked

from tinyldm.server.jobs import Job, Queue, followed
from tinyldm.server.refusals import Ending
from tinyldm.server.studio import Studio


@dataclass(frozen=True)
class Server:
    """A studio and its queue."""

    studio: Studio
    queue: Queue


async def disconnected(asked: Asked) -> None:
    """Wait until the client of a request, whose body has been read, is gone."""
    while (await asked.receive())["type"] != "http.disconnect":
        pass


async def awaited(asked: Asked, queue: Queue, job: Job) -> None:
    """Wait until a job is over. Raises what it failed with, and `Ending` where the server ends before it is done."""
    async for _ in followed(queue, job, lambda: disconnected(asked)):
        pass
    if job.error is not None:
        raise job.error
    if queue.ending and job.state == "stopped":
        raise Ending("the server is being ended")
