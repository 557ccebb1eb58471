"""The demo's server in a process of its own, spoken to over HTTP."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import urlencode

import psutil

from tests.reliability.process import status_bytes

HOST = "127.0.0.1"
STARTS_WITHIN = 300  # seconds; the machine may be busy


@dataclass(frozen=True)
class DemoServer:
    port: int
    process: psutil.Process

    def request(self, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, str]:
        connection = http.client.HTTPConnection(HOST, self.port, timeout=STARTS_WITHIN)
        with contextlib.closing(connection):
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, body, named)
            answer = connection.getresponse()
            return answer.status, answer.read().decode(errors="replace")

    def preview(self, data: bytes) -> tuple[int, dict]:
        status, text = self.request("POST", "/photo", data)
        return status, json.loads(text) if status == 200 else {"error": text}

    def ask(self, data: bytes, question: str, **words: str) -> tuple[int, str]:
        """(status, what the page shows in the end)."""
        status, text = self.request("POST", f"/ask?{urlencode({'question': question, **words})}", data)
        return status, json.loads(text.splitlines()[-1]) if status == 200 else text

    def peak_mib(self) -> int:
        return status_bytes("VmHWM", self.process.pid) // 2**20


@contextlib.contextmanager
def serving(*words: str) -> Iterator[DemoServer]:
    """`hart-lite demo WORDS`, from when it is ready."""
    command = [sys.executable, "-m", "hart_lite.cli.main", "demo", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            line = process.stdout.readline()
            found = re.search(rf"http://{HOST}:(\d+)", line)
            if not found:
                raise RuntimeError(f"the demo did not start: {line!r}")
            server, deadline = DemoServer(int(found[1]), psutil.Process(process.pid)), time.monotonic() + STARTS_WITHIN
            while server.request("GET", "/")[0] != 200:  # the socket takes requests before the server does
                if time.monotonic() > deadline:
                    raise RuntimeError("the demo does not answer")
            yield server
        finally:
            process.terminate()
            process.wait(30)
