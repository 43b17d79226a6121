"""Who is answered: hosts, origins, tokens; what is read and written; how much is taken."""

from __future__ import annotations

import base64
import io
import os
import struct
import zlib

import pytest
from PIL import Image
from serving import WITHOUT

requests = pytest.importorskip("requests", reason=WITHOUT)
pytestmark = pytest.mark.extra
ADDRESSES = ["/", "/page/model", "/sdapi/v1/options", "/v1/models", "/pictures/a.png"]


def get(running, path="/page/model", **headers):
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return requests.get(running.url + path, headers=named, timeout=10, allow_redirects=False)


@pytest.mark.parametrize("path", ADDRESSES)
def test_a_name_that_leads_here_is_not_answered(serving, path):
    answer = get(serving, path, Host="evil.example:80")
    assert answer.status_code == 403
    assert "this server does not answer as 'evil.example:80'; start it with --allow-host" in answer.text


def test_hosts(serve):
    running = serve(hosts=("studio.example",))
    for host in ("localhost", "LOCALHOST:1", "127.0.0.1:9", "[::1]:7", "studio.example:80", "a.localhost"):
        assert get(running, Host=host).status_code == 200, host
    for host in ("evil.example", "127.0.0.1.evil.example", "localhost.evil", "10.0.0.1", "", "studio.example.evil"):
        assert get(running, Host=host).status_code == 403, host
    everywhere = serve(any_address=True)
    assert get(everywhere, Host="10.0.0.1:80").status_code == 200
    assert get(everywhere, Host="evil.example").status_code == 403


@pytest.mark.parametrize("path", ADDRESSES)
def test_pages_of_other_sites_are_refused(serving, path):
    for origin in ("https://evil.example", "null", "http://localhost:1", f"https://127.0.0.1:{serving.port}.evil"):
        answer = get(serving, path, Origin=origin)
        assert answer.status_code == 403, origin
        assert "access-control-allow-origin" not in answer.headers
    assert get(serving, "/page/model", Origin=serving.url).status_code == 200


def test_what_other_sites_embed_is_refused(serving):
    assert get(serving, "/", Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="no-cors").status_code == 403
    assert get(serving, "/page/model", Sec_Fetch_Site="same-site", Sec_Fetch_Mode="no-cors").status_code == 403
    assert get(serving, "/", Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="navigate").status_code == 200
    assert get(serving, "/", Sec_Fetch_Site="same-origin", Sec_Fetch_Mode="no-cors").status_code == 200


def test_an_origin_that_is_allowed(serve):
    running, friend = serve(origins=("https://friend.example",)), "https://friend.example"
    answer = get(running, Origin=friend)
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == friend
    asking = {
        "Origin": friend,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "content-type",
    }
    allowed = requests.options(f"{running.url}/sdapi/v1/txt2img", headers=asking, timeout=10)
    assert allowed.status_code == 200
    assert allowed.headers["access-control-allow-origin"] == friend
    refused = {**asking, "Origin": "https://evil.example"}
    assert requests.options(f"{running.url}/sdapi/v1/txt2img", headers=refused, timeout=10).status_code == 403


@pytest.mark.parametrize("path", ADDRESSES)
def test_a_token_is_wanted_everywhere(serve, path):
    running = serve(token="wörd")
    refused = get(running, path)
    assert refused.status_code == 401
    assert refused.headers["www-authenticate"].startswith("Basic")
    for word in ("word", "", "wör", "wördd"):
        basic = base64.b64encode(f"me:{word}".encode()).decode()
        for authorization in (f"Bearer {word}".encode(), f"Basic {basic}", "Basic ?", "Bearer"):
            assert get(running, path, Authorization=authorization).status_code == 401
    basic = base64.b64encode("me:wörd".encode()).decode()
    assert get(running, path, Authorization=f"Basic {basic}").status_code != 401


def test_a_token_in_the_address_becomes_a_cookie(serve):
    running = serve(token="word")
    assert get(running, "/?token=other").status_code == 401
    assert get(running, "/?token=word", Host="evil.example").status_code == 403
    answer = get(running, "/?token=word")
    assert answer.status_code == 303
    assert answer.headers["location"] == "/"
    assert "HttpOnly" in answer.headers["set-cookie"]
    assert "samesite=strict" in answer.headers["set-cookie"].lower()
    session = requests.Session()
    assert session.get(f"{running.url}/?token=word", timeout=10).status_code == 200
    assert session.get(f"{running.url}/page/model", timeout=10).status_code == 200


def test_clients_give_the_token_in_their_own_ways(serve):
    webuiapi, openai = pytest.importorskip("webuiapi"), pytest.importorskip("openai")
    running = serve(token="word")
    stable = webuiapi.WebUIApi(host="127.0.0.1", port=running.port, username="me", password="word")
    assert stable.get_sd_models()[0]["title"] == "tiny"
    with openai.OpenAI(base_url=f"{running.url}/v1", api_key="word") as client:
        assert [model.id for model in client.models.list()] == ["tiny"]
    with (
        openai.OpenAI(base_url=f"{running.url}/v1", api_key="other") as client,
        pytest.raises(openai.AuthenticationError),
    ):
        client.models.list()


def test_nothing_outside_the_folder_is_read(serving, tmp_path):
    secret = serving.folder.parent / "secret.png"
    Image.new("RGB", (2, 2)).save(secret)
    (serving.folder / "link.png").symlink_to(secret)
    (serving.folder / "notes.txt").write_text("notes")
    (serving.folder / ".hidden.png").write_bytes(b"")
    (serving.folder / "folder.png").mkdir()
    for name in ("../secret.png", "..%2Fsecret.png", "%2e%2e/secret.png", f"/{secret}", "link.png", "notes.txt"):
        assert get(serving, f"/pictures/{name}").status_code == 404, name
    for name in (".hidden.png", "folder.png", "none.png", "a%00.png", "..\\secret.png", "."):
        assert get(serving, f"/pictures/{name}").status_code == 404, name
    Image.new("RGB", (2, 2)).save(serving.folder / "ö b.png")
    assert get(serving, "/pictures/%C3%B6%20b.png").status_code == 200


@pytest.mark.filterwarnings("always:the prompt has")
def test_nothing_outside_the_folder_is_written(serving):
    before = sorted(os.listdir(serving.folder.parent))
    for prompt in ("../../up", "/tmp/x", "..", "a\x00b", "con", "x" * 500, "\n", "é" * 300):
        asked = {"prompt": prompt, "steps": 1, "save_images": True}
        answer = requests.post(f"{serving.url}/sdapi/v1/txt2img", json=asked, timeout=10)
        assert answer.status_code == 200, answer.text
    assert sorted(os.listdir(serving.folder.parent)) == before


def test_uploads_are_bounded(serve):
    running = serve(most=1 << 20)
    large = b'{"prompt": "' + b"a" * (1 << 20) + b'"}'

    def pieces():  # no length is said before
        for _ in range(64):
            yield b"a" * (1 << 16)

    for path in ("/sdapi/v1/txt2img", "/v1/images/generations", "/page/pictures", "/page/settings"):
        for body in (large, pieces()):
            answer = requests.post(running.url + path, data=body, timeout=10)
            assert answer.status_code == 413
            assert "the upload is larger than 1 MB" in answer.text
    answer = requests.post(f"{running.url}/v1/images/edits", files={"image": b"a" * (1 << 20)}, timeout=10)
    assert answer.status_code == 413


def bomb(side):
    """A small PNG file that says that it is `side` × `side` pixels."""
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = zlib.compress(b"\0" * 1000)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [5000, 12_000, 60_000])
def test_a_small_file_of_a_huge_picture(serving, side):
    answer = requests.post(f"{serving.url}/page/settings", data=bomb(side), timeout=10)
    assert answer.status_code == 413
    assert "more than 16,777,216 pixels" in answer.json()["detail"]


def test_a_broken_picture(serving):
    file = io.BytesIO()
    Image.effect_noise((64, 64), 50).save(file, "PNG")
    for data in (file.getvalue()[:100], file.getvalue()[:-30], b"\x89PNG\r\n\x1a\n", b""):
        answer = requests.post(f"{serving.url}/page/settings", data=data, timeout=10)
        assert answer.status_code == 422, answer.text
        assert answer.json()["detail"].startswith("the file")


def test_a_picture_is_not_made_huge(serving):
    file = io.BytesIO()
    Image.new("RGB", (16, 16)).save(file, "PNG")
    image = base64.b64encode(file.getvalue()).decode()
    asked = {"prompt": "a", "init_images": [image], "width": 1 << 20, "height": 1 << 20}
    answer = requests.post(f"{serving.url}/sdapi/v1/img2img", json=asked, timeout=10)
    assert answer.status_code == 413
    assert answer.json()["field"] == "width"


def test_the_page_lets_nothing_else_in(serving):
    policy = get(serving, "/").headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "frame-ancestors 'none'" in policy
    assert get(serving, "/").headers["x-content-type-options"] == "nosniff"
    for path in ("/page.css", "/page.js", "/icon.svg"):
        assert get(serving, path).status_code == 200
    assert "://" not in get(serving, "/page.js").text
    assert "://" not in get(serving, "/page.css").text
    assert "://" not in get(serving, "/").text
