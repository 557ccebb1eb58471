"""The demo under hostile guests: it is reachable from this machine only, outlives floods and garbage, and stays small.

The server is `hart-lite demo` in a process of its own, with the embedded base; its guests speak HTTP to it directly.
"""

from __future__ import annotations

import http.client
import io
import os
import sys
import time
import zlib
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import psutil
from PIL import Image

from tests.demo_server import HOST, DemoServer, serving
from tests.reliability.promise import Promise

PARALLEL = 200
ROOM_MIB = 1536  # above the idle server: decoding the largest photo it takes needs most of it
ROUNDS = 3  # of the flood
BOMB = (60_000, 60_000)
LARGEST = (8_000, 8_000)  # pixels; no larger photo is decoded
TOO_LONG = 10**12  # bytes announced


def promises(folder: Path, quick: bool) -> Iterator[Promise]:
    if not (find_spec("starlette") and find_spec("uvicorn")):
        print("demo: not measured, starlette and uvicorn are missing: pip install 'hart-lite[demo]'", file=sys.stderr)
        return
    with serving() as server:
        idle = server.peak_mib()
        yield loopback(server)
        yield flood(server, 1 if quick else ROUNDS)
        yield garbage(server)
        yield memory(server, idle, largest=not quick)
        yield elsewhere(server)


def loopback(server: DemoServer) -> Promise:
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
        listening == {HOST} and set(strangers.values()) == {400, 403} and not away,
    )


def flood(server: DemoServer, rounds: int) -> Promise:
    """As many guests at once as `PARALLEL`: a third each loads the page, has a photo shown, asks."""
    photo = _png(Image.effect_noise((320, 240), 60))

    def guest(number: int) -> str:
        try:
            if number % 3 == 0:
                return f"page {server.request('GET', '/')[0]}"
            if number % 3 == 1:
                return f"photo {server.preview(photo)[0]}"
            return f"question {server.ask(photo, 'What?')[0]}"
        except (OSError, http.client.HTTPException) as error:
            return f"{type(error).__name__}"

    seen: Counter[str] = Counter()
    began = time.monotonic()
    with ThreadPoolExecutor(PARALLEL) as guests:
        for _ in range(rounds):
            seen.update(guests.map(guest, range(PARALLEL)))
    seconds = time.monotonic() - began
    # 503: too many at once, and told so.
    allowed = {f"{what} {status}" for what in ("page", "photo", "question") for status in (200, 503)}
    alive = answers(server)
    return Promise(
        f"demo: outlives {PARALLEL} requests at once, and answers the next question",
        f"{', '.join(f'{n} {what}' for what, n in sorted(seen.items()))} in {seconds:.0f} s; next question "
        + ("answered" if alive else "NOT answered"),
        set(seen) <= allowed and seen["page 200"] == rounds * len(range(0, PARALLEL, 3)) and alive,
    )


def answers(server: DemoServer) -> bool:
    """Whether a whole question gets through; a queue that is still full is waited for."""
    photo = _png(Image.new("RGB", (320, 240), "#4060a0"))
    for _ in range(60):
        status, text = server.ask(photo, "Which character is on the red square?")
        if status != 503:
            return status == 200 and 'class="answer' in text
        time.sleep(1)
    return False


def garbage(server: DemoServer) -> Promise:
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
        (_, found), (_, text) = server.preview(data), server.ask(data, "What?")
        if "photo" in found.get("error", "") and "photo" in text and 'role="alert' in text and "Traceback" not in text:
            plain.append(name)
    huge, _ = server.request("POST", "/photo", b"", content_length=str(TOO_LONG))
    alive = answers(server)
    missing = sorted(set(uploads) - set(plain))
    return Promise(
        "demo: broken, empty and oversized uploads get plain words, and the next question is answered",
        f"{len(plain)} of {len(uploads)} in plain words"
        + (f" (not: {', '.join(missing)})" if missing else "")
        + f"; {TOO_LONG:,} announced bytes: {huge}; next question {'answered' if alive else 'NOT answered'}",
        not missing and huge == 413 and alive,
    )


def memory(server: DemoServer, idle: int, largest: bool) -> Promise:
    if largest:  # see-through and lying on its side: each is a copy more
        exif = Image.Exif()
        exif[0x0112] = 6
        photo = _png(Image.new("RGBA", LARGEST), exif)
        assert 'class="answer' in server.ask(photo, "What?")[1]
    grown = server.peak_mib() - idle
    what = f", a photo of {LARGEST[0] * LARGEST[1] // 10**6} million pixels" if largest else ""
    return Promise(
        f"demo: all this{what} takes at most {ROOM_MIB:,} MiB above the idle server",
        f"{grown:,} MiB above {idle:,}",
        grown <= ROOM_MIB,
    )


def elsewhere(server: DemoServer) -> Promise:
    """Files, addresses and routes that the page does not name."""
    paths = ("/etc/passwd", "/../../etc/passwd", "/file=/etc/passwd", "/docs", "/openapi.json", "/proxy=http://x.test")
    fetched = [server.request("GET", path)[0] for path in paths]
    others = [server.request(method, "/ask")[0] for method in ("GET", "PUT", "DELETE")]
    files = [file.path for file in server.process.open_files() if not file.path.endswith((".so", ".safetensors"))]
    out = [c for c in server.process.net_connections(kind="inet") if c.raddr and c.raddr.ip != HOST]
    return Promise(
        "demo: gives out no file, writes none, fetches no address, has no API",
        f"{len(paths)} paths: {_all(fetched)}; other methods: {_all(others)}; {len(files)} files open; "
        f"{len(out)} connections out",
        set(fetched) == {404} and set(others) == {405} and not files and not out,
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
