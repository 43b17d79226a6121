"""Names on the hub, against a server on the loopback address that serves a folder as the hub does."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from tinyldm.checkpoints import hub as hub_module
from tinyldm.checkpoints.hub import is_hub_name, wanted_files
from tinyldm.checkpoints.safetensors import write_safetensors
from tinyldm.errors import CheckpointError

pytest.importorskip("huggingface_hub", reason="the extra `hub` is not installed")
REVISION = "0123456789abcdef0123456789abcdef01234567"
ROOT = Path(__file__).parents[2]


class Hub(ThreadingHTTPServer):
    """Serves the files of a folder as the repository `someone/tiny`, and notes what was asked for."""

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.folder = folder
        self.asked: list[str] = []
        self.break_after: int | None = None  # bytes of a file after which the connection breaks, once
        self.daemon_threads = True


class Answer(BaseHTTPRequestHandler):
    server: Hub

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        self.server.asked.append(f"{self.command} {self.path}")
        path = self.path.split("?")[0]
        folder = self.server.folder
        names = sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())
        if path.startswith("/api/models/someone/tiny/tree/"):
            entries = [
                {"type": "file", "path": n, "size": (folder / n).stat().st_size, "oid": etag(folder / n)} for n in names
            ]
            self.send(json.dumps(entries).encode(), body, {"Content-Type": "application/json"})
        elif path.startswith("/api/models/someone/tiny"):
            info = {"id": "someone/tiny", "sha": REVISION, "siblings": [{"rfilename": n} for n in names]}
            self.send(json.dumps(info).encode(), body, {"Content-Type": "application/json"})
        elif path.startswith("/someone/tiny/resolve/") and path.split("/", 5)[5] in names:
            file = folder / path.split("/", 5)[5]
            self.send_file(file.read_bytes(), body, {"ETag": f'"{etag(file)}"', "X-Repo-Commit": REVISION})
        else:
            self.send(b"not found", body, {"X-Error-Code": "EntryNotFound"}, status=404)

    def send_file(self, data: bytes, body: bool, headers: dict[str, str]) -> None:
        """A file, or the rest of one that a broken download asks for."""
        wanted = self.headers.get("Range", "")
        if body and wanted.startswith("bytes="):
            begin = int(wanted.removeprefix("bytes=").split("-")[0])
            self.server.asked.append(f"RANGE {begin}")
            headers = {**headers, "Content-Range": f"bytes {begin}-{len(data) - 1}/{len(data)}"}
            self.send(data[begin:], body, headers, status=206)
        elif body and self.server.break_after is not None and len(data) > self.server.break_after:
            cut, self.server.break_after = self.server.break_after, None
            self.send_response(200)
            for name, value in {**headers, "Content-Length": str(len(data))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data[:cut])
            self.close_connection = True
        else:
            self.send(data, body, headers)

    def send(self, data: bytes, body: bool, headers: dict[str, str], status: int = 200) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


def etag(file: Path) -> str:
    return hashlib.sha1(file.read_bytes()).hexdigest()


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[Hub]:
    server = Hub(folder)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def hub(own_checkpoint: Path) -> Iterator[Hub]:
    (own_checkpoint / "unet" / "diffusion_pytorch_model.fp16.safetensors").write_bytes(b"another variant")
    (own_checkpoint / "README.md").write_text("not needed")
    with serving(own_checkpoint) as server:
        yield server


def info(home: Path, name: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """`tinyldm info --model NAME`."""
    return run(home, "info", "--model", name, "--backend", "reference", **environment)


def run(home: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A command in a process of its own, since the hub's settings are read once."""
    inherited = {k: v for k, v in os.environ.items() if "proxy" not in k.lower() and not k.startswith("HF_")}
    settings = {"HF_HOME": str(home), "HF_HUB_DISABLE_TELEMETRY": "1", "PYTHONPATH": str(ROOT), **environment}
    command = [sys.executable, "-m", "tinyldm", *words]
    return subprocess.run(command, env=inherited | settings, capture_output=True, text=True, timeout=120, check=False)


def test_downloads_what_is_needed_and_then_asks_no_more(hub: Hub, tmp_path: Path) -> None:
    endpoint = f"http://127.0.0.1:{hub.server_address[1]}"
    first = info(tmp_path / "hf", "someone/tiny", HF_ENDPOINT=endpoint)
    assert first.returncode == 0, first.stderr
    assert "unet" in first.stdout
    assert "100%" in first.stderr
    fetched = {line.split("/", 6)[-1] for line in hub.asked if line.startswith("GET /someone/")}
    assert any("diffusion_pytorch_model.safetensors" in f for f in fetched)
    assert not any("fp16" in f or "README" in f for f in fetched)

    hub.asked.clear()
    again = info(tmp_path / "hf", "someone/tiny", HF_ENDPOINT=endpoint)
    assert again.returncode == 0, again.stderr
    assert not hub.asked
    offline = info(tmp_path / "hf", "someone/tiny", HF_HUB_OFFLINE="1")
    assert offline.returncode == 0, offline.stderr


def test_a_broken_download_is_resumed(tmp_path: Path) -> None:
    (tmp_path / "served").mkdir()
    write_safetensors(tmp_path / "served" / "big.safetensors", {"big": np.zeros(3_000_000, np.float32)})
    with serving(tmp_path / "served") as hub:
        hub.break_after = 11_000_000
        endpoint = f"http://127.0.0.1:{hub.server_address[1]}"
        found = run(tmp_path / "hf", "inspect", "someone/tiny/big.safetensors", HF_ENDPOINT=endpoint)
    assert "  big  3000000  F32" in found.stdout, found.stderr
    begin = next(int(line.split()[1]) for line in hub.asked if line.startswith("RANGE"))
    assert 0 < begin <= 11_000_000


def test_inspect_and_convert_take_names(hub: Hub, tmp_path: Path) -> None:
    endpoint = f"http://127.0.0.1:{hub.server_address[1]}"
    found = run(tmp_path / "hf", "inspect", "--summary", "someone/tiny", HF_ENDPOINT=endpoint)
    assert found.stdout.startswith("someone/tiny: StableDiffusionPipeline"), found.stderr
    found = run(tmp_path / "hf", "convert", "someone/tiny", str(tmp_path / "out"), HF_HUB_OFFLINE="1")
    assert found.returncode == 0, found.stderr
    assert (tmp_path / "out" / "unet" / "config.json").is_file()


def test_a_component_and_a_file_of_a_repository(own_checkpoint: Path, tmp_path: Path) -> None:
    """A repository of one component, as autoencoders are published; one of its files; and one with files alone."""
    with serving(own_checkpoint / "vae") as hub:
        endpoint = f"http://127.0.0.1:{hub.server_address[1]}"
        for settings in ({"HF_ENDPOINT": endpoint}, {"HF_HUB_OFFLINE": "1"}):
            words = ["info", "--model", str(own_checkpoint), "--vae", "someone/tiny", "--backend", "reference"]
            assert run(tmp_path / "a", *words, **settings).returncode == 0
        file = "someone/tiny/diffusion_pytorch_model.safetensors"
        for settings in ({"HF_ENDPOINT": endpoint}, {"HF_HUB_OFFLINE": "1"}):
            found = run(tmp_path / "b", "inspect", "--summary", file, **settings)
            assert found.stdout.startswith(f"{file}: an autoencoder, KL"), found.stderr
        (hub.folder / "config.json").unlink()
        for settings in ({"HF_ENDPOINT": endpoint}, {"HF_HUB_OFFLINE": "1"}):
            found = run(tmp_path / "c", "inspect", "--summary", "someone/tiny", **settings)
            assert "an autoencoder, KL" in found.stdout, found.stderr
        (hub.folder / "more.safetensors").write_bytes(b"x")
        found = run(tmp_path / "d", "inspect", "someone/tiny", HF_ENDPOINT=endpoint)
        assert found.returncode == 2
        assert "owner/name/FILE: diffusion_pytorch_model.safetensors, more.safetensors" in found.stderr


def test_what_is_not_there(hub: Hub, tmp_path: Path) -> None:
    endpoint = f"http://127.0.0.1:{hub.server_address[1]}"
    for name, settings in (("someone/else", {"HF_ENDPOINT": endpoint}), ("someone/tiny", {"HF_HUB_OFFLINE": "1"})):
        found = info(tmp_path / "hf", name, **settings)
        assert found.returncode == 2, found.stderr
        last = found.stderr.strip().splitlines()[-1]
        assert last.startswith(f"tinyldm: error: {name}: no such path here, and it can't be had from the hub")
        assert "Traceback" not in found.stderr


def test_a_hub_that_cannot_be_reached(tmp_path: Path) -> None:
    """One line; without a look first, the client tries for half a minute and ends in a traceback."""
    with socket.socket() as silent, socket.socket() as closed:
        silent.bind(("127.0.0.1", 0))
        silent.listen()  # takes connections and says nothing
        closed.bind(("127.0.0.1", 0))  # takes none
        for place in (silent, closed):
            found = info(tmp_path / "hf", "someone/tiny", HF_ENDPOINT=f"http://127.0.0.1:{place.getsockname()[1]}")
            assert found.returncode == 2, found.stderr
            assert len(found.stderr.strip().splitlines()) == 1
            assert found.stderr.startswith("tinyldm: error: someone/tiny: no such path here, and it can't be had")


def test_a_hub_that_does_not_answer_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    waiting = threading.Event()
    monkeypatch.setattr(hub_module, "reach", waiting.wait)
    monkeypatch.setattr(hub_module, "REACHED", 0.1)
    with pytest.raises(CheckpointError, match="it does not answer"):
        hub_module.asked("someone/tiny", lambda: pytest.fail("was asked all the same"))
    waiting.set()
    assert hub_module.REACHED <= 5


def test_any_error_of_the_client_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def download() -> str:
        raise RuntimeError("first line\nsecond line")

    monkeypatch.setattr(hub_module, "reach", lambda: None)
    with pytest.raises(CheckpointError, match=r"be had from the hub: first line$"):
        hub_module.asked("someone/tiny", download)


def test_links(hub: Hub, tmp_path: Path) -> None:
    endpoint = f"http://127.0.0.1:{hub.server_address[1]}"
    for page in ("", "/tree/main", "/", "/blob/main/vae/diffusion_pytorch_model.safetensors?download=true"):
        found = run(tmp_path / "hf", "inspect", "--summary", f"{endpoint}/someone/tiny{page}", HF_ENDPOINT=endpoint)
        assert found.returncode == 0, found.stderr
    found = run(tmp_path / "hf", "inspect", "http://somewhere.else/models/7", HF_ENDPOINT=endpoint)
    assert (found.returncode, "is a link; download the file" in found.stderr) == (2, True)


def test_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("CompVis/stable-diffusion-v1-4", "a/b/c.safetensors", "a/b/c/d.ckpt"):
        assert is_hub_name(name)
    for path in ("stable-diffusion", "./a/b", "/a/b", "a/b/c", "a\\b", ""):
        assert not is_hub_name(path)
    (tmp_path / "a" / "b").mkdir(parents=True)
    assert not is_hub_name("a/b")


def test_wanted_files() -> None:
    files = ["model_index.json", "README.md", "unet/config.json", "v1-5.ckpt", "vae/model.bin"]
    files += [f"unet/diffusion_pytorch_model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    files += ["unet/diffusion_pytorch_model.safetensors.index.json", "unet/diffusion_pytorch_model.bin"]
    files += ["tokenizer/merges.txt", "a/b/c.json"]
    assert set(wanted_files(files, None)) == {
        *("model_index.json", "unet/config.json", "tokenizer/merges.txt", "vae/model.bin"),
        *(f for f in files if f.startswith("unet/") and not f.endswith(".bin")),
    }
    component = ["config.json", "diffusion_pytorch_model.bin", "diffusion_pytorch_model.safetensors", "x.ckpt"]
    assert wanted_files(component, None) == ["config.json", "diffusion_pytorch_model.safetensors"]
    assert wanted_files(["README.md", "a.safetensors", "a.ckpt"], None) == ["a.safetensors"]
    with pytest.raises(ValueError, match="it has none"):
        wanted_files(["README.md"], None)
