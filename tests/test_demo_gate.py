"""Who is let in at the demo's server: the page of this machine, within bounds, and what it needs."""

import asyncio
import json
import os

import pytest

from hart_lite.demo.gate import MAX_BODY, Gate, keep_newest, listening
from hart_lite.errors import HartError


class Behind:
    """The application behind the gate: answers 200, and keeps what reached it."""

    def __init__(self) -> None:
        self.scopes, self.bodies = [], []

    async def __call__(self, scope, receive, send):
        self.scopes.append(scope)
        self.bodies.append((await receive()).get("body", b"") if scope["method"] == "POST" else b"")
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"ok"})


def knock(gate: Gate, method: str, path: str, body: bytes = b"", query: bytes = b"", **headers: str):
    """(status, headers of the answer)."""
    given = {"host": "127.0.0.1:7860"} | ({"content-length": str(len(body))} if method == "POST" else {})
    given |= {name.replace("_", "-"): value for name, value in headers.items()}
    coded = [(name.encode(), value.encode()) for name, value in given.items() if value]
    scope = {"type": "http", "method": method, "path": path, "query_string": query, "headers": coded}
    halves = [body[: len(body) // 2], body[len(body) // 2 :]]
    sent = []

    async def receive():
        return {"type": "http.request", "body": halves.pop(0), "more_body": bool(halves)}

    async def send(message):
        sent.append(message)

    asyncio.run(gate(scope, receive, send))
    return sent[0]["status"], dict(sent[0]["headers"])


@pytest.fixture
def gate(tmp_path) -> Gate:
    return Gate(Behind(), tmp_path, max_file=1000, max_kept=3000)


def test_the_page_passes_and_may_load_nothing_from_elsewhere(gate):
    for path in ("/", "/config", "/assets/index.js", "/gradio_api/queue/data", "/gradio_api/heartbeat/x"):
        status, headers = knock(gate, "GET", path)
        assert status == 200
        assert b"default-src 'self'" in headers[b"content-security-policy"]
        assert b"http" not in headers[b"content-security-policy"]


@pytest.mark.parametrize(
    "headers",
    [
        {"host": "evil.example:7860"},
        {"host": "127.0.0.1.evil.example"},
        {"host": ""},
        {"origin": "http://evil.example"},
        {"origin": "http://127.0.0.1:9999"},
        {"origin": "null"},
    ],
)
def test_who_comes_from_elsewhere_is_refused(gate, headers):
    for method, path in (("GET", "/"), ("POST", "/gradio_api/queue/join")):
        assert knock(gate, method, path, b"{}" if method == "POST" else b"", **headers)[0] == 403
    assert not gate.app.scopes
    assert knock(gate, "GET", "/", host="localhost:7860", origin="http://localhost:7860")[0] == 200


@pytest.mark.parametrize(
    ("method", "path"),
    [
        *(("GET", path) for path in ("/gradio_api/info", "/gradio_api/proxy=http://x", "/monitoring", "/docs")),
        *(("GET", path) for path in ("/gradio_api/deep_link", "/gradio_api/runs", "/svelte/x", "/gradio_api/file/x")),
        *(("POST", path) for path in ("/gradio_api/run/on_ask", "/gradio_api/call/x", "/login", "/", "/assets/x")),
        *((method, "/") for method in ("PUT", "DELETE", "OPTIONS", "CONNECT")),
    ],
)
def test_what_the_page_does_not_need_is_not_there(gate, method, path):
    assert knock(gate, method, path, host="localhost")[0] == 404
    assert not gate.app.scopes


def test_a_web_socket_is_closed(gate):
    sent = []

    async def send(message):
        sent.append(message)

    asyncio.run(gate({"type": "websocket", "path": "/", "headers": []}, None, send))
    assert sent == [{"type": "websocket.close"}] and not gate.app.scopes


def test_bodies_are_bounded_and_say_how_long_they_are(gate):
    join, upload = "/gradio_api/queue/join", "/gradio_api/upload"
    body = json.dumps({"data": ["x" * 100]}).encode()
    assert knock(gate, "POST", join, body)[0] == 200
    assert gate.app.bodies == [body]
    assert knock(gate, "POST", join, body, content_length=str(MAX_BODY + 1))[0] == 413
    assert knock(gate, "POST", join, body, content_length="9" * 5000)[0] == 413
    assert knock(gate, "POST", join, body, content_length="")[0] == 411
    assert knock(gate, "POST", join, body, content_length="-1")[0] == 411
    assert knock(gate, "POST", join, body, transfer_encoding="chunked")[0] == 411
    assert knock(gate, "POST", join, b"{")[0] == 400
    assert knock(gate, "POST", join, b"[" * 100_000)[0] == 400
    assert knock(gate, "POST", upload, b"x" * 1000)[0] == 200
    assert knock(gate, "POST", upload, b"x", content_length=str(1000 + 64 * 1024 + 1))[0] == 413


def test_only_files_that_were_uploaded_can_be_named(gate, tmp_path):
    (tmp_path / "in.png").write_bytes(b"x")
    (tmp_path / "link.png").symlink_to("/etc/passwd")
    outside = [
        "/etc/passwd",
        f"{tmp_path}/../x",
        f"{tmp_path}x/y",
        "https://example.org/a.png",
        "\0",
        f"{tmp_path}/link.png",
    ]
    for path in outside:
        for value in ({"data": [{"path": path}]}, {"data": [[{"x": {"path": path, "meta": {}}}]]}):
            assert knock(gate, "POST", "/gradio_api/queue/join", json.dumps(value).encode())[0] == 403
        assert knock(gate, "GET", f"/gradio_api/file={path}")[0] == 403
    assert knock(gate, "POST", "/gradio_api/queue/join", b'{"data": [{"path": 7}]}')[0] == 403
    assert knock(gate, "GET", f"/gradio_api/file={tmp_path}/%2e%2e/x")[0] == 403
    assert not gate.app.scopes
    value = json.dumps({"data": [{"path": f"{tmp_path}/in.png"}]}).encode()
    assert knock(gate, "POST", "/gradio_api/queue/join", value)[0] == 200
    assert knock(gate, "GET", f"/gradio_api/file={tmp_path}/in.png")[0] == 200


def test_no_saved_state_of_the_page_is_loaded(gate):
    assert knock(gate, "GET", "/", query=b"deep_link=../../x")[0] == 200
    assert gate.app.scopes[-1]["query_string"] == b""
    knock(gate, "GET", "/gradio_api/queue/data", query=b"session_hash=x")
    assert gate.app.scopes[-1]["query_string"] == b"session_hash=x"


def test_uploads_are_few_at_once_and_the_newest_are_kept(gate, tmp_path):
    gate._uploads = 4
    assert knock(gate, "POST", "/gradio_api/upload", b"x")[0] == 503
    gate._uploads = 3
    for n in range(5):
        (tmp_path / str(n)).mkdir()
        (tmp_path / str(n) / "photo").write_bytes(b"x" * 1000)
        os.utime(tmp_path / str(n) / "photo", (n, n))
    assert knock(gate, "POST", "/gradio_api/upload", b"x")[0] == 200
    assert gate._uploads == 3
    assert sorted(p.parent.name for p in tmp_path.rglob("photo")) == ["2", "3", "4"]
    keep_newest(tmp_path, 999)
    assert not list(tmp_path.rglob("photo"))


def test_ports_are_on_this_machine_and_a_taken_one_is_said():
    with listening(None) as first, listening(None) as second:
        host, port = first.getsockname()
        assert host == "127.0.0.1" and second.getsockname()[1] > port >= 7860
        with pytest.raises(HartError, match=f"port {port} cannot be used: .*leave --port out"):
            listening(port)
