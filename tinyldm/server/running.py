"""The server in this process: a socket, uvicorn on it, until it is interrupted."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable
from typing import Any

import uvicorn
from starlette.applications import Starlette

from tinyldm.errors import InputError

PATIENCE = 2  # seconds that answers under way have to end in


def listening(host: str, port: int) -> socket.socket:
    """A socket that listens; port 0 is any that is free. Raises `InputError` where it can't be had."""
    if not 0 <= port < 1 << 16:
        raise InputError(f"--port must be from 0 to 65535, not {port}")
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=256)
    except (OSError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise InputError(f"can't listen on {host}, port {port}: {why}; choose another with --host and --port") from None


def serve(build: Callable[..., Starlette], sock: socket.socket, ready: Callable[[], object]) -> None:
    """Serve until a signal; `ready` is called once requests are answered.

    `build(leaving=…, ready=…)` makes the application (`app.guarded`). The signal is then sent on to whoever listened
    to it before.
    """
    logging.getLogger("uvicorn").setLevel(logging.ERROR)
    app = build(leaving=lambda: server.should_exit, ready=ready)
    server: uvicorn.Server = uvicorn.Server(settings(app))
    server.run(sockets=[sock])


def settings(app: Starlette) -> uvicorn.Config:
    """How uvicorn runs the application: it says nothing but what is wrong with itself."""
    quiet: dict[str, Any] = {"log_config": None, "access_log": False, "server_header": False, "ws": "none"}
    return uvicorn.Config(app, **quiet, timeout_graceful_shutdown=PATIENCE, lifespan="on")
