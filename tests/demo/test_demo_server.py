"""The demo's server: who is let in, what is bounded, that one question at a time goes through the model."""

import asyncio
import io
import json
import threading
from urllib.parse import quote, urlencode

import pytest
from pages import Page
from PIL import Image

pytest.importorskip("starlette", reason="of the extra demo, which dev has too")

from hart_lite.demo.server import HELD_BYTES, WAITING, build_app, listening
from hart_lite.demo.session import MAX_BYTES, Demo
from hart_lite.errors import HartError
from hart_lite.inference.ask import Answer
from hart_lite.inference.load import OpenModel
from hart_lite.toy.scenes import World, examples
from hart_lite.types import Box

HOST = "127.0.0.1:7860"


def photo(size=(200, 100)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, "#808080").save(file, "PNG")
    return file.getvalue()


class Talker(Demo):
    """Answers with what it was asked, once `go` is set; counts how many are at it at the same time."""

    def __init__(self, go: threading.Event | None = None) -> None:
        super().__init__(OpenModel("talker", None, "none", {}, None), examples(World(), range(2), 1))
        object.__setattr__(self, "go", go)
        object.__setattr__(self, "busy", [0, 0])  # now, at most

    def answers(self, request):
        self.busy[0] += 1
        self.busy[1] = max(self.busy)
        if self.go:
            assert self.go.wait(60)
        text = f"{request.boxes} {request.photo.size()}"
        answers = [Answer(q, request.choices, text, "A" if request.choices else q) for q in request.questions]
        self.busy[0] -= 1
        yield "model", answers


async def call(app, method: str, path: str, body: bytes = b"", headers: dict | None = None) -> tuple[int, dict, str]:
    """(status, headers, text) of an answer. A header of "" is left out."""
    path, _, query = path.partition("?")
    given = {"host": HOST} | ({"content-length": str(len(body))} if method == "POST" else {}) | (headers or {})
    coded = [(name.encode(), value.encode()) for name, value in given.items() if value]
    scope = {"type": "http", "method": method, "path": path, "raw_path": path.encode(), "query_string": query.encode(),
             "headers": coded, "http_version": "1.1", "scheme": "http", "server": ("127.0.0.1", 7860), "root_path": "",
             "client": ("127.0.0.1", 1)}  # fmt: skip
    halves, sent, over = [body[: len(body) // 2], body[len(body) // 2 :]], [], asyncio.Event()

    async def receive():
        if not halves:
            await over.wait()
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": halves.pop(0), "more_body": bool(halves)}

    async def send(message):
        sent.append(message)

    await app(scope, receive, send)
    over.set()
    named = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], named, b"".join(m.get("body", b"") for m in sent[1:]).decode()


def knock(method: str, path: str, body: bytes = b"", headers: dict | None = None, demo: Demo | None = None):
    return asyncio.run(call(build_app(demo or Talker(), "it answers."), method, path, body, headers))


def shown(text: str) -> list[str]:
    return [json.loads(line) for line in text.splitlines()]


def test_the_page_loads_nothing_from_elsewhere_and_stands_in_no_frame():
    status, headers, text = knock("GET", "/")
    page = Page(text)
    assert status == 200 and page.tags.count("form") == 1
    assert headers["content-security-policy"] == "frame-ancestors 'none'"
    assert headers["x-content-type-options"] == "nosniff" and headers["cache-control"] == "no-store"
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert page.values("button", "data-example") == ["0", "1"]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"host": "evil.example:7860"}, 400),
        ({"host": "127.0.0.1.evil.example"}, 400),
        ({"host": ""}, 400),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "http://127.0.0.1:9999"}, 403),
        ({"origin": "null"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-site"}, 403),
    ],
)
def test_who_comes_from_elsewhere_is_refused(headers, status):
    demo = Talker()
    for path in ("/ask?question=What", "/photo"):
        assert knock("POST", path, photo(), headers, demo)[0] == status
    assert demo.busy == [0, 0]


def test_the_own_page_is_let_in():
    own = {"origin": "http://localhost:7860", "host": "localhost:7860", "sec-fetch-site": "same-origin"}
    assert knock("POST", "/ask?question=What", photo(), own)[0] == 200
    assert knock("GET", "/", headers={"sec-fetch-site": "cross-site"})[0] == 200  # a link that was followed


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        *((method, "/", 405) for method in ("POST", "PUT", "DELETE", "OPTIONS")),
        *(("GET", path, 405) for path in ("/ask", "/photo")),
        *(("GET", path, 404) for path in ("/docs", "/openapi.json", "/static/x", "/file=/etc/passwd", "/../x")),
        *(("POST", f"/ask?question=What&example={n}", 404) for n in ("2", "-1", "x", "9" * 5000)),
    ],
)
def test_what_the_page_does_not_need_is_not_there(method, path, status):
    assert knock(method, path)[0] == status


def test_bodies_are_bounded_and_say_how_long_they_are():
    for length, status in (("", 411), ("-1", 411), (str(MAX_BYTES + 1), 413), ("9" * 5000, 413)):
        for path in ("/ask?question=What", "/photo"):
            assert knock("POST", path, photo(), {"content-length": length})[0] == status


def test_a_question_is_answered_and_what_the_page_shows_comes_line_by_line():
    query = urlencode({"question": "What <b>?\nWhere?", "choices": "a, b", "box": "10,20,30,40"})
    status, _, text = knock("POST", f"/ask?{query}", photo())
    first, last = shown(text)
    assert status == 200 and first.count("looking ..") == 2
    assert "What &lt;b&gt;?" in last and "<b>" not in last
    assert str(Box(10.0, 20.0, 30.0, 40.0)) in last and "(200, 100)" in last


def test_an_example_needs_no_photo():
    example = examples(World(), range(2), 1)[1]
    query = urlencode({"question": example.question, "choices": ", ".join(example.choices), "example": 1})
    [_, last] = shown(knock("POST", f"/ask?{query}")[2])
    assert "(672, 672)" in last and "verdict" in last
    found = json.loads(knock("POST", "/photo?example=1")[2])
    assert (found["width"], found["height"]) == (672, 672)


def test_a_photo_is_shown_upright_at_once():
    exif = Image.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    Image.new("RGB", (60, 40), "red").save(file, "JPEG", exif=exif)
    found = json.loads(knock("POST", "/photo", file.getvalue())[2])
    assert (found["width"], found["height"]) == (40, 60)
    assert found["preview"].startswith("data:image/jpeg;base64,")


@pytest.mark.parametrize("data", [b"", b"noise", photo()[:40], b"\0\0\0\x18ftypheic" + bytes(99)])
def test_a_photo_that_cannot_be_read_is_said_in_words(data):
    found = json.loads(knock("POST", "/photo", data)[2])
    [html] = shown(knock("POST", "/ask?question=What", data)[2])
    assert found["error"].startswith(("the photo: ", "there is no photo"))
    assert 'role="alert"' in html and "Traceback" not in html
    assert ("HEIC" in found["error"]) == (b"heic" in data)


@pytest.mark.parametrize(
    "query",
    [
        "",
        "question=",
        "question=%ff",
        "question=What&box=a",
        "question=What&box=500,500,600,600",
        "question=" + "x" * 600,
    ],
)
def test_a_question_that_cannot_be_asked_is_said_in_words(query):
    class Refuses(Talker):
        def answers(self, request):
            raise HartError("nothing can be answered")

    [*_, html] = shown(knock("POST", f"/ask?{query}", photo(), demo=Refuses())[2])
    assert 'role="alert"' in html
    assert ("nothing can be answered" in html) == ("%ff" in query or "500" in query)  # checked by who answers


def test_one_question_at_a_time_goes_through_and_the_others_are_told():
    async def all_at_once():
        go = threading.Event()
        demo = Talker(go)
        app = build_app(demo, "it answers.")
        first = asyncio.create_task(call(app, "POST", "/ask?question=First", photo()))
        while not demo.busy[0]:
            await asyncio.sleep(0.01)
        others = [asyncio.create_task(call(app, "POST", f"/ask?question={n}", photo())) for n in range(WAITING - 1)]
        for _ in range(5):
            await asyncio.sleep(0.01)
        refused = await call(app, "POST", "/ask?question=Late", photo())
        page = await call(app, "GET", "/")
        go.set()
        answered = await asyncio.gather(first, *others)
        after = await call(app, "POST", "/ask?question=After", photo())
        return demo, refused, page, answered, after

    demo, refused, page, answered, after = asyncio.run(all_at_once())
    assert (refused[0], page[0], after[0]) == (503, 200, 200) and "try again" in refused[2]
    assert demo.busy == [0, 1]
    assert [status for status, _, _ in answered] == [200] * WAITING
    waited = [html for _, _, text in answered[1:] for html in shown(text) if "Waiting" in html]
    assert len(waited) == WAITING - 1 and "Waiting: 1 before this one." in waited[0]


def test_photos_in_memory_are_bounded():
    async def large_ones():
        app = build_app(Talker(), "it answers.")
        length = {"content-length": str(MAX_BYTES)}
        started = asyncio.Event()

        async def stalled():
            """A request that announces a large photo and never sends it."""
            scope = {"type": "http", "method": "POST", "path": "/photo", "query_string": b"", "http_version": "1.1",
                     "headers": [(b"host", HOST.encode()), (b"content-length", str(MAX_BYTES).encode())]}  # fmt: skip

            async def receive():
                started.set()
                await asyncio.Event().wait()

            await app(scope, receive, None)

        tasks = [asyncio.create_task(stalled()) for _ in range(HELD_BYTES // MAX_BYTES)]
        await started.wait()
        await asyncio.sleep(0)
        full = await call(app, "POST", "/photo", b"x", length)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return full[0], (await call(app, "POST", "/photo", b"x"))[0]

    assert asyncio.run(large_ones()) == (503, 200)


def test_text_that_is_no_text_does_not_end_the_server():
    status, _, text = knock("POST", f"/ask?question={quote(chr(0xD800), errors='surrogatepass')}", photo())
    assert status == 200 and shown(text)


def test_ports_are_on_this_machine_and_a_taken_one_is_said():
    with listening(None) as first, listening(None) as second:
        host, port = first.getsockname()
        assert host == "127.0.0.1" and second.getsockname()[1] > port >= 7860
        with pytest.raises(HartError, match=f"port {port} cannot be used: .*leave --port out"):
            listening(port)
