"""What models and servers write and people type: responses, recipes, overrides, replies."""

from __future__ import annotations

import queue
import socket
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from benchmarks.trust.fuzz_samples import CHOICES, SIZE, lists, png, text_of
from hart_lite.api_client import Client
from hart_lite.api_engine import ApiEngine
from hart_lite.benchmarks.official import (
    hrbench_letter,
    mme_realworld_letter,
    mmstar_right,
    treebench_miou,
    treebench_right,
    vstar_letter,
)
from hart_lite.boxes import valid_boxes
from hart_lite.families.internvl3 import InternVL3
from hart_lite.families.llava_onevision import LlavaOneVision
from hart_lite.frames import AbsoluteFrame, RelativeFrame
from hart_lite.grading import grade, normalise, read_answer
from hart_lite.images import ImageBytes
from hart_lite.protocols.base import Say, Setting
from hart_lite.protocols.registry import PROTOCOLS
from hart_lite.recipe import dump_recipe, load_recipe
from hart_lite.types import Box, Example

RESPONSES = (
    b"<think>It is red.</think>The answer is (A) red.",
    rb"So \boxed{\text{B}} </s>",
    b"<answer>C. green</answer>",
    b"A or B? I choose D.\n\nAnswer: option (D)",
    "\uff21. \u201cred\u201d \u2014 not (B), because 1,000.0".encode(),
    b'[{"bbox_2d": [100, 40, 200, 140], "label": "x"}, {"bbox_2d": [1, 2, 3e9, nan], "image": 2}]',
    b'```json\n[{"bbox_2d": [10, 20, 110, 220], "label": "sign"}]\n```\nand more',
    b"<ref>image 2</ref><box>[[100, 200, 300, 400],[1,2,3]]</box>",
    b"image 1: [0.1, 0.25, 0.5, .75] <box>[10,20,30,40]</box>",
    b'<tool_call>\n{"name": "image_zoom_in_tool", "arguments": {"bbox_2d": [10, 20, 100, 200]}}\n</tool_call>',
    b'<tool_call>{"name": "crop_image_normalized", "arguments": {"bbox_2d": [0.1, 0.2, 1.0, 0.9], "target_image": 1}}'
    b"</tool_call>",
)


def read_response(data: bytes) -> None:
    """The grader and the official scorers: no error at all."""
    text = text_of(data)
    for choices in ((), CHOICES, CHOICES[:2]):
        letter = read_answer(text, choices)
        assert letter is None or not choices or letter in "ABCD"[: len(choices)], letter
        assert grade(text, "B" if choices else "12", choices) in (True, False)
    assert normalise(normalise(text)) == normalise(text)
    mme_realworld_letter(text, [f"({a}) {c}" for a, c in zip("ABCD", CHOICES, strict=True)])
    vstar_letter(text)
    hrbench_letter(text, CHOICES)
    mmstar_right(text, "B")
    treebench_right(text, "B")
    assert 0 <= treebench_miou(text, [(0, 0, 30, 40)]) <= 1


class _InternVL(InternVL3):
    def __init__(self) -> None:
        """Without a checkpoint: reading boxes needs none."""


class _Llava(LlavaOneVision):
    def __init__(self) -> None:
        """As above."""


FAMILIES = (AbsoluteFrame(), RelativeFrame(), _InternVL(), _Llava())


def read_named_boxes(data: bytes) -> None:
    """Every family's reader: boxes inside the image, or none."""
    text = text_of(data)
    for frame in FAMILIES:
        for originals in ([SIZE], [SIZE, (3, 5)]):
            seen = [(448, 224), (28, 28)][: len(originals)]
            for *corners, image in frame.boxes_from_text(text, seen, originals):
                boxes, rejected = valid_boxes([corners], originals[image], 4, image=image)
                assert len(boxes) + rejected == 1
                for box in boxes:
                    _inside(box, originals[image])


def _inside(box: Box, size: tuple[int, int]) -> None:
    assert 0 <= box.x1 < box.x2 <= size[0] and 0 <= box.y1 < box.y2 <= size[1], box


def protocols(folder: Path) -> Callable[[bytes], None]:
    image = ImageBytes(png(SIZE), "photo")
    example = Example("q", (image,), "Which?", "B", CHOICES)
    plain = Setting(AbsoluteFrame(), "words", 128 * 784, 16 * 784, 784, 0.1, 4, 1.0, 50, 60)

    def read(data: bytes) -> None:
        """Every way of answering, with the pieces of one text for the model's answers."""
        pieces = text_of(data).split("\x1e")
        for protocol in PROTOCOLS.values():
            for setting in (plain, replace(plain, as_published=True)):
                run = protocol(example, setting)
                next(run)
                for turn in range(20):
                    try:
                        run.send(pieces[turn % len(pieces)])
                    except StopIteration as end:
                        for box in end.value.boxes:
                            _inside(box, SIZE)
                        break
                else:
                    raise AssertionError("a conversation of 20 turns")

    return read


OVERRIDES = (
    *(b"k=0.3", b"stages.0.steps=20", b"data.eval_world.colours=[red,green]", b"rollout.samples=8", b"name=x"),
    *(b"stages.1.kind=rl", b"model.lora.parts=[language,vision]", b"data.columns={id: Question}", b"=", b"a.b"),
)


def recipes(folder: Path) -> Callable[[bytes], None]:
    path, again = folder / "recipe.yaml", folder / "again.yaml"

    def read(data: bytes) -> None:
        path.write_bytes(data)
        recipe = load_recipe(path)
        dump_recipe(recipe, again)
        assert load_recipe(again) == recipe

    return read


def read_overrides(data: bytes) -> None:
    load_recipe("tiny_cpu", text_of(data).split("\x1e"))


COMPLETION = {
    "choices": [{"message": {"role": "assistant", "content": "(A)"}}],
    "usage": {"prompt_tokens": 5, "completion_tokens": 2},
}
REPLIES = tuple(
    f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\n{headers}\r\n".encode() + body
    for status, headers, body in (
        ("200 OK", "", lists(COMPLETION)[0]),
        ("200 OK", "Transfer-Encoding: chunked\r\n", b"3\r\n{}\n\r\n0\r\n\r\n"),
        ("200 OK", "Content-Length: 2\r\n", b"{}"),
        ("429 Slow", "Retry-After: 2\r\n", lists({"error": {"message": "wait"}})[0]),
        ("503 Busy", "Retry-After: Wed, 21 Oct 2015 07:28:00 GMT\r\n", b""),
        ("401 No", "WWW-Authenticate: Bearer\r\n", lists({"error": "no"})[0]),
        ("302 Found", "Location: http://127.0.0.1/\r\n", b""),
    )
)


def api(folder: Path) -> Callable[[bytes], None]:
    """The real client and engine; the bytes are what a server on loopback sends back, head and all."""
    server = socket.create_server(("127.0.0.1", 0))
    replies: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def serve() -> None:
        while True:
            connection, _ = server.accept()
            with connection, connection.makefile("rb") as request:
                length = 0
                while (line := request.readline()).strip():
                    if line.lower().startswith(b"content-length:"):
                        length = int(line.split(b":")[1])
                request.read(length)
                connection.sendall(replies.get())

    threading.Thread(target=serve, daemon=True).start()
    client = Client(f"http://127.0.0.1:{server.getsockname()[1]}", "sk-1234", timeout=0.5, attempts=1)
    engine = ApiEngine("m", client, AbsoluteFrame(), threads=1)

    def read(data: bytes) -> None:
        replies.put(data)
        text, turn = engine._request(Say(["?"]), [{"role": "user", "content": [{"type": "text", "text": "?"}]}])
        assert isinstance(text, str) and turn.text == text
        text.encode()

    return read
