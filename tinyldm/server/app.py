"""The application: a list of routes behind the guard, and the queue that works while it runs."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect
from starlette.routing import Route

from tinyldm.errors import TinyldmError
from tinyldm.server import a1111, openai_images, page
from tinyldm.server.jobs import Queue
from tinyldm.server.notes import hearing
from tinyldm.server.problems import answer
from tinyldm.server.security import MOST_BYTES, Guard, Rules
from tinyldm.server.studio import Studio

LOOKED = 0.1  # seconds between two looks whether the server is to end
LAST_STEP = 2.0  # seconds that the step under way has then; after them it is left behind


def application(studio: Studio, rules: Rules, *, places: int = 32, **how: Any) -> Starlette:
    """The server of `tinyldm serve`, where at most `places` jobs wait; `how` is what `guarded` takes."""
    queue = Queue(studio.compute, places)
    routes = [route for api in (page, a1111, openai_images) for route in api.routes(studio, queue)]
    return guarded(routes, queue, rules, **how)


def guarded(
    routes: Sequence[Route],
    queue: Queue,
    rules: Rules,
    *,
    most: int = MOST_BYTES,
    leaving: Callable[[], bool] = lambda: False,
    ready: Callable[[], object] = lambda: None,
) -> Starlette:
    """Routes behind the guard as an ASGI application, with the queue at work; uploads have at most `most` bytes.

    `ready` is called when it begins; once `leaving` says so, every job is stopped, so that all answers end.
    """

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(queue.run()), asyncio.create_task(end_with(queue, leaving))]
        ready()
        with hearing():
            yield
        queue.end()
        tasks[1].cancel()
        await asyncio.wait(tasks, timeout=LAST_STEP)

    app = Starlette(
        routes=list(routes),
        middleware=[
            Middleware(Guard, rules=rules, most=most),
            Middleware(CORSMiddleware, allow_origins=rules.origins, allow_methods=["GET", "POST"], allow_headers=["*"]),
        ],
        exception_handlers={HTTPException: answer, ClientDisconnect: answer, TinyldmError: answer, Exception: answer},
        lifespan=lifespan,
    )
    app.state.queue = queue
    return app


async def end_with(queue: Queue, leaving: Callable[[], bool]) -> None:
    """End the queue once the server is to end."""
    while not leaving():
        await asyncio.sleep(LOOKED)
    queue.end()
