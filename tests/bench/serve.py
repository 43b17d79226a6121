"""How long the server's answers take while a picture is computed: `python tests/bench/serve.py` (extra `web`).

A server of the embedded checkpoint computes a picture of 256×256 on all cores. Meanwhile a client asks for the
progress, which waits for nothing, and the page's stream is read for the time from the first step to the first preview.
"""

from __future__ import annotations

import http.client
import json
import re
import subprocess
import sys
import tempfile
import threading
import time

PICTURE = {"prompt": "red apple", "steps": 40, "width": 256, "height": 256}


def asked(port: int, path: str, body: object = None) -> http.client.HTTPResponse:
    """The answer to a request of its own connection."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
    connection.request("GET" if body is None else "POST", path, None if body is None else json.dumps(body))
    return connection.getresponse()


def delays(port: int, until: threading.Event, none: int = 0) -> list[float]:
    """Milliseconds of an answer to `progress`, twenty times a second until an event; or of `none` of them at once."""
    taken = []
    while len(taken) < none if none else not until.is_set():
        begun = time.perf_counter()
        asked(port, "/sdapi/v1/progress").read()
        taken.append(1000 * (time.perf_counter() - begun))
        time.sleep(0.05)
    return sorted(taken)


def first_preview(port: int) -> tuple[float, float]:
    """Seconds from the request to the first step, and from there to the first preview."""
    begun, step = time.perf_counter(), 0.0
    for line in asked(port, "/page/pictures", PICTURE):
        if line.startswith(b'data: {"part"') and not step:
            step = time.perf_counter()
        if b"data:image/png" in line:
            return step - begun, time.perf_counter() - step
    raise AssertionError("there was no preview")


def main() -> None:
    """Start a server and print what is measured."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "tinyldm", "serve", "--port", "0", "-o", folder]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
            try:
                assert server.stdout is not None
                port = int(re.findall(r":(\d+)/", server.stdout.readline())[0])
                measured(port)
            finally:
                server.terminate()


def measured(port: int) -> None:
    """Print what is measured of a server."""
    asked(port, "/sdapi/v1/txt2img", {**PICTURE, "steps": 2}).read()  # reads the weights
    idle, done = delays(port, threading.Event(), 40), threading.Event()
    begun = time.perf_counter()

    def work() -> None:
        asked(port, "/sdapi/v1/txt2img", PICTURE).read()
        done.set()

    threading.Thread(target=work).start()
    busy = delays(port, done)
    seconds = time.perf_counter() - begun
    for name, taken in (("idle", idle), (f"while a picture takes {seconds:.1f} s", busy)):
        middle, last = taken[len(taken) // 2], taken[int(0.95 * len(taken))]
        print(f"progress, {name}: median {middle:.1f} ms, 95 % within {last:.1f} ms ({len(taken)} answers)")
    step, preview = first_preview(port)
    print(f"first step after {step:.2f} s, first preview {1000 * preview:.0f} ms after it")


if __name__ == "__main__":
    main()
