"""`tinyldm serve` as a command: where it listens, what it says, how it ends, and what it says where the extra lacks."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from serving import WITHOUT

ROOT = Path(__file__).parents[2]


@pytest.fixture
def start(checkpoint, tmp_path):
    """Start the command; returns the process and the address that it says."""
    pytest.importorskip("uvicorn", reason=WITHOUT)
    running = []

    def start(*words):
        command = [sys.executable, "-m", "tinyldm", "serve", "--model", str(checkpoint), "--backend", "reference"]
        running.append(
            subprocess.Popen(
                [*command, "--port", "0", *words],
                cwd=tmp_path,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
        line = running[-1].stdout.readline()
        address = re.search(r"http://\S+", line)
        assert address, line + (running[-1].communicate()[1] if not line else "")
        return running[-1], address[0], line

    yield start
    for process in running:
        process.kill()
        process.communicate()


def ask(address, **fields):
    import json

    body = json.dumps({"prompt": "a", **fields}).encode()
    return urllib.request.urlopen(f"{address}page/pictures", body, timeout=20)


@pytest.mark.extra
@pytest.mark.parametrize(("number", "word"), [(signal.SIGINT, "interrupted"), (signal.SIGTERM, "terminated")])
def test_it_ends_with_one_line(start, tmp_path, number, word):
    process, address, line = start()
    assert line == f"tiny: {address}  (Ctrl-C ends it; pictures go to pictures)\n"
    for _ in range(2):
        ask(address, steps=2).read()
    with ask(address, steps=900) as stream:  # a job is under way
        stream.readline()
        begun = time.monotonic()
        process.send_signal(number)
        out, err = process.communicate(timeout=20)
        assert time.monotonic() - begun < 5
        assert "event: stopped" in stream.read().decode()
    assert process.returncode == 128 + number
    assert err.strip() == f"tinyldm: {word}; kept 2 pictures in pictures"
    assert out == ""
    assert sorted(file.name for file in (tmp_path / "pictures").iterdir()) == ["a-2.png", "a.png"]


@pytest.mark.extra
def test_a_drawn_token_is_printed_and_wanted(start):
    _, address, _ = start("--token")
    bare, _, token = address.partition("?token=")
    assert len(token) >= 16
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(bare, timeout=10)
    opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
    assert b"<title>tinyldm" in opener.open(address, timeout=10).read()


@pytest.mark.extra
def test_it_answers_names_and_origins_that_are_allowed(start):
    _, address, _ = start("--allow-host", "Studio.example", "--allow-origin", "https://friend.example")
    named = urllib.request.Request(address, headers={"Host": "studio.example", "Origin": "https://friend.example"})
    answer = urllib.request.urlopen(named, timeout=10)
    assert answer.headers["Access-Control-Allow-Origin"] == "https://friend.example"
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(urllib.request.Request(address, headers={"Host": "other.example"}), timeout=10)


@pytest.mark.extra
def test_every_address_of_the_machine(start):
    process, address, _ = start("--host", "0.0.0.0")
    assert address.startswith("http://127.0.0.1:")
    assert urllib.request.urlopen(address, timeout=10).status == 200
    process.send_signal(signal.SIGINT)
    assert "note: whoever reaches this port can make pictures; --token" in process.communicate(timeout=20)[1]


@pytest.mark.extra
def test_bad_arguments_are_one_sentence(run, tmp_path):
    pytest.importorskip("uvicorn", reason=WITHOUT)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        status, _, err = run("serve", "--port", port)
    assert status == 2
    assert re.fullmatch(rf"tinyldm: error: can't listen on 127.0.0.1, port {port}: .*; choose another .*\n", err)
    (tmp_path / "file").write_text("")
    for words, sentence in (
        (("--port", "70000"), "--port must be from 0 to 65535, not 70000"),
        (("--host", "no.such.host.invalid"), "can't listen on no.such.host.invalid"),
        (("--queue", "0"), "--queue must be 1 or more, not 0"),
        (("--port", "0", "-o", "file"), "file: can't be made"),
        (("--port", "0", "--token", ""), "--token must be a word"),
    ):
        status, _, err = run("serve", *words)
        assert status == 2
        assert sentence in err
        assert err.count("\n") == 1


def test_where_the_extra_lacks_it_says_what_brings_it(run, without_web):
    status, _, err = run("serve")
    assert status == 2
    assert re.fullmatch(
        r'tinyldm: error: `tinyldm serve` needs \w+, which is not installed: pip install "tinyldm\[web\]"\n', err
    )
