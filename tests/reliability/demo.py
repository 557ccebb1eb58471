"""The demo under hostile clients: reachable from this machine only, alive after floods and garbage, bounded in memory.

The server is `hart-lite demo` in a process of its own, with the toy base; its clients speak HTTP to it directly.
"""

from __future__ import annotations

import http.client
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import psutil
from PIL import Image

from tests.bombs import encode, flat_png
from tests.demo_server import HOST, DemoServer, serving
from tests.reliability.check import Check

PARALLEL = 200
MEMORY_MIB = 1536  # above the idle server; most of it is for the largest photo that is decoded
ROUNDS = 3  # of the flood
BOMB = (60_000, 60_000)
LARGEST = (8_000, 8_000)  # pixels; no larger photo is decoded
TOO_LONG = 10**12  # bytes announced


def checks(folder: Path, quick: bool) -> Iterator[Check]:
    if not (find_spec("starlette") and find_spec("uvicorn")):
        print("demo: not measured; it needs starlette and uvicorn: pip install 'hart-lite[demo]'", file=sys.stderr)
        return
    with serving() as server:
        idle = server.peak_mib()
        yield loopback(server)
        yield flood(server, 1 if quick else ROUNDS)
        yield garbage(server)
        yield memory(server, idle, largest=not quick)
        yield elsewhere(server)


def loopback(server: DemoServer) -> Check:
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
        listening == {HOST} and set(strangers.values()) == {400, 403} and not away,
    )


def flood(server: DemoServer, rounds: int) -> Check:
    """`PARALLEL` clients at once: a third loads the page, a third sends a photo, a third asks a question."""
    photo = encode(Image.effect_noise((320, 240), 60), "PNG")

    def client(number: int) -> str:
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
    with ThreadPoolExecutor(PARALLEL) as pool:
        for _ in range(rounds):
            seen.update(pool.map(client, range(PARALLEL)))
    seconds = time.monotonic() - began
    # 503: the server says that it has too many at once.
    allowed = {f"{what} {status}" for what in ("page", "photo", "question") for status in (200, 503)}
    alive = answers(server)
    return Check(
        f"demo: after {PARALLEL} requests at once, it answers the next question",
        f"{', '.join(f'{n} {what}' for what, n in sorted(seen.items()))} in {seconds:.0f} s; next question "
        + ("answered" if alive else "NOT answered"),
        set(seen) <= allowed and seen["page 200"] == rounds * len(range(0, PARALLEL, 3)) and alive,
    )


def answers(server: DemoServer) -> bool:
    """Whether a question with a photo is answered; a queue that is still full is waited for."""
    photo = encode(Image.new("RGB", (320, 240), "#4060a0"), "PNG")
    for _ in range(60):
        status, text = server.ask(photo, "Which character is on the red square?")
        if status != 503:
            return status == 200 and 'class="answer' in text
        time.sleep(1)
    return False


def garbage(server: DemoServer) -> Check:
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
        (_, found), (_, text) = server.preview(data), server.ask(data, "What?")
        if "photo" in found.get("error", "") and "photo" in text and 'role="alert' in text and "Traceback" not in text:
            plain.append(name)
    huge, _ = server.request("POST", "/photo", b"", content_length=str(TOO_LONG))
    alive = answers(server)
    missing = sorted(set(uploads) - set(plain))
    return Check(
        "demo: broken, empty and oversized uploads get a plain error, and the next question is answered",
        f"{len(plain)} of {len(uploads)} got one"
        + (f" (not: {', '.join(missing)})" if missing else "")
        + f"; {TOO_LONG:,} announced bytes: {huge}; next question {'answered' if alive else 'NOT answered'}",
        not missing and huge == 413 and alive,
    )


def memory(server: DemoServer, idle: int, largest: bool) -> Check:
    if largest:  # transparency and rotation take a copy each
        exif = Image.Exif()
        exif[0x0112] = 6
        photo = encode(Image.new("RGBA", LARGEST), "PNG", exif=exif)
        assert 'class="answer' in server.ask(photo, "What?")[1]
    grown = server.peak_mib() - idle
    what = f", a photo of {LARGEST[0] * LARGEST[1] // 10**6} million pixels" if largest else ""
    return Check(
        f"demo: all this{what} takes at most {MEMORY_MIB:,} MiB above the idle server",
        f"{grown:,} MiB above {idle:,}",
        grown <= MEMORY_MIB,
    )


def elsewhere(server: DemoServer) -> Check:
    """Files, addresses and routes that the page never uses."""
    paths = ("/etc/passwd", "/../../etc/passwd", "/file=/etc/passwd", "/docs", "/openapi.json", "/proxy=http://x.test")
    fetched = [server.request("GET", path)[0] for path in paths]
    others = [server.request(method, "/ask")[0] for method in ("GET", "PUT", "DELETE")]
    files = [file.path for file in server.process.open_files() if not file.path.endswith((".so", ".safetensors"))]
    out = [c for c in server.process.net_connections(kind="inet") if c.raddr and c.raddr.ip != HOST]
    return Check(
        "demo: gives out no file, keeps none open, fetches no address, has no API",
        f"{len(paths)} paths: {_all(fetched)}; other methods: {_all(others)}; {len(files)} files open; "
        f"{len(out)} connections out",
        set(fetched) == {404} and set(others) == {405} and not files and not out,
    )


def _all(statuses: list[int]) -> str:
    return " ".join(f"{count} x {status}" for status, count in Counter(statuses).items())
