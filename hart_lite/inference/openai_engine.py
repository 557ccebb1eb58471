"""Protocols on a model behind an OpenAI-compatible API (`api:MODEL`): chat completions with images as PNG data URLs.

How such a model writes boxes is a convention that is chosen, since no server tells:

absolute  pixels of the image as it is sent (Qwen2.5-VL)
relative  0 to 1000 of the image's width and height (Qwen3-VL, InternVL)

Images are sent at sides that are multiples of 28, so that a Qwen server has nothing to round. Of a known family its own
rules are taken for both, and its count of image tokens: a server that reads fewer has scaled the images down, and its
boxes would lie in pixels that nobody knows.
"""

from __future__ import annotations

import base64
import functools
import io
import queue
import threading
from collections.abc import Iterator, Sequence

from hart_lite.errors import HartError, ModelError
from hart_lite.inference.engine import GREEDY, Conversation, Decoding, cut_after
from hart_lite.inference.protocols.base import ProtocolRun, Say
from hart_lite.models.families.base import Content, ImageInterface
from hart_lite.models.families.chat import ChatFamily
from hart_lite.models.families.qwen2_5_vl import MAX_ASPECT, Qwen25VL
from hart_lite.types import ImageView, Tokens, Turn
from hart_lite.utils.openai_chat import Chat
from hart_lite.utils.openai_client import Client, RequestError, SilentError

THREADS = 4
SILENCE = 16  # conversations in a row to which the server itself had no answer: the others would wait in vain, too
ENCODED = 64  # data URLs kept: the questions on one image send it again and again


GRID = 28


class AbsoluteInterface:
    """Implements `hart_lite.models.families.base.ImageInterface`."""

    name = "absolute"
    locate_words = Qwen25VL.locate_words
    several_words = Qwen25VL.several_words
    box_format = Qwen25VL.box_format
    written_boxes = Qwen25VL.written_boxes
    boxes_from_text = Qwen25VL.boxes_from_text

    def fit(self, size: tuple[int, int], max_pixels: int, min_pixels: int) -> tuple[int, int]:
        """Both sides multiples of 28, the shape kept as far as that goes, within the budget of pixels."""
        width, height = max(size[0], size[1] / MAX_ASPECT), max(size[1], size[0] / MAX_ASPECT)
        area = width * height
        factor = min(max(1.0, (min_pixels / area) ** 0.5), (max_pixels / area) ** 0.5)
        w, h = (max(round(side * factor / GRID), 1) * GRID for side in (width, height))
        while w * h > max_pixels and max(w, h) > GRID:
            w, h = (w - GRID, h) if w > h else (w, h - GRID)
        return w, h


class RelativeInterface(AbsoluteInterface):
    """Implements `hart_lite.models.families.base.ImageInterface`."""

    name = "relative"
    box_format = "relative-1000"
    locate_words = f"{Qwen25VL.locate_words}, each number from 0 to 1000 of the image's width or height"


INTERFACES = {interface.name: interface for interface in (AbsoluteInterface, RelativeInterface)}


class ApiEngine:
    """`interface` says how the model is taken to see images and write boxes; one that is a family also counts image
    tokens. Responses are greedy."""

    max_batch = 4 * THREADS
    batch_dependent = False

    def __init__(self, model: str, client: Client, interface: ImageInterface, threads: int = THREADS) -> None:
        self.model, self.client, self.interface, self.threads = model, client, interface, threads
        self.chat = Chat(client, model)
        self._data_url = functools.lru_cache(ENCODED)(data_url)
        self._silent = 0  # conversations in a row

    def forget_images(self) -> None:
        self._data_url.cache_clear()

    def answer(self, runs: Sequence[ProtocolRun], decoding: Decoding = GREEDY) -> Iterator[tuple[int, Conversation]]:
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
        turns: list[Turn] = []
        views: list[ImageView] = []
        say = next(run)
        while True:
            messages = self._asked(say, messages)
            views = [*([] if say.fresh else views), *(part for part in say.content if isinstance(part, ImageView))]
            try:
                text, turn = self._request(say, messages, views)
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
        return [*messages, {"role": "user", "content": [self._part(part) for part in joined(say.content)]}]

    def _part(self, part: str | ImageView) -> dict:
        if isinstance(part, str):
            return {"type": "text", "text": part}
        return {"type": "image_url", "image_url": {"url": self._data_url(part)}}

    def _request(self, say: Say, messages: list[dict], views: Sequence[ImageView]) -> tuple[str, Turn]:
        said = self.chat.complete(messages, say.max_tokens)
        self._refuse_shrinking(say, views, said.prompt_tokens)
        text = cut_after(said.text, say.stop)
        counts = said.prompt_tokens, said.response_tokens, len(views)
        return text, Turn(say.kind, Tokens(), (), text, *counts, say.fresh)

    def _refuse_shrinking(self, say: Say, views: Sequence[ImageView], counted: int | None) -> None:
        """The prompt holds the tokens of its images, and one at least for each word of its last message."""
        if not isinstance(self.interface, ChatFamily) or counted is None or not views:
            return
        tokens = sum(self.interface.image_tokens(view.size) for view in views)
        words = sum(len(part.split()) for part in say.content if isinstance(part, str))
        if counted < tokens + words:
            largest = max(view.size[0] * view.size[1] for view in views)
            raise ModelError(
                f"{self.client.url} counts {counted} tokens in a prompt with images of {tokens} tokens and {words} "
                "words: it scales images down before the model sees them, so boxes would be read in the wrong pixels. "
                f"Raise its limit to {largest} pixels or more (vLLM: --mm-processor-kwargs "
                f"'{{\"max_pixels\": {largest}}}'), or lower --full-pixels and --crop-pixels to its limit"
            )


def joined(content: Content) -> list[str | ImageView]:
    """Neighbouring texts as one: servers differ in what they put between two."""
    out: list[str | ImageView] = []
    for part in content:
        if isinstance(part, str) and out and isinstance(out[-1], str):
            out[-1] += part
        else:
            out.append(part)
    return out


def data_url(view: ImageView) -> str:
    buffer = io.BytesIO()
    view.load().save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
