"""Replies of servers, damaged from the status line on: the client answers with a text, a failure or a `HartError`."""

import queue
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress

import pytest
from damage import as_json, check_reader

from hart_lite.errors import HartError
from hart_lite.inference.openai_engine import AbsoluteInterface, ApiEngine
from hart_lite.inference.protocols.base import Outcome, Say
from hart_lite.utils.openai_client import Client

[COMPLETION, BUSY, REFUSED] = as_json(
    {
        "choices": [{"message": {"role": "assistant", "content": "(A)"}}],
        "usage": {"prompt_tokens": 5, "completion_tokens": 2},
    },
    {"error": {"message": "wait"}},
    {"error": "no"},
)
REPLIES = tuple(
    f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\n{headers}\r\n".encode() + body
    for status, headers, body in (
        ("200 OK", "", COMPLETION),
        ("200 OK", "Transfer-Encoding: chunked\r\n", b"3\r\n{}\n\r\n0\r\n\r\n"),
        ("200 OK", "Content-Length: 2\r\n", b"{}"),
        ("429 Slow", "Retry-After: 2\r\n", BUSY),
        ("503 Busy", "Retry-After: Wed, 21 Oct 2015 07:28:00 GMT\r\n", b""),
        ("302 Found", "Location: http://127.0.0.1/\r\n", b""),
    )
)
NO_KEY = b"HTTP/1.1 401 No\r\nWWW-Authenticate: Bearer\r\n\r\n" + REFUSED


@pytest.fixture
def replies(monkeypatch) -> Iterator[tuple[str, queue.SimpleQueue]]:
    """(address of a server, what it sends: one item for each request, head and all)."""
    monkeypatch.setenv("NO_PROXY", "*")
    waiting: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()

    def serve(server: socket.socket) -> None:
        while True:
            connection, _ = server.accept()
            with connection, connection.makefile("rb") as request:
                length = 0
                while (line := request.readline()).strip():
                    if line.lower().startswith(b"content-length:"):
                        length = int(line.split(b":")[1])
                request.read(length)
                if (reply := waiting.get()) is None:
                    return
                connection.sendall(reply)

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=serve, args=(server,))
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}", waiting
        waiting.put(None)
        with socket.create_connection(server.getsockname()) as last:
            last.sendall(b"\r\n")
        thread.join()


def ask(replies: tuple[str, queue.SimpleQueue], reply: bytes) -> None:
    def question():
        return Outcome((yield Say(["?"])))

    url, waiting = replies
    engine = ApiEngine("m", Client(url, "sk-1234", timeout=0.5, attempts=1), AbsoluteInterface(), threads=1)
    waiting.put(reply)
    [(_, done)] = engine.answer([question()])
    assert (done.outcome is None) == bool(done.failure)
    if done.outcome:
        done.outcome.text.encode()


def test_damaged_replies_are_answers_or_failures(replies):
    check_reader(lambda reply: ask(replies, reply), *REPLIES)


@pytest.mark.slow
def test_damaged_completions_are_answers_or_failures(replies):
    head = REPLIES[0].removesuffix(COMPLETION)
    check_reader(lambda body: ask(replies, head + body), COMPLETION)


def test_a_damaged_refusal_of_the_key_is_an_error_or_a_failure(replies):
    def read(data: bytes) -> None:
        with suppress(HartError):  # which the whole refusal is, too
            ask(replies, data)

    check_reader(read, NO_KEY)
