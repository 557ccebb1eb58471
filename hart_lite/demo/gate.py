"""What stands between the demo's server and who connects: an ASGI application around the page's.

It lets through what the page itself asks for, from a page of this server, within bounds. The library that makes the
page brings more than that (an API, proxying, sharing); none of it is reachable, whatever a later version adds.
"""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from hart_lite.errors import HartError

App = Callable[..., Awaitable[None]]

HOST, FIRST_PORT, PORTS = "127.0.0.1", 7860, 100
NAMES = (HOST, "localhost")
CONNECTIONS = 256
MAX_BODY = 256 * 1024  # bytes of an event: two short texts, and ids
UPLOADS_AT_ONCE = 4
FORM_BYTES = 64 * 1024  # around the file in an upload
UPLOAD, JOIN, FILE = "/gradio_api/upload", "/gradio_api/queue/join", "/gradio_api/file="
PAGE = ("/", "/config", "/theme.css", "/favicon.ico", "/gradio_api/queue/data", "/gradio_api/upload_progress")
PAGE_FOLDERS = ("/assets/", "/static/", "/gradio_api/heartbeat/", FILE)
EVENTS = (UPLOAD, JOIN, "/gradio_api/reset", "/gradio_api/cancel")
# The page runs its own scripts and reaches this server, and nothing else.
POLICY = (
    "default-src 'self' data: blob:; script-src 'self' 'unsafe-inline' 'unsafe-eval'; "
    "style-src 'self' 'unsafe-inline'; base-uri 'self'; form-action 'none'; frame-ancestors 'none'; object-src 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
}


class _RefusedError(Exception):
    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


@dataclass
class Gate:
    """`folder` is where uploads lie; a file of at most `max_file` bytes is taken, and of all about `max_kept` are kept,
    the newest."""

    app: App
    folder: Path
    max_file: int
    max_kept: int
    _uploads: int = 0

    async def __call__(self, scope: dict, receive: App, send: App) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close"})  # the page has no use for one
            return

        async def send_guarded(message: dict) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *((k.encode(), v.encode()) for k, v in HEADERS.items())]
            await send(message)

        try:
            self._check(scope)
            # A query can name a saved state of the page ("deep link"), which the library would read from disk.
            scope = dict(scope, query_string=b"") if scope["path"] == "/" else scope
            if scope["path"] == UPLOAD:
                await self._upload(scope, receive, send_guarded)
            else:
                body = await _body(receive) if scope["method"] == "POST" else None
                if scope["path"] == JOIN:
                    self._check_files(body)
                await self.app(scope, receive if body is None else _again(body, receive), send_guarded)
        except _RefusedError as refusal:
            text = f"{refusal}\n".encode()
            kind = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(text)).encode())]
            await send_guarded({"type": "http.response.start", "status": refusal.status, "headers": kind})
            await send({"type": "http.response.body", "body": text})

    def _check(self, scope: dict) -> None:
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        host, path = headers.get("host", ""), scope["path"]
        # A page elsewhere may have a name that leads here (DNS rebinding), or send a form here.
        if host.partition(":")[0] not in NAMES or headers.get("origin", f"http://{host}") != f"http://{host}":
            raise _RefusedError(403, "this page is for the machine it runs on: open http://127.0.0.1 with its port")
        if scope["method"] in ("GET", "HEAD"):
            if path not in PAGE and not path.startswith(PAGE_FOLDERS):
                raise _RefusedError(404, "there is nothing here")
            if path.startswith(FILE):
                self._check_file(unquote(path.removeprefix(FILE)))
            return
        if scope["method"] != "POST" or path not in EVENTS:
            raise _RefusedError(404, "there is nothing here")
        # The server holds a body to the length that is announced.
        length = headers.get("content-length", "")
        if "transfer-encoding" in headers or not length.isdecimal():
            raise _RefusedError(411, "a request has to say how long it is")
        most = self.max_file + FORM_BYTES if path == UPLOAD else MAX_BODY
        if len(length) > 15 or int(length) > most:
            raise _RefusedError(413, f"the request is too large; at most {most:,} bytes are read")

    def _check_files(self, body: bytes) -> None:
        """A file is named by its path, or by an address that the server would fetch: only what was uploaded counts."""
        try:
            values = json.loads(body)
        except (ValueError, RecursionError) as error:
            raise _RefusedError(400, "the request is no JSON") from error
        for path in _paths(values):
            self._check_file(path)

    def _check_file(self, path: object) -> None:
        try:
            inside = isinstance(path, str) and Path(path).resolve().is_relative_to(self.folder.resolve())
        except (OSError, ValueError, RuntimeError) as error:  # ValueError: a null byte; RuntimeError: links in a circle
            raise _RefusedError(403, "no file has this name") from error
        if not inside:
            raise _RefusedError(403, "only photos that were uploaded can be read")

    async def _upload(self, scope: dict, receive: App, send: App) -> None:
        if self._uploads >= UPLOADS_AT_ONCE:
            raise _RefusedError(503, "too many photos at once; try again in a moment")
        self._uploads += 1
        try:
            keep_newest(self.folder, self.max_kept)
            await self.app(scope, receive, send)
        finally:
            self._uploads -= 1


def listening(port: int | None) -> socket.socket:
    """A socket on the loopback interface: on `port`, or on the first free one from 7860. Raises `HartError`."""
    for number in [port] if port is not None else range(FIRST_PORT, FIRST_PORT + PORTS):
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((HOST, number))
            listener.listen(CONNECTIONS)
        except OSError as error:
            listener.close()
            reason = error.strerror
        else:
            return listener
    if port is not None:
        raise HartError(f"port {port} cannot be used: {reason}; choose another, or leave --port out for a free one")
    raise HartError(f"no port from {FIRST_PORT} to {FIRST_PORT + PORTS - 1} is free: {reason}; give one with --port")


def keep_newest(folder: Path, most: int) -> None:
    """Deletes the oldest files until `most` bytes are left."""
    files = []
    for path in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):  # an upload beside this one moves its file into place
            status = path.lstat()
            if not path.is_dir():
                files.append((status.st_mtime_ns, status.st_size, path))
    kept = 0
    for _, size, path in sorted(files, reverse=True):
        kept += size
        if kept > most:
            path.unlink(missing_ok=True)


def _paths(values: object) -> Iterator[object]:
    waiting = [values]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            if "path" in value:
                yield value["path"]
            waiting.extend(value.values())
        elif isinstance(value, list):
            waiting.extend(value)


async def _body(receive: App) -> bytes:
    parts = []
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise _RefusedError(400, "the request broke off")
        parts.append(message.get("body", b""))
        if not message.get("more_body"):
            return b"".join(parts)


def _again(body: bytes, receive: App) -> App:
    """A `receive` that gives the body once more, then what comes after it."""
    waiting = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> dict:
        return waiting.pop() if waiting else await receive()

    return replay
