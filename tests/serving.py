"""A server in a thread of the test's own process, spoken to over a socket."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

WITHOUT = 'the server and its clients are not installed (pip install ".[web,clients]")'


class Serving:
    """A running server: where it is, and its studio and queue to look into."""

    def __init__(self, model: Any, folder: Path, **options: Any) -> None:
        from tinyldm.server.app import application
        from tinyldm.server.running import listening
        from tinyldm.server.security import Rules
        from tinyldm.server.studio import Studio

        self.folder = folder
        self.studio = Studio(model, folder, force=options.pop("force", False))
        rules = Rules(**{name: options.pop(name) for name in list(options) if name in vars(Rules())})
        self.socket = listening("127.0.0.1", 0)
        self.port = self.socket.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._ready = threading.Event()
        self.app = application(
            self.studio, rules, leaving=lambda: self.server.should_exit, ready=self._ready.set, **options
        )

    def __enter__(self) -> Serving:
        import uvicorn

        from tinyldm.server.running import settings

        self.server = uvicorn.Server(settings(self.app))
        self._thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.socket]})
        self._thread.start()
        assert self._ready.wait(20)
        return self

    def __exit__(self, *_: object) -> None:
        self.server.should_exit = True
        self._thread.join(20)
        self.socket.close()
        assert not self._thread.is_alive()

    @property
    def queue(self) -> Any:
        return self.app.state.queue


def until(true: Callable[[], object], seconds: float = 10) -> None:
    """Wait until something is true."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not come true"
        time.sleep(0.01)
