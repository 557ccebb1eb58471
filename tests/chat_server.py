"""A chat-completion server for tests, a process of its own: the model's name says how it behaves.

    python chat_server.py    prints its port, and serves until its standard input closes

GET /requests gives what was asked for so far, GET /secrets what came in Authorization headers.
"""

from __future__ import annotations

import base64
import json
import random
import re
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

KEY = "sk-very-secret-0123456789"  # what tests send, and look for where it must not be


@dataclass
class Server:
    """A server as its clients see it."""

    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def get(self, what: str, model: str = "") -> list:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/{what}", timeout=5) as response:
            return [entry for entry in json.load(response) if what == "secrets" or entry["model"] == model]


@contextmanager
def running() -> Iterator[Server]:
    with subprocess.Popen(
        [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield Server(int(process.stdout.readline()))
        process.stdin.close()


SEEN: list[dict] = []
SECRETS: list[str] = []
LOCK = threading.Lock()
BOX = '[{"bbox_2d": [0, 0, 56, 56]}]'
ZOOM = '<tool_call>{"name": "image_zoom_in_tool", "arguments": {"bbox_2d": [0, 0, 56, 56]}}</tool_call>'
CROP = (
    '<tool_call>{"name": "crop_image", "arguments": {"bbox_2d": [0.2, 0.2, 0.4, 0.4], "target_image": 1}}</tool_call>'
)
# What a prompt has in it -> what is said to it.
SCRIPT = {
    "Output the coordinates": BOX,
    "Out the coordinates": f"```json\n{BOX}\n``` It is (C).",
    "Options:": ZOOM,
    "Guidelines:": CROP,
}


def somewhere(number: int) -> list[int]:
    rng = random.Random(number)
    x, y = rng.randrange(880), rng.randrange(880)
    return [x, y, x + 120, y + 120]


def png_size(url: str) -> tuple[int, int]:
    header = base64.b64decode(url.partition(",")[2][:64])
    return int.from_bytes(header[16:20]), int.from_bytes(header[20:24])


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *arguments) -> None:
        pass

    def do_GET(self) -> None:
        self.answer(200, SEEN if self.path == "/requests" else SECRETS)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        secret = self.headers.get("Authorization", "")
        with LOCK:
            earlier = sum(b["model"] == body["model"] for b in SEEN)
            SEEN.append(body)
            SECRETS.append(secret)
        if self.path != "/v1/chat/completions":
            return self.error(404, f"no {self.path}")
        getattr(self, "do_" + body["model"].partition("/")[0].replace("-", "_"))(body, earlier, secret)

    # -- behaviours: (the request, how many of this model came before it, the Authorization header) ------------------

    def do_ok(self, body, earlier, secret) -> None:
        last = body["messages"][-1]["content"]
        text = "".join(part.get("text", "") for part in last)
        self.say(next((said for mark, said in SCRIPT.items() if mark in text), "The answer is (B)."))

    def do_judge(self, body, earlier, secret) -> None:
        """Says yes to a quotation that has the right answer in it, whatever its case; maybe to one that says so."""
        text = body["messages"][-1]["content"]
        gold = re.search(r"Right answer: (.*)", text)[1].lower()
        answer = re.search(r"<answer>\n(.*)\n</answer>", text, re.DOTALL)[1].lower()
        self.say("maybe" if "odd" in answer else "<think>no?</think>Yes." if gold in answer else "No, not at all.")

    def do_500_once(self, body, earlier, secret) -> None:
        self.do_ok(body, earlier, secret) if earlier else self.error(500, "try again")

    def do_500(self, body, earlier, secret) -> None:
        self.error(503, f"overloaded, {secret}")

    def do_two_fail(self, body, earlier, secret) -> None:
        self.do_ok(body, earlier, secret) if earlier >= 2 else self.error(400, "image too large")

    def do_new(self, body, earlier, secret) -> None:
        if "max_tokens" in body:
            self.error(400, "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.")
        else:
            self.do_ok(body, earlier, secret)

    def do_429_seconds(self, body, earlier, secret) -> None:
        self.do_ok(body, earlier, secret) if earlier else self.error(429, "slow down", {"Retry-After": "7"})

    def do_429_date(self, body, earlier, secret) -> None:
        later = formatdate(time.time() + 30, usegmt=True)
        self.do_ok(body, earlier, secret) if earlier else self.error(429, "slow down", {"Retry-After": later})

    def do_429_odd(self, body, earlier, secret) -> None:
        odd = ["soon", "-5", "nan", "99999"][min(earlier, 3)]
        self.error(429, "slow down", {"Retry-After": odd})

    def do_slow(self, body, earlier, secret) -> None:
        time.sleep(3)
        self.do_ok(body, earlier, secret)

    def do_slow_once(self, body, earlier, secret) -> None:
        self.do_ok(body, earlier, secret) if earlier else self.do_slow(body, earlier, secret)

    def do_drip(self, body, earlier, secret) -> None:
        self.send_response(200)
        self.end_headers()
        for _ in range(60):
            self.wfile.write(b" ")
            self.wfile.flush()
            time.sleep(0.1)

    def do_hang_up(self, body, earlier, secret) -> None:
        self.close_connection = True

    def do_gibberish(self, body, earlier, secret) -> None:
        self.wfile.write(secret.removeprefix("Bearer ").encode() + b"x" * 5000 + b"\r\n\r\n")
        self.close_connection = True

    def do_not_json(self, body, earlier, secret) -> None:
        self.send(200, f"<html>{secret}".encode())

    def do_deep(self, body, earlier, secret) -> None:
        self.send(200, b"[" * 1_000_000)

    def do_long(self, body, earlier, secret) -> None:
        self.send(200, b" " * 3_000_000)

    def do_list(self, body, earlier, secret) -> None:
        self.answer(200, [1])

    def do_no_choices(self, body, earlier, secret) -> None:
        self.answer(200, {"choices": []})

    def do_refusal(self, body, earlier, secret) -> None:
        self.answer(
            200, {"choices": [{"message": {"role": "assistant", "content": None}}], "usage": {"prompt_tokens": "x"}}
        )

    def do_keyed(self, body, earlier, secret) -> None:
        if secret == "Bearer right-key-123456":
            return self.do_ok(body, earlier, secret)
        return self.error(401, f"Incorrect API key provided: {secret.removeprefix('Bearer ')}. " + "Long story. " * 100)

    def do_echo_error(self, body, earlier, secret) -> None:
        self.error(400, f"bad header {secret}\n\x1b[31m")

    def do_echo(self, body, earlier, secret) -> None:
        self.say(f"(B). So said the bearer of {secret}, \ud800")

    def do_redirect(self, body, earlier, secret) -> None:
        self.send_response(307)
        self.send_header("Location", f"http://127.0.0.1:{self.server.server_port}/stolen")
        self.end_headers()

    # -- answers that other servers give -----------------------------------------------------------------------------

    def do_parts(self, body, earlier, secret) -> None:
        thought = {"type": "thinking", "thinking": "The answer is (A)."}
        self.say([thought, {"type": "text", "text": "The answer "}, {"type": "text", "text": "is (B)."}])

    def do_thought_only(self, body, earlier, secret) -> None:
        self.say([{"type": "thinking", "thinking": "The answer is (A)."}, 1, None, {"type": "text", "text": 2}])

    def do_error_200(self, body, earlier, secret) -> None:
        self.answer(200, {"error": {"message": f"no credit left, {secret}", "code": 402}})

    def do_countless(self, body, earlier, secret) -> None:
        counts = '{"prompt_tokens": -1, "completion_tokens": ' + "9" * 400 + "}"
        self.send(200, b'{"choices": [{"message": {"content": "B"}}], "usage": ' + counts.encode() + b"}")

    def do_always_500(self, body, earlier, secret) -> None:
        self.error(500, "this image is too much for me")

    def do_silent_then_ok(self, body, earlier, secret) -> None:
        self.do_ok(body, earlier, secret) if earlier % 15 == 14 else self.error(503, "starting")

    # -- how many tokens it counts: 28 x 28 pixels each, a word for each five characters ------------------------------

    def do_counts(self, body, earlier, secret) -> None:
        self.count(body, 1)

    def do_shrinks(self, body, earlier, secret) -> None:
        """Shows its model images of half the tokens."""
        self.count(body, 2)

    def count(self, body, less: int) -> None:
        parts = body["messages"][-1]["content"]
        sizes = [png_size(part["image_url"]["url"]) for part in parts if part["type"] == "image_url"]
        words = sum(len(part.get("text", "")) // 5 for part in parts)
        tokens = sum(width * height // 784 // less for width, height in sizes) + words + 20
        self.say(BOX if "Output the coordinates" in parts[-1].get("text", "") else "The answer is (B).", tokens)

    # -- models that only seem good: "What is written on sign 7?" has the answer "ABCD"[7 % 4] -------------------------

    def do_always_a(self, body, earlier, secret) -> None:
        self.cheat(body, "The answer is (A).", somewhere)

    def do_whole_image(self, body, earlier, secret) -> None:
        self.cheat(body, None, lambda number: [0, 0, 1000, 1000])

    def do_random_boxes(self, body, earlier, secret) -> None:
        self.cheat(body, None, somewhere)

    def cheat(self, body, answer, box) -> None:
        """Answers right where `answer` is None, boxes in thousandths of the image."""
        text = "".join(part.get("text", "") for part in body["messages"][-1]["content"])
        number = int(re.search(r"sign (\d+)", text)[1])
        located = json.dumps([{"bbox_2d": box(number)}])
        self.say(located if "Output the coordinates" in text else answer or f"The answer is ({'ABCD'[number % 4]}).")

    # -- what is sent back ---------------------------------------------------------------------------------------------

    def say(self, text: str | list, tokens: int = 11) -> None:
        message = {"role": "assistant", "content": text}
        usage = {"prompt_tokens": tokens, "completion_tokens": 5}
        self.answer(200, {"choices": [{"message": message, "finish_reason": "stop"}], "usage": usage})

    def error(self, code: int, message: str, headers: dict | None = None) -> None:
        self.send(code, json.dumps({"error": {"message": message}}).encode(), headers)

    def answer(self, code: int, value) -> None:
        self.send(code, json.dumps(value).encode())

    def send(self, code: int, data: bytes, headers: dict | None = None) -> None:
        self.send_response(code)
        for name, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    print(server.server_port, flush=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    sys.stdin.read()
