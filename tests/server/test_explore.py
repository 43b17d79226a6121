"""The laboratory over a socket: what it answers, whom, and how it ends; and `tinyldm explore` as a command."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from serving import WITHOUT, until

ROOT = Path(__file__).parents[2]
ADDRESSES = ["/", "/explore", "/explore.js", "/explore/model", "/explore/sources/walk"]
QUICK = {"prompt": "a", "steps": 2}


@pytest.fixture
def requests():
    return pytest.importorskip("requests", reason=WITHOUT)


def events(answer):
    """The events of a stream: their names and data."""
    assert answer.headers["content-type"].startswith("text/event-stream"), answer.text
    parts = [part.split("\n") for part in answer.content.decode().strip().split("\n\n")]
    return [(name.removeprefix("event: "), json.loads(data.removeprefix("data: "))) for name, data in parts]


@pytest.mark.extra
@pytest.mark.parametrize("panel", ["prompt", "walk", "decoder", "samplers", "words"])
def test_a_panel_is_a_stream_of_findings(exploring, requests, panel):
    answer = requests.post(f"{exploring.url}/explore/{panel}", json={**QUICK, "guidance_scale": 3}, timeout=20)
    told = events(answer)
    assert [told[0][0], told[-1][0]] == ["entered", "done"]
    found = [data for name, data in told if name == "found"]
    assert any("data:image/png;base64," in json.dumps(each) for each in found)
    assert answer.headers["cache-control"] == "no-cache"


@pytest.mark.extra
def test_the_schedule_waits_for_nothing(exploring, requests, monkeypatch):
    held = exploring.laboratory.compute
    monkeypatch.setattr(exploring.queue, "compute", lambda *job: (time.sleep(1), held(*job)))
    url = f"{exploring.url}/explore"
    with requests.post(f"{url}/walk", json=QUICK, stream=True, timeout=20):
        until(lambda: exploring.queue.working)
        told = events(requests.post(f"{url}/schedule", json={"sampler": "euler", "steps": 3}, timeout=20))
        assert exploring.queue.working
    assert [name for name, _ in told] == ["found", "done"]
    assert len(told[0][1]["visited"]["timesteps"]) == 3


@pytest.mark.extra
@pytest.mark.parametrize("addressed", ["walk", "schedule"])
def test_what_it_can_not_do_is_one_sentence(exploring, requests, addressed):
    url = f"{exploring.url}/explore/{addressed}"
    for body, field, sentence in (
        ({"steps": "x"}, "steps", "steps must be a whole number, not 'x'"),
        ({"steps": 0}, "steps", "steps must be from 1 to"),
        ({"sampler": "eular"}, "sampler", "sampler 'eular' is unknown; did you mean 'euler'?"),
        ({"sampler": 3}, "sampler", "sampler must be a text, not 3"),
        ({"samplerz": 3}, "samplerz", "field 'samplerz' is unknown; did you mean sampler?"),
    ):
        answer = requests.post(url, json=body, timeout=20)
        assert answer.status_code == 422, answer.text
        assert answer.json()["field"] == field
        assert answer.json()["detail"].startswith(sentence)
    assert "no JSON" in requests.post(url, data="{", timeout=20).json()["detail"]
    answer = requests.post(f"{exploring.url}/explore/other", json={}, timeout=20)
    assert (answer.status_code, answer.json()["detail"]) == (404, "there is no panel 'other'")


@pytest.mark.extra
def test_what_only_the_work_finds_out_is_told_in_the_stream(exploring, requests):
    told = events(requests.post(f"{exploring.url}/explore/words", json={**QUICK, "layer": "x"}, timeout=20))
    assert told[-1][0] == "failed"
    assert told[-1][1]["field"] == "layer"
    assert told[-1][1]["detail"].startswith("layer 'x' is none of all")


@pytest.mark.extra
def test_sources(exploring, requests):
    url = f"{exploring.url}/explore/sources"
    found = requests.get(f"{url}/samplers", params={"samplers": "heun,euler"}, timeout=20).json()
    assert [each["name"] for each in found][-2:] == [
        "tinyldm.diffusion.samplers.heun.Heun.step",
        "tinyldm.diffusion.samplers.euler.Euler.step",
    ]
    assert found[-1]["file"] == "tinyldm/diffusion/samplers/euler.py"
    assert found[-1]["text"].startswith("def step(self, predict: Predict")
    named = requests.get(f"{url}/schedule", params={"samplers": "euler", "levels": "beta"}, timeout=20).json()
    assert "tinyldm.diffusion.spacing.beta_sigmas" in [each["name"] for each in named]
    for path in ("words/../../../x", "os.system", "%2e%2e"):
        assert requests.get(f"{url}/{path}", timeout=20).status_code == 404
    assert requests.get(f"{url}/walk", params={"samplers": "x"}, timeout=20).status_code == 422


@pytest.mark.extra
def test_a_second_look_does_not_walk_again(exploring, requests, monkeypatch):
    url = f"{exploring.url}/explore/walk"
    asked = {**QUICK, "seed": 77}
    assert any(name == "step" or name == "found" for name, _ in events(requests.post(url, json=asked, timeout=20)))
    monkeypatch.setattr("tinyldm.server.laboratory.laboratory.walked", None)
    told = events(requests.post(url, json={**asked, "step": 1}, timeout=20))
    assert told[-1][0] == "done"
    told = events(requests.post(url, json={**asked, "seed": 78}, timeout=20))
    assert told[-1][0] == "failed"  # this one would have had to


@pytest.mark.extra
def test_who_goes_away_frees_the_place(exploring, requests):
    url = f"{exploring.url}/explore/walk"
    with requests.post(url, json={"prompt": "gone", "steps": 200}, stream=True, timeout=20):
        until(lambda: exploring.queue.working)
    until(lambda: exploring.queue.working is None)
    assert "gone" not in json.dumps(list(exploring.laboratory.walks.kept))


@pytest.mark.extra
@pytest.mark.parametrize("path", ADDRESSES)
def test_whom_it_answers(explore, exploring, requests, path):
    def status(running, **headers):
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return requests.get(running.url + path, headers=named, timeout=10).status_code

    assert status(exploring) == 200
    assert status(exploring, Host="evil.example") == 403
    assert status(exploring, Origin="https://evil.example") == 403
    assert status(exploring, Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="no-cors") == 403
    locked = explore(token="word")
    assert status(locked) == 401
    assert status(locked, Authorization="Bearer word") == 200
    session = requests.Session()
    assert session.get(f"{locked.url}/?token=word", timeout=10).url == f"{locked.url}/explore"
    assert session.get(locked.url + path, timeout=10).status_code == 200


@pytest.mark.extra
def test_what_is_sent_is_bounded_and_the_page_lets_nothing_else_in(explore, requests):
    running = explore(most=1 << 20)
    answer = requests.post(f"{running.url}/explore/walk", data=b" " * (1 << 21), timeout=10)
    assert answer.status_code == 413
    page = requests.get(f"{running.url}/explore", timeout=10)
    assert "default-src 'self'" in page.headers["content-security-policy"]
    for path in ("explore", "explore.css", "explore.js", "common.js"):
        text = requests.get(f"{running.url}/{path}", timeout=10).text
        assert set(re.findall(r"\w+://[\w.]+", text)) <= {"http://www.w3.org"}  # a name, not an address


# The command ----------------------------------------------------------------------------------------------------------


@pytest.mark.extra
def test_the_command_says_where_it_is_and_writes_nothing(checkpoint, tmp_path):
    pytest.importorskip("uvicorn", reason=WITHOUT)
    command = [sys.executable, "-m", "tinyldm", "explore", "--model", str(checkpoint), "--backend", "reference"]
    with subprocess.Popen(
        [*command, "--port", "0", "--token", "word"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        line = process.stdout.readline()
        assert re.fullmatch(r"tiny, the laboratory: http://127\.0\.0\.1:\d+/\?token=word  \(Ctrl-C ends it\)\n", line)
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=20) == ("", "\ntinyldm: interrupted; nothing was written\n")
    assert process.returncode == 130
    assert list(tmp_path.iterdir()) == []


@pytest.mark.extra
def test_a_model_that_can_not_be_explored_is_refused_at_once(tmp_path, capsys):
    from tiny_checkpoints import write_inpainting

    from tinyldm import cli

    pytest.importorskip("uvicorn", reason=WITHOUT)
    words = ["--model", str(write_inpainting(tmp_path / "inpainting")), "--backend", "reference", "--port", "0"]
    assert cli.main(["explore", *words]) == 2
    assert re.fullmatch(r"tinyldm: error: .*mask.*\n", capsys.readouterr().err)


def test_where_the_extra_lacks_it_says_what_brings_it(run, without_web):
    status, _, err = run("explore")
    assert status == 2
    assert re.fullmatch(
        r'tinyldm: error: `tinyldm explore` needs \w+, which is not installed: pip install "tinyldm\[web\]"\n', err
    )
