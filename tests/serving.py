"""A server in a thread of the test's own process, spoken to over a socket."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

WITHOUT = 'the server and its clients are not installed (pip install ".[web,clients]")'


class Answering:
    """A running server: where it is, and its queue to look into. `build(rules, …)` makes its application."""

    def __init__(self, build: Callable[..., Any], **options: Any) -> None:
        from tinyldm.server.running import listening
        from tinyldm.server.security import Rules

        rules = Rules(**{name: options.pop(name) for name in list(options) if name in vars(Rules())})
        self.socket = listening("127.0.0.1", 0)
        self.port = self.socket.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._ready = threading.Event()
        self.app = build(rules, leaving=lambda: self.server.should_exit, ready=self._ready.set, **options)

    def __enter__(self) -> Any:
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


class Serving(Answering):
    """`tinyldm serve` of a model, its pictures in a folder, and its studio to look into."""

    def __init__(self, model: Any, folder: Path, **options: Any) -> None:
        from tinyldm.server.app import application
        from tinyldm.server.studio import Studio

        self.folder = folder
        self.studio = Studio(model, folder, force=options.pop("force", False))
        super().__init__(lambda rules, **how: application(self.studio, rules, **how), **options)


class Exploring(Answering):
    """`tinyldm explore` of a model, and its laboratory to look into."""

    def __init__(self, model: Any, **options: Any) -> None:
        from tinyldm.server.laboratory.laboratory import Laboratory
        from tinyldm.server.laboratory.routes import explore_application

        self.laboratory = Laboratory(model)
        super().__init__(lambda rules, **how: explore_application(self.laboratory, rules, **how), **options)


def until(true: Callable[[], object], seconds: float = 10) -> None:
    """Wait until something is true."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not come true"
        time.sleep(0.01)


def watched_page(browser: Any, url: str, complaints: list[str], shown: str, **options: Any) -> Any:
    """A page in a context of its own, which notes what it asks for from elsewhere, and which scripts of it fail.

    `shown` is what an answer's complaint in the console may look like, since the page itself shows it.
    """

    def heard(message: Any) -> None:
        if not re.search(shown, message.text):
            complaints.append(message.text)

    def asked(request: Any) -> None:
        if not request.url.startswith((url, "data:", "blob:")):
            complaints.append(request.url)

    page = browser.new_context(**options).new_page()
    page.set_default_timeout(10_000)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", heard)
    page.on("request", asked)
    return page
