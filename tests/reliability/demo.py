"""The demo under hostile guests: it is reachable from this machine only, outlives floods and garbage, and stays small.

The server is `hart-lite demo` in a process of its own, with the embedded base; its guests speak HTTP to it directly.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import os
import re
import subprocess
import sys
import time
import uuid
import zlib
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import psutil
from PIL import Image

from tests.reliability.promise import Promise

HOST = "127.0.0.1"
PARALLEL = 200
STARTS_WITHIN = 300  # seconds
ROOM_MIB = 1536  # above the idle server: decoding the largest photo it takes needs most of it
ROUNDS = 3  # of the flood
BOMB = (60_000, 60_000)
LARGEST = (8_000, 8_000)  # pixels; no larger photo is decoded
TOO_LONG = 10**12  # bytes announced


@dataclass(frozen=True)
class Server:
    port: int
    process: psutil.Process
    folder: Path  # where its uploads lie

    def request(self, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, str]:
        connection = http.client.HTTPConnection(HOST, self.port, timeout=STARTS_WITHIN)
        with contextlib.closing(connection):
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, body, named)
            answer = connection.getresponse()
            return answer.status, answer.read().decode(errors="replace")

    def upload(self, data: bytes, name: str = "photo.png") -> tuple[int, str]:
        """(status, path on the server or what it said)."""
        mark = uuid.uuid4().hex
        head = f'--{mark}\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'
        body = head.encode() + data + f"\r\n--{mark}--\r\n".encode()
        status, text = self.request(
            "POST", "/gradio_api/upload", body, content_type=f"multipart/form-data; boundary={mark}"
        )
        return status, json.loads(text)[0] if status == 200 else text

    def join(self, path: str | None, question: str, session: str) -> tuple[int, str]:
        """Queue a question, as the page's button does."""
        photo = {"path": path, "orig_name": "photo.png", "meta": {"_type": "gradio.FileData"}} if path else None
        body = {"data": [photo, question, ""], "fn_index": 0, "session_hash": session}
        return self.request(
            "POST", "/gradio_api/queue/join", json.dumps(body).encode(), content_type="application/json"
        )

    def ask(self, path: str | None, question: str) -> str:
        """What the page is sent in the end, as it is sent."""
        session = uuid.uuid4().hex
        status, text = self.join(path, question, session)
        if status != 200:
            return text
        return self.request("GET", f"/gradio_api/queue/data?session_hash={session}")[1]

    def peak_mib(self) -> int:
        [line] = [x for x in Path(f"/proc/{self.process.pid}/status").read_text().splitlines() if x.startswith("VmHWM")]
        return int(line.split()[1]) // 1024


@contextlib.contextmanager
def serving(*words: str) -> Iterator[Server]:
    """`hart-lite demo WORDS`, until it is ready and while the block runs."""
    command = [sys.executable, "-m", "hart_lite.cli.main", "demo", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            line = process.stdout.readline()
            found = re.search(rf"http://{HOST}:(\d+)", line)
            if not found:
                raise RuntimeError(f"the demo did not start: {line!r}")
            port, deadline = int(found[1]), time.monotonic() + STARTS_WITHIN
            server = Server(port, psutil.Process(process.pid), Path())
            while server.request("GET", "/")[0] != 200:  # the socket takes requests before the server does
                if time.monotonic() > deadline:
                    raise RuntimeError("the demo does not answer")
            folder = Path(server.upload(b"x")[1]).parent.parent
            yield Server(port, server.process, folder)
        finally:
            process.terminate()
            process.wait(30)


def promises(folder: Path, quick: bool) -> Iterator[Promise]:
    if find_spec("gradio") is None:
        print("demo: not measured, gradio is not installed: pip install 'hart-lite[demo]'", file=sys.stderr)
        return
    with serving() as server:
        idle = server.peak_mib()
        yield loopback(server)
        yield flood(server, 1 if quick else ROUNDS)
        yield garbage(server)
        yield memory(server, idle, largest=not quick)
        yield elsewhere(server)
        kept = server.folder
    left = kept.exists()
    yield Promise("demo: stopped, it leaves no photo behind", "folder is there" if left else "folder is gone", not left)


def loopback(server: Server) -> Promise:
    connections = server.process.net_connections(kind="inet")
    listening = {c.laddr.ip for c in connections if c.status == psutil.CONN_LISTEN}
    away = {c.raddr.ip for c in connections if c.raddr} - {HOST}
    strangers = {
        "Host": server.request("GET", "/", host="evil.example")[0],
        "Origin": server.request("GET", "/", origin="http://evil.example")[0],
    }
    said = ", ".join(f"foreign {name}: {status}" for name, status in strangers.items())
    return Promise(
        "demo: listens on loopback only, refuses pages from elsewhere, connects to nothing",
        f"listens on {', '.join(sorted(listening))}; {said}; {len(away)} connections out",
        listening == {HOST} and set(strangers.values()) == {403} and not away,
    )


def flood(server: Server, rounds: int) -> Promise:
    """As many guests at once as `PARALLEL`: a third each loads the page, uploads a photo, asks."""
    photo = _png(Image.effect_noise((320, 240), 60))

    def guest(number: int) -> str:
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
    with ThreadPoolExecutor(PARALLEL) as guests:
        for _ in range(rounds):
            seen.update(guests.map(guest, range(PARALLEL)))
    seconds = time.monotonic() - began
    # 503: too many at once, and told so.
    allowed = {f"{what} {status}" for what in ("page", "upload", "question") for status in (200, 503)}
    alive = answers(server)
    return Promise(
        f"demo: outlives {PARALLEL} requests at once, and answers the next question",
        f"{', '.join(f'{n} {what}' for what, n in sorted(seen.items()))} in {seconds:.0f} s; next question "
        + ("answered" if alive else "NOT answered"),
        set(seen) <= allowed and seen["page 200"] == rounds * len(range(0, PARALLEL, 3)) and alive,
    )


def answers(server: Server) -> bool:
    """Whether a whole question gets through; a queue that is still full is waited for."""
    status, path = server.upload(_png(Image.new("RGB", (320, 240), "#4060a0")))
    for _ in range(60):
        text = server.ask(path, "Which character is on the red square?")
        if "Queue is full" not in text:
            break
        time.sleep(1)
    return status == 200 and "process_completed" in text and 'class=\\"answer' in text


def garbage(server: Server) -> Promise:
    whole = _png(Image.effect_noise((400, 400), 60))
    uploads = {
        "random bytes": os.urandom(100_000),
        "nothing": b"",
        "text": b"<script>alert(1)</script>" * 100,
        "SVG": b'<svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)"/>',
        "half a PNG": whole[: len(whole) // 2],
        "bit-flipped PNG": whole[:60] + bytes(255 - b for b in whole[60:200]) + whole[200:],
        "bomb": _flat_png(*BOMB),
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
    return Promise(
        "demo: broken, empty and oversized uploads get plain words, and the next question is answered",
        f"{len(plain)} of {len(uploads)} in plain words"
        + (f" (not: {', '.join(missing)})" if missing else "")
        + f"; {TOO_LONG:,} announced bytes: {huge}; next question {'answered' if alive else 'NOT answered'}",
        not missing and huge == 413 and alive,
    )


def memory(server: Server, idle: int, largest: bool) -> Promise:
    if largest:  # see-through and lying on its side: each is a copy more
        exif = Image.Exif()
        exif[0x0112] = 6
        assert 'class=\\"answer' in server.ask(server.upload(_png(Image.new("RGBA", LARGEST), exif))[1], "What?")
    grown = server.peak_mib() - idle
    what = f", a photo of {LARGEST[0] * LARGEST[1] // 10**6} million pixels" if largest else ""
    return Promise(
        f"demo: all this{what} takes at most {ROOM_MIB:,} MiB above the idle server",
        f"{grown:,} MiB above {idle:,}",
        grown <= ROOM_MIB,
    )


def elsewhere(server: Server) -> Promise:
    """Files and addresses that no page of ours names."""
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
    return Promise(
        "demo: reads no file but uploads, fetches no address, has no API",
        f"{len(paths)} paths named: {_all(named)}, fetched: {_all(fetched)}; "
        f"{len(other)} other routes: {_all(routes)}; {len(out)} connections out",
        {*named, *fetched} == {403} and set(routes) == {404} and not out,
    )


def _all(statuses: list[int]) -> str:
    return " ".join(f"{count} x {status}" for status, count in Counter(statuses).items())


def _png(image: Image.Image, exif: Image.Exif | None = None) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG", exif=exif)
    return file.getvalue()


def _flat_png(width: int, height: int) -> bytes:
    """A black one of any size in little memory: a thousandth of its bits."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4) + kind + data + zlib.crc32(kind + data).to_bytes(4)

    packer, row = zlib.compressobj(), bytes(1 + (width + 7) // 8)
    data = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    header = width.to_bytes(4) + height.to_bytes(4) + bytes((1, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
