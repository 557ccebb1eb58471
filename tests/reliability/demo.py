"""The demo under hostile clients: reachable from this machine only, alive after floods and garbage, bounded in memory.

The server is `hart-lite demo` in a process of its own, with the toy base; its clients speak HTTP to it directly.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import psutil
from PIL import Image

from tests.bombs import encode, flat_png
from tests.reliability.check import Check
from tests.reliability.process import status_bytes

HOST = "127.0.0.1"
PARALLEL = 200
TIMEOUT = 300  # seconds
MEMORY_MIB = 1536  # above the idle server; most of it is for the largest photo that is decoded
ROUNDS = 3  # of the flood
BOMB = (60_000, 60_000)
LARGEST = (8_000, 8_000)  # pixels; no larger photo is decoded
TOO_LONG = 10**12  # bytes announced


@dataclass(frozen=True)
class Server:
    port: int
    process: psutil.Process
    folder: Path  # of its uploads

    def request(self, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, str]:
        connection = http.client.HTTPConnection(HOST, self.port, timeout=TIMEOUT)
        with contextlib.closing(connection):
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, body, named)
            answer = connection.getresponse()
            return answer.status, answer.read().decode(errors="replace")

    def upload(self, data: bytes, name: str = "photo.png") -> tuple[int, str]:
        """(status, path on the server, or the response if there is none)."""
        boundary = uuid.uuid4().hex
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'
        body = head.encode() + data + f"\r\n--{boundary}--\r\n".encode()
        status, text = self.request(
            "POST", "/gradio_api/upload", body, content_type=f"multipart/form-data; boundary={boundary}"
        )
        return status, json.loads(text)[0] if status == 200 else text

    def join(self, path: str | None, question: str, session: str) -> tuple[int, str]:
        """Put a question into the queue, as the page's button does; no path is no photo."""
        photo = {"path": path, "orig_name": "photo.png", "meta": {"_type": "gradio.FileData"}} if path else None
        body = {"data": [photo, question, ""], "fn_index": 0, "session_hash": session}
        return self.request(
            "POST", "/gradio_api/queue/join", json.dumps(body).encode(), content_type="application/json"
        )

    def ask(self, path: str | None, question: str) -> str:
        """The events that the page gets for a question."""
        session = uuid.uuid4().hex
        status, text = self.join(path, question, session)
        if status != 200:
            return text
        return self.request("GET", f"/gradio_api/queue/data?session_hash={session}")[1]

    def peak_mib(self) -> int:
        return status_bytes("VmHWM", self.process.pid) // 2**20


@contextlib.contextmanager
def serving(*words: str) -> Iterator[Server]:
    """`hart-lite demo WORDS`, ready when the block begins and stopped when it ends."""
    command = [sys.executable, "-m", "hart_lite.cli.main", "demo", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            line = process.stdout.readline()
            found = re.search(rf"http://{HOST}:(\d+)", line)
            if not found:
                raise RuntimeError(f"the demo did not start: {line!r}")
            port, deadline = int(found[1]), time.monotonic() + TIMEOUT
            server = Server(port, psutil.Process(process.pid), Path())
            while server.request("GET", "/")[0] != 200:  # the socket accepts connections before the server answers
                if time.monotonic() > deadline:
                    raise RuntimeError("the demo does not answer")
            folder = Path(server.upload(b"x")[1]).parent.parent
            yield Server(port, server.process, folder)
        finally:
            process.terminate()
            process.wait(30)


def checks(folder: Path, quick: bool) -> Iterator[Check]:
    if find_spec("gradio") is None:
        print("demo: not measured; it needs gradio: pip install 'hart-lite[demo]'", file=sys.stderr)
        return
    with serving() as server:
        idle = server.peak_mib()
        yield loopback(server)
        yield flood(server, 1 if quick else ROUNDS)
        yield garbage(server)
        yield memory(server, idle, largest=not quick)
        yield elsewhere(server)
        uploads = server.folder
    left = uploads.exists()
    yield Check(
        "demo: stopped, it leaves no uploads behind", "the folder is there" if left else "the folder is gone", not left
    )


def loopback(server: Server) -> Check:
    connections = server.process.net_connections(kind="inet")
    listening = {c.laddr.ip for c in connections if c.status == psutil.CONN_LISTEN}
    away = {c.raddr.ip for c in connections if c.raddr} - {HOST}
    strangers = {
        "Host": server.request("GET", "/", host="evil.example")[0],
        "Origin": server.request("GET", "/", origin="http://evil.example")[0],
    }
    refused = ", ".join(f"foreign {name}: {status}" for name, status in strangers.items())
    return Check(
        "demo: listens on loopback only, refuses pages from elsewhere, connects to nothing",
        f"listens on {', '.join(sorted(listening))}; {refused}; {len(away)} connections out",
        listening == {HOST} and set(strangers.values()) == {403} and not away,
    )


def flood(server: Server, rounds: int) -> Check:
    """`PARALLEL` clients at once: a third loads the page, a third uploads a photo, a third asks a question."""
    photo = encode(Image.effect_noise((320, 240), 60), "PNG")

    def client(number: int) -> str:
        try:
            if number % 3 == 0:
                return f"page {server.request('GET', '/')[0]}"
            if number % 3 == 1:
                return f"upload {server.upload(photo)[0]}"
            return f"question {server.join(None, 'What?', uuid.uuid4().hex)[0]}"
        except (OSError, http.client.HTTPException) as error:
            return f"{type(error).__name__}"

    seen: Counter[str] = Counter()
    began = time.monotonic()
    with ThreadPoolExecutor(PARALLEL) as pool:
        for _ in range(rounds):
            seen.update(pool.map(client, range(PARALLEL)))
    seconds = time.monotonic() - began
    # 503: the server says that it has too many at once.
    allowed = {f"{what} {status}" for what in ("page", "upload", "question") for status in (200, 503)}
    alive = answers(server)
    return Check(
        f"demo: after {PARALLEL} requests at once, it answers the next question",
        f"{', '.join(f'{n} {what}' for what, n in sorted(seen.items()))} in {seconds:.0f} s; next question "
        + ("answered" if alive else "NOT answered"),
        set(seen) <= allowed and seen["page 200"] == rounds * len(range(0, PARALLEL, 3)) and alive,
    )


def answers(server: Server) -> bool:
    """Whether a question with a photo is answered; a queue that is still full is waited for."""
    status, path = server.upload(encode(Image.new("RGB", (320, 240), "#4060a0"), "PNG"))
    for _ in range(60):
        text = server.ask(path, "Which character is on the red square?")
        if "Queue is full" not in text:
            break
        time.sleep(1)
    return status == 200 and "process_completed" in text and 'class=\\"answer' in text


def garbage(server: Server) -> Check:
    whole = encode(Image.effect_noise((400, 400), 60), "PNG")
    uploads = {
        "random bytes": os.urandom(100_000),
        "nothing": b"",
        "text": b"<script>alert(1)</script>" * 100,
        "SVG": b'<svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)"/>',
        "half a PNG": whole[: len(whole) // 2],
        "bit-flipped PNG": whole[:60] + bytes(255 - b for b in whole[60:200]) + whole[200:],
        "bomb": flat_png(BOMB),
    }
    plain = []
    for name, data in uploads.items():
        status, path = server.upload(data)
        text = server.ask(path, "What?") if status == 200 else ""
        refused = status in (400, 413) or ("the photo" in text and 'role=\\"alert' in text)
        if refused and "Traceback" not in text and str(server.folder) not in text:
            plain.append(name)
    head = {"content_type": "multipart/form-data; boundary=x", "content_length": str(TOO_LONG)}
    huge, _ = server.request("POST", "/gradio_api/upload", b"", **head)
    alive = answers(server)
    missing = sorted(set(uploads) - set(plain))
    return Check(
        "demo: broken, empty and oversized uploads get a plain error, and the next question is answered",
        f"{len(plain)} of {len(uploads)} got one"
        + (f" (not: {', '.join(missing)})" if missing else "")
        + f"; {TOO_LONG:,} announced bytes: {huge}; next question {'answered' if alive else 'NOT answered'}",
        not missing and huge == 413 and alive,
    )


def memory(server: Server, idle: int, largest: bool) -> Check:
    if largest:  # transparency and rotation take a copy each
        exif = Image.Exif()
        exif[0x0112] = 6
        assert 'class=\\"answer' in server.ask(
            server.upload(encode(Image.new("RGBA", LARGEST), "PNG", exif=exif))[1], "What?"
        )
    grown = server.peak_mib() - idle
    what = f", a photo of {LARGEST[0] * LARGEST[1] // 10**6} million pixels" if largest else ""
    return Check(
        f"demo: all this{what} takes at most {MEMORY_MIB:,} MiB above the idle server",
        f"{grown:,} MiB above {idle:,}",
        grown <= MEMORY_MIB,
    )


def elsewhere(server: Server) -> Check:
    """Files, addresses and routes that the page never uses."""
    paths = ["/etc/passwd", "../../etc/passwd", f"{server.folder}/../../etc/passwd", "http://example.org/x.png"]
    named = [server.join(path, "What?", uuid.uuid4().hex)[0] for path in paths]
    fetched = [server.request("GET", f"/gradio_api/file={path}")[0] for path in paths]
    other = (
        "/gradio_api/info",
        "/monitoring",
        "/docs",
        "/gradio_api/proxy=http://example.org",
        "/gradio_api/deep_link",
    )
    routes = [server.request("GET", path)[0] for path in other]
    out = [c for c in server.process.net_connections(kind="inet") if c.raddr and c.raddr.ip != HOST]
    return Check(
        "demo: reads no file but uploads, fetches no address, offers no API",
        f"{len(paths)} paths named: {_all(named)}, fetched: {_all(fetched)}; "
        f"{len(other)} other routes: {_all(routes)}; {len(out)} connections out",
        {*named, *fetched} == {403} and set(routes) == {404} and not out,
    )


def _all(statuses: list[int]) -> str:
    return " ".join(f"{count} x {status}" for status, count in Counter(statuses).items())
