"""The queue: one job at a time, in order, up to a length; who goes away frees its place, and nothing is mixed up."""

from __future__ import annotations

import base64
import concurrent.futures
import io
import json
import socket
import statistics
import threading
import time

import numpy as np
import pytest
from PIL import Image
from serving import WITHOUT, until

requests = pytest.importorskip("requests", reason=WITHOUT)
pytestmark = pytest.mark.extra
LONG = {"prompt": "a", "steps": 900, "width": 32, "height": 32}


def post(running, path="/sdapi/v1/txt2img", **fields):
    return requests.post(running.url + path, json=fields, timeout=60)


def picture(text):
    return Image.open(io.BytesIO(base64.b64decode(text)))


def hanging(running, **fields):
    """A connection that has asked for pictures, and waits."""
    body = json.dumps(fields).encode()
    connection = socket.create_connection(("127.0.0.1", running.port))
    head = f"POST /sdapi/v1/txt2img HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n\r\n"
    connection.sendall(head.encode() + body)
    return connection


def test_a_hundred_requests_of_twenty_clients(serve, model):
    running = serve()
    expected = {}
    for k in range(10):
        expected[k] = model.text_to_image("a", steps=2, seed=k, height=16, width=16)[0]

    def ask(k):
        answer = post(running, prompt="a", steps=2, seed=k % 10, height=16, width=16, batch_size=1 + k % 3)
        assert answer.status_code == 200, answer.text
        images = answer.json()["images"]
        assert len(images) == 1 + k % 3
        assert json.loads(answer.json()["info"])["seed"] == k % 10
        return k % 10, np.asarray(picture(images[0]))

    with concurrent.futures.ThreadPoolExecutor(20) as clients:
        for seed, pixels in clients.map(ask, range(100)):
            np.testing.assert_array_equal(pixels, np.asarray(expected[seed]))
    assert running.queue.working is None
    assert not running.queue.waiting


def test_the_order_is_that_of_arrival(serve):
    running = serve()
    done, compute = [], running.queue.compute

    def ask(k):
        post(running, prompt="a", steps=3, seed=k)

    def noted(job, *told):
        done.append(job.request.seeds[0])
        return compute(job, *told)

    with hanging(running, **LONG) as first:
        until(lambda: running.queue.working)
        running.queue.compute = noted
        threads = []
        for k in range(5):
            threads.append(threading.Thread(target=ask, args=(k,)))
            threads[-1].start()
            until(lambda: len(running.queue.waiting) == len(threads))
        assert [job.before for job in running.queue.waiting] == [1, 2, 3, 4, 5]
        first.close()
    for thread in threads:
        thread.join(20)
    assert done == [0, 1, 2, 3, 4]


def test_who_goes_away_frees_its_place(serve):
    running = serve()
    working, waiting = hanging(running, **LONG), hanging(running, **LONG)
    until(lambda: running.queue.working and running.queue.waiting)
    waiting.close()
    until(lambda: not running.queue.waiting)
    job = running.queue.working
    assert not job.stopping
    working.close()
    until(lambda: running.queue.working is None)
    assert job.state == "stopped"
    assert not job.pictures


def test_a_full_queue_is_an_error_of_its_own(serve):
    running = serve(places=2)
    with hanging(running, **LONG), hanging(running, **LONG), hanging(running, **LONG):
        until(lambda: len(running.queue.waiting) == 2)
        answer = post(running, prompt="a")
        assert answer.status_code == 429
        assert answer.json()["error"] == "QueueFull"
        assert answer.json()["detail"] == "the queue is full: 2 wait; try again when some are done"
        assert post(running, "/page/pictures", prompt="a").status_code == 429
        assert post(running, "/v1/images/generations", prompt="a").status_code == 429
    until(lambda: running.queue.working is None)
    assert post(running, prompt="a", steps=1).status_code == 200


def test_a_full_row_counts_those_that_wait():
    """Not the one that is about to be worked on: an idle queue takes one more than waits."""
    from tinyldm.pipelines.request import request
    from tinyldm.server.jobs import Job, Queue
    from tinyldm.server.refusals import QueueFull

    queue = Queue(lambda *_: None, 2)
    for _ in range(3):
        queue.enter(Job(request("a"), "test"))
    with pytest.raises(QueueFull, match="2 wait"):
        queue.enter(Job(request("a"), "test"))


def test_answers_do_not_wait_for_the_picture_under_way(serve):
    running = serve()
    session, seconds = requests.Session(), []
    with hanging(running, **LONG):
        until(lambda: running.queue.working)
        for _ in range(50):
            start = time.perf_counter()
            assert session.get(f"{running.url}/sdapi/v1/progress", timeout=10).status_code == 200
            seconds.append(time.perf_counter() - start)
        assert running.queue.working is not None
    assert statistics.median(seconds) < 0.25


def test_the_end_of_the_server_is_an_answer(serve):
    running = serve()
    with concurrent.futures.ThreadPoolExecutor(2) as clients:
        answers = [clients.submit(post, running, **LONG) for _ in range(2)]
        until(lambda: running.queue.working and running.queue.waiting)
        running.server.should_exit = True
        for answer in answers:
            assert answer.result().status_code == 503
            assert answer.result().json()["detail"] == "the server is being ended"


def test_a_bug_is_told_of_in_the_terminal_alone(serve, monkeypatch, capfd):
    running = serve()

    def broken(*_):
        raise RuntimeError("secret")

    monkeypatch.setattr(running.studio, "finished", broken)
    answer = post(running, prompt="a", steps=1)
    assert answer.status_code == 500
    assert "secret" not in answer.text
    stream = post(running, "/page/pictures", prompt="a", steps=1).text
    assert "secret" not in stream
    assert "event: failed" in stream
    assert "RuntimeError: secret" in capfd.readouterr().err
    monkeypatch.undo()
    assert post(running, prompt="a", steps=1).status_code == 200


def test_a_picture_that_is_too_large_for_the_memory(serve, monkeypatch):
    running = serve()
    for path in ("/sdapi/v1/txt2img", "/page/pictures"):
        answer = post(running, path, prompt="a", width=1 << 20, height=1 << 20)
        assert answer.status_code == 413
        assert answer.json()["error"] == "NotEnoughMemory"
        assert "take a smaller size" in answer.json()["detail"]
    answer = post(running, "/v1/images/generations", prompt="a", size="100000x100000")
    assert answer.status_code == 413
    assert answer.json()["error"]["code"] == "NotEnoughMemory"

    def none_left(*_):
        raise MemoryError

    monkeypatch.setattr(running.studio, "finished", none_left)
    answer = post(running, prompt="a", steps=1)
    assert answer.status_code == 413
    assert answer.json()["detail"] == "there was not enough memory for a picture of 16×16; take a smaller size"
    monkeypatch.undo()
    assert post(running, prompt="a", steps=1).status_code == 200


def test_one_may_force_it(serve, monkeypatch):
    monkeypatch.setattr("tinyldm.server.studio.available_bytes", lambda: -1 << 40)
    assert post(serve(), prompt="a", steps=1).status_code == 413
    assert post(serve(force=True), prompt="a", steps=1).status_code == 200


@pytest.mark.filterwarnings("always:the prompt has")
def test_a_note_is_for_who_asked(serve, capfd):
    running = serve()
    stream = post(running, "/page/pictures", prompt="a" * 50, prompt_syntax="plain", steps=1).text
    assert 'event: note\ndata: {"text": "the prompt has 50 tokens and the text encoder reads 14' in stream
    assert "note" not in post(running, "/page/pictures", prompt="a", steps=1).text
    assert capfd.readouterr().err == ""
