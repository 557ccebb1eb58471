"""Protocols on a model behind an OpenAI-compatible API (`api:MODEL`): chat completions with images as PNG data URLs."""

from __future__ import annotations

import base64
import functools
import io
import queue
import threading
from collections.abc import Iterator, Sequence

from hart_lite.data.images import view_pixels
from hart_lite.errors import HartError
from hart_lite.inference.conversation import Conversation, Spoken, cut_after
from hart_lite.inference.openai_client import Client, RequestError, SilentError
from hart_lite.inference.openai_frames import AbsoluteFrame
from hart_lite.inference.protocols.base import ProtocolRun, Say
from hart_lite.models.families.base import Content
from hart_lite.types import ImageView

THREADS = 4
SILENCE = 16  # conversations in a row to which the server itself had no answer: the others would wait in vain, too
MOST_TOKENS = 2**31  # what says it took more is no count
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
        self._silent = 0  # conversations in a row

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
                self._silent = self._silent + 1 if isinstance(error, SilentError) else 0
                if self._silent >= SILENCE:
                    raise HartError(
                        f"{self.client.url} had no answer to {SILENCE} questions in a row: {error}. Once it has, the "
                        "same command goes on where this one stopped"
                    ) from None
                return Conversation(tuple(turns), None, str(error))
            self._silent = 0
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
        content = _content(answer)
        if content is None:
            said = self.client.complaint(answer)
            raise RequestError("the server's response is no chat completion" + (f": {said}" if said else ""))
        text = cut_after(self.client.clean(content).strip(), say.stop)
        prompt, response = (_tokens(answer, name) for name in ("prompt_tokens", "completion_tokens"))
        images = sum(part["type"] == "image_url" for m in messages if m["role"] == "user" for part in m["content"])
        return text, Spoken(say.kind, text, prompt, response, images)


def _content(answer: dict) -> str | None:
    """The text of a chat completion, in one piece or in parts; a refusal may have none. None for what is none."""
    match answer:
        case {"choices": [{"message": {"content": str(text)}}, *_]}:
            return text
        case {"choices": [{"message": {"content": None}}, *_]}:
            return ""
        case {"choices": [{"message": {"content": [*parts]}}, *_]}:
            texts = [part for part in map(_text, parts) if part is not None]
            return "".join(texts) if texts else None
    return None


def _text(part: object) -> str | None:
    """Of a part that is text, and not a thought or an image."""
    match part:
        case {"type": "text", "text": str(text)}:
            return text
    return None


def _tokens(answer: dict, name: str) -> int | None:
    usage = answer.get("usage")
    count = usage.get(name) if isinstance(usage, dict) else None
    return count if type(count) is int and 0 <= count < MOST_TOKENS else None


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
