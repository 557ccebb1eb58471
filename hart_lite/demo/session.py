"""What happens for a photo and a question: they are checked, then base and trained answer, one at a time."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

from hart_lite.config.recipe import load_recipe
from hart_lite.data.images import ImageBytes
from hart_lite.errors import HartError
from hart_lite.inference.ask import DEFAULT_MODE, Answer, ask, check
from hart_lite.inference.load import OpenModel
from hart_lite.toy.scenes import HELD_OUT, examples, make_world
from hart_lite.types import Example, ImageSource

MAX_BYTES = 64 * 2**20  # of a photo's file
MAX_PIXELS = 64_000_000  # of a photo: 0.26 GB decoded, and three times as much on the way there
MAX_WORDS = 500  # characters of the questions together, and of the choices
MAX_QUESTIONS = 4
SCENES = 5  # held-out scenes to try, a question each

BASE, TRAINED, ONLY = "base", "trained", "model"


@dataclass(frozen=True)
class Request:
    photo: ImageSource
    questions: tuple[str, ...]
    choices: tuple[str, ...] = ()


@dataclass(frozen=True)
class Demo:
    """A model and those who answer with it: `base` and `trained` are the same weights, without the adapter and with."""

    model: OpenModel
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
                found = ask(self.model, request.photo, request.questions, request.choices)
            yield who, found

    def _weights(self, who: str) -> AbstractContextManager:
        return self.model.engine.policy.reference() if who == BASE else contextlib.nullcontext()


def read_request(photo: Path | None, questions: str, choices: str) -> Request:
    """`questions` has one a line; `choices` has them apart by commas, or one a line. Raises `HartError`."""
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
    return Request(read_photo(photo), asked, options)


def read_photo(path: Path | None) -> ImageBytes:
    """The photo's bytes, and it can be decoded. Raises `HartError`, which calls it "the photo": its path is our own."""
    if path is None:
        raise HartError("there is no photo; drop one first")
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise HartError("the photo is no longer here; drop it again") from error
    if len(data) > MAX_BYTES:
        raise HartError(f"the photo has more than {MAX_BYTES // 2**20} MiB; scale it down")
    photo = ImageBytes(data, "the photo")
    width, height = photo.size()
    if width * height > MAX_PIXELS:
        raise HartError(
            f"the photo has {width} x {height} pixels; at most {MAX_PIXELS // 10**6} million are decoded. Scale it down"
        )
    photo.load()
    return photo


def held_out_examples() -> list[Example]:
    """A question about each of the first held-out scenes that has one about a small thing: those need a close look."""
    world, found = make_world(load_recipe("tiny_cpu").data.world), {}
    index = HELD_OUT
    while len(found) < SCENES:
        found.update({e.images[0].key: e for e in examples(world, range(index, index + 1)) if e.category == "small"})
        index += 1
    return list(found.values())


def as_request(example: Example) -> Request:
    return Request(example.images[0], (example.question,), example.choices)


def choice_words(choices: Sequence[str]) -> str:
    """What is typed for these choices."""
    return ", ".join(choices)
