"""What happens for a photo and a question: they are checked, then base and trained answer, one at a time."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

from hart_lite.data.images import ImageBytes
from hart_lite.errors import HartError
from hart_lite.inference.ask import DEFAULT_MODE, Answer, ask, check
from hart_lite.inference.load import OpenModel
from hart_lite.types import Box, Example, ImageSource

MAX_BYTES = 64 * 2**20  # of a photo's file
MAX_PIXELS = 64_000_000  # of a photo: 0.26 GB decoded, and three times as much on the way there
MAX_WORDS = 500  # characters of the questions together, and of the choices
MAX_QUESTIONS = 4

BASE, TRAINED, ONLY = "base", "trained", "model"


@dataclass(frozen=True)
class Request:
    """`boxes`: where to look instead of asking the model, in original pixels. `truth`: the example that this is."""

    photo: ImageSource
    questions: tuple[str, ...]
    choices: tuple[str, ...] = ()
    boxes: tuple[Box, ...] = ()
    truth: Example | None = None


@dataclass(frozen=True)
class Demo:
    """A model and those who answer with it: `base` and `trained` are the same weights, without the adapter and with."""

    model: OpenModel
    examples: Sequence[Example] = ()
    _turn: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)

    @property
    def answerers(self) -> tuple[str, ...]:
        return (BASE, TRAINED) if "adapter" in self.model.weights else (ONLY,)

    def answers(self, request: Request) -> Iterator[tuple[str, list[Answer]]]:
        """(who, an answer for each question), each as soon as it is there. The questions share the photo's prefix.

        Raises `HartError` as `ask` does.
        """
        for who in self.answerers:
            with self._turn, self._weights(who):
                found = ask(self.model, request.photo, request.questions, request.choices, boxes=request.boxes)
            yield who, found

    def _weights(self, who: str) -> AbstractContextManager:
        return self.model.engine.policy.reference() if who == BASE else contextlib.nullcontext()


def read_request(photo: ImageSource, questions: str, choices: str, box: str, example: Example | None) -> Request:
    """`questions` has one a line; `choices` has them apart by commas, or one a line; `box` is "left,top,right,bottom"
    or empty. The `example` is the truth as long as it is asked as it stands. Raises `HartError`."""
    for name, text in (("questions", questions), ("choices", choices)):
        if len(text) > MAX_WORDS:
            raise HartError(f"the {name} have {len(text):,} characters; at most {MAX_WORDS} are read. Shorten them")
    asked = tuple(line.strip() for line in questions.splitlines() if line.strip())
    if not asked:
        raise HartError("there is no question; type what you want to know")
    if len(asked) > MAX_QUESTIONS:
        raise HartError(f"{len(asked)} questions; at most {MAX_QUESTIONS} at once, one a line")
    between = "\n" if "\n" in choices.strip() else ","
    options = tuple(choice.strip() for choice in choices.strip().split(between)) if choices.strip() else ()
    check(asked, options, DEFAULT_MODE)
    same = example is not None and asked == (example.question.strip(),) and options == example.choices
    return Request(photo, asked, options, _read_box(box), example if same else None)


def _read_box(text: str) -> tuple[Box, ...]:
    if not text:
        return ()
    try:
        left, top, right, bottom = (float(number) for number in text.split(","))
    except ValueError as error:
        raise HartError("the box should be four numbers: left, top, right, bottom") from error
    return (Box(left, top, right, bottom),)


def read_photo(data: bytes) -> ImageBytes:
    """The photo, which can be decoded. Raises `HartError`."""
    if not data:
        raise HartError("there is no photo; drop one first")
    photo = ImageBytes(data, "the photo")
    width, height = photo.size()
    if width * height > MAX_PIXELS:
        raise HartError(
            f"the photo has {width} x {height} pixels; at most {MAX_PIXELS // 10**6} million are decoded. Scale it down"
        )
    photo.load()
    return photo


def choice_words(choices: Sequence[str]) -> str:
    """What is typed for these choices."""
    return ("\n" if any("," in choice for choice in choices) else ", ").join(choices)
