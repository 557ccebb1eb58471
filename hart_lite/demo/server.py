"""The demo's server, on the loopback interface of this machine and nowhere else.

GET  /              the page
POST /photo         the photo's bytes -> {"preview", "width", "height"} or {"error"}, as JSON
POST /ask           the photo's bytes and ?question=&choices=&box= -> lines of JSON strings: what the page shows, anew
                    each time that something is known. `?example=N` stands for a photo in both.

Photos are in memory for as long as a request lasts. No other page can ask: requests with a foreign Host or Origin are
refused.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Iterator
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request as HTTPRequest
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hart_lite.demo.pages import answers_html, demo_page, notice, preview
from hart_lite.demo.session import MAX_BYTES, Demo, read_photo, read_request
from hart_lite.errors import HartError
from hart_lite.types import Example, ImageSource

HOST, FIRST_PORT, PORTS = "127.0.0.1", 7860, 100
CONNECTIONS = 256
WAITING = 16  # requests in the queue; a further one is told so
HELD_BYTES = 4 * MAX_BYTES  # of all photos in memory
HEADERS = {
    "content-security-policy": "frame-ancestors 'none'",  # the page itself says the rest
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}


class OwnPage:
    """Refuses what another page sends, and adds `HEADERS` to every answer."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        headers = Headers(scope=scope)
        origin, site = headers.get("origin"), headers.get("sec-fetch-site", "none")
        strange = origin not in (None, f"http://{headers.get('host')}")
        if strange or (scope["method"] == "POST" and site not in ("none", "same-origin")):
            refusal = PlainTextResponse("only the demo's own page may ask\n", 403)
            await refusal(scope, receive, send_with_headers)
        else:
            await self.app(scope, receive, send_with_headers)


class Queue:
    """One request at a time goes through the model or a decoder. Counts those that wait and the bytes they hold."""

    def __init__(self) -> None:
        self.turn, self.waiting, self.held = asyncio.Lock(), 0, 0

    def enter(self, request: HTTPRequest) -> int:
        """The bytes of a request, which the server holds to the length it announces. Raises `HTTPException`."""
        length = request.headers.get("content-length", "")
        if not length.isdecimal():
            raise HTTPException(411, "a request has to say how long it is")
        size = int(length[:16])
        if size > MAX_BYTES:
            raise HTTPException(413, f"the photo has more than {MAX_BYTES // 2**20} MiB; scale it down")
        if self.waiting >= WAITING or self.held + size > HELD_BYTES:
            raise HTTPException(503, "too many questions at once; try again in a moment")
        self.waiting, self.held = self.waiting + 1, self.held + size
        return size

    def leave(self, size: int) -> None:
        self.waiting, self.held = self.waiting - 1, self.held - size


class Answers(StreamingResponse):
    """Leaves the queue when it ends, however it ends."""

    def __init__(self, lines: AsyncIterator[str], queue: Queue, size: int) -> None:
        super().__init__(lines, media_type="application/x-ndjson")
        self.queue, self.size = queue, size

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self.queue.leave(self.size)


def build_app(demo: Demo, about: str) -> Starlette:
    """`about` says who answers."""
    queue = Queue()
    page = demo_page(demo, about)

    def example_of(request: HTTPRequest) -> Example | None:
        number = request.query_params.get("example", "")
        if not number:
            return None
        if not number.isdecimal() or int(number[:9]) >= len(demo.examples):
            raise HTTPException(404, "there is no such example")
        return demo.examples[int(number)]

    async def home(request: HTTPRequest) -> Response:
        return HTMLResponse(page)

    async def photo(request: HTTPRequest) -> Response:
        example, size = example_of(request), queue.enter(request)
        try:
            data = await request.body()
            async with queue.turn:
                found = await run_in_threadpool(preview, demo, example, data)
        except HartError as error:
            found = {"error": str(error)}
        finally:
            queue.leave(size)
        return JSONResponse(found)

    async def ask(request: HTTPRequest) -> Response:
        example, before, size = example_of(request), queue.waiting, queue.enter(request)
        try:
            data = await request.body()
        except BaseException:
            queue.leave(size)
            raise
        steps = _steps(demo, example, data, dict(request.query_params))
        return Answers(_lines(steps, queue, before), queue, size)

    return Starlette(
        routes=[
            Route("/", home),
            Route("/photo", photo, methods=["POST"]),
            Route("/ask", ask, methods=["POST"]),
        ],
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"]), Middleware(OwnPage)],
        exception_handlers={HTTPException: _in_words},
    )


async def _in_words(request: HTTPRequest, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return PlainTextResponse(f"{error.detail}\n", error.status_code)


async def _lines(steps: Iterator[str], queue: Queue, before: int) -> AsyncIterator[str]:
    if before:
        yield _line(f'<p class="soft" role="status">Waiting: {before} before this one.</p>')
    async with queue.turn:
        while (html := await run_in_threadpool(next, steps, None)) is not None:
            yield _line(html)


def _line(html: str) -> str:
    return json.dumps(html) + "\n"


def _steps(demo: Demo, example: Example | None, data: bytes, words: dict[str, str]) -> Iterator[str]:
    """What the page shows, each time that somebody has answered."""
    try:
        photo: ImageSource = example.images[0] if example else read_photo(data)
        named = (words.get(name, "") for name in ("question", "choices", "box"))
        request, found = read_request(photo, *named, example), {}
        yield answers_html(request, demo.answerers, found)
        for who, answers in demo.answers(request):
            found[who] = answers
            yield answers_html(request, demo.answerers, found)
    except HartError as error:
        yield notice(str(error))


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


def serve(demo: Demo, about: str, listener: socket.socket) -> None:
    """Until it is stopped."""
    options: dict[str, Any] = {"log_level": "warning", "lifespan": "off", "ws": "none", "server_header": False}
    config = uvicorn.Config(
        build_app(demo, about), limit_concurrency=CONNECTIONS, timeout_graceful_shutdown=2, **options
    )
    print(f"hart-lite: the demo is at http://{HOST}:{listener.getsockname()[1]} (Ctrl+C stops it)", flush=True)
    uvicorn.Server(config).run(sockets=[listener])
