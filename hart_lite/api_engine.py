"""Protocols on a model behind an OpenAI-compatible API (`api:MODEL`): chat completions with images as PNG data URLs."""

from __future__ import annotations

import base64
import functools
import io
import queue
import threading
from collections.abc import Iterator, Sequence

from hart_lite.api_client import Client, RequestError
from hart_lite.conversation import Conversation, Spoken, cut_after
from hart_lite.families.base import Content
from hart_lite.frames import AbsoluteFrame
from hart_lite.images import view_pixels
from hart_lite.protocols.base import ProtocolRun, Say
from hart_lite.types import ImageView

THREADS = 4
NEW_LIMIT = "max_completion_tokens"  # what some models want `max_tokens` to be called, and say so
ENCODED = 64  # data URLs kept: the questions on one image send it again and again


class ApiEngine:
    """`frame` says how the model is taken to write boxes."""

    at_once = 4 * THREADS
    in_company = False

    def __init__(self, model: str, client: Client, frame: AbsoluteFrame, threads: int = THREADS) -> None:
        self.model, self.client, self.frame, self.threads = model, client, frame, threads
        self._data_url = functools.lru_cache(ENCODED)(_data_url)
        self._limit = "max_tokens"

    def answer(self, runs: Sequence[ProtocolRun]) -> Iterator[tuple[int, Conversation]]:
        """A few conversations at a time, each in a thread of its own. An error that none can survive ends them all."""
        waiting, done, stop = queue.SimpleQueue(), queue.SimpleQueue(), threading.Event()
        for numbered in enumerate(runs):
            waiting.put(numbered)

        def work() -> None:
            while not stop.is_set():
                try:
                    n, run = waiting.get_nowait()
                except queue.Empty:
                    return
                try:
                    done.put((n, self._talk(run, stop)))
                except BaseException as error:  # handed to the caller's thread, which raises it
                    done.put((n, error))
                    return

        for _ in range(min(self.threads, len(runs))):
            threading.Thread(target=work, daemon=True).start()  # daemon: a stopped evaluation waits for no server
        try:
            for _ in runs:
                n, result = done.get()
                if isinstance(result, BaseException):
                    raise result
                yield n, result
        finally:
            stop.set()

    def _talk(self, run: ProtocolRun, stop: threading.Event) -> Conversation:
        messages: list[dict] = []
        turns: list[Spoken] = []
        say = next(run)
        while True:
            messages = self._asked(say, messages)
            try:
                text, turn = self._request(say, messages)
            except RequestError as error:
                return Conversation(tuple(turns), None, str(error))
            turns.append(turn)
            messages.append({"role": "assistant", "content": text})
            try:
                say = run.send(text)
            except StopIteration as end:
                return Conversation(tuple(turns), end.value)
            if stop.is_set():
                return Conversation(tuple(turns), None, "stopped")

    def _asked(self, say: Say, messages: list[dict]) -> list[dict]:
        """The conversation with the next user message. What a response stands as is settled when the talk goes on."""
        if say.fresh:
            messages = [{"role": "system", "content": say.system}] if say.system else []
        elif say.keep is not None:
            messages = [*messages[:-1], {"role": "assistant", "content": say.keep}]
        return [*messages, {"role": "user", "content": [self._part(part) for part in _joined(say.content)]}]

    def _part(self, part: str | ImageView) -> dict:
        if isinstance(part, str):
            return {"type": "text", "text": part}
        return {"type": "image_url", "image_url": {"url": self._data_url(part)}}

    def _request(self, say: Say, messages: list[dict]) -> tuple[str, Spoken]:
        body, limit = {"model": self.model, "messages": messages, "temperature": 0}, self._limit
        try:
            answer = self.client.post(body | {limit: say.max_tokens})
        except RequestError as error:
            if NEW_LIMIT not in str(error) or limit == NEW_LIMIT:
                raise
            self._limit = NEW_LIMIT
            answer = self.client.post(body | {NEW_LIMIT: say.max_tokens})
        text = cut_after(self.client.clean(_content(answer)).strip(), say.stop)
        usage = answer.get("usage") if isinstance(answer.get("usage"), dict) else {}
        prompt, response = (
            usage.get(name) if type(usage.get(name)) is int else None for name in ("prompt_tokens", "completion_tokens")
        )
        images = sum(part["type"] == "image_url" for m in messages if m["role"] == "user" for part in m["content"])
        return text, Spoken(say.kind, text, prompt, response, images)


def _content(answer: dict) -> str:
    """The text of a chat completion; a refusal may have none."""
    match answer:
        case {"choices": [{"message": {"content": str(text)}}, *_]}:
            return text
        case {"choices": [{"message": {"content": None}}, *_]}:
            return ""
    raise RequestError("the server's response is no chat completion")


def _joined(content: Content) -> list[str | ImageView]:
    """Neighbouring texts as one: servers differ in what they put between two."""
    out: list[str | ImageView] = []
    for part in content:
        if isinstance(part, str) and out and isinstance(out[-1], str):
            out[-1] += part
        else:
            out.append(part)
    return out


def _data_url(view: ImageView) -> str:
    buffer = io.BytesIO()
    view_pixels(view).save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
