"""Questions about one image: where the model looked and what it answered. They share one conversation's beginning, so
the image is encoded and read once however many there are."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from hart_lite.boxes import valid_boxes
from hart_lite.errors import HartError
from hart_lite.grading import choice_lines, read_answer
from hart_lite.inference.engine import Conversation
from hart_lite.inference.load import OpenModel
from hart_lite.inference.protocols import hart
from hart_lite.inference.protocols import registry as protocols
from hart_lite.inference.settings import AskSettings, setting_for
from hart_lite.types import Box, Example, ImageSource, ImageView
from hart_lite.utils.text import shown

DEFAULT_MODE = "full+crops"


@dataclass(frozen=True)
class Answer:
    """What came of a question. `answer` is a letter where there are choices, else text; None when none was read.

    `boxes` are original pixels of the upright image, as the model named them; `crops` are what it was shown of them,
    padded: `crop.box` in whole original pixels, `crop.load()` as an image. `located` is where it said to look, word for
    word, and empty in modes that do not look. `tokens` counts those it wrote, None where a server does not tell;
    `seconds` is its share of the time that all questions took. `failure` says why a server did not answer.
    """

    question: str
    choices: tuple[str, ...]
    text: str
    answer: str | None
    boxes: tuple[Box, ...] = ()
    crops: tuple[ImageView, ...] = ()
    rejected: int = 0
    located: str = ""
    tokens: int | None = None
    seconds: float = field(default=0.0, compare=False)  # equal is what was answered alike
    failure: str = ""

    @property
    def choice(self) -> str | None:
        """The text of the choice that was answered."""
        return self.choices[ord(self.answer) - ord("A")] if self.choices and self.answer else None


def ask(
    model: OpenModel,
    image: ImageSource,
    questions: Sequence[str],
    choices: Sequence[str] = (),
    mode: str = DEFAULT_MODE,
    boxes: Sequence[Box] = (),
) -> list[Answer]:
    """One answer for each question, in order; greedy. All questions have the same choices. With `boxes` (original
    pixels) nothing is located: the answers come from the crops around them alone, whatever the mode.

    Raises `HartError` for an image that cannot be read, an empty question, an unknown mode, a single choice or a box
    with nothing of the image in it.
    """
    check(questions, choices, mode)
    examples = [Example(str(n), (image,), text.strip(), "", tuple(choices)) for n, text in enumerate(questions)]
    image.load()  # so that a broken one is refused in its own words
    protocol = hart.given(_inside(boxes, image.size())) if boxes else protocols.find(mode)
    setting, begun = setting_for(mode, model, AskSettings()), time.perf_counter()
    answered = dict(model.engine.answer([protocol(example, setting) for example in examples]))
    model.engine.forget_images()
    seconds = (time.perf_counter() - begun) / len(examples)
    return [_answer(example, answered[n], seconds) for n, example in enumerate(examples)]


def check(questions: Sequence[str], choices: Sequence[str], mode: str) -> None:
    """Raises `HartError` for what `ask` cannot ask; needs no model."""
    protocols.find(mode)
    if not questions:
        raise HartError("there is no question; give at least one")
    for n, text in enumerate(questions, 1):
        if not text.strip():
            raise HartError(f"question {n} of {len(questions)} is empty; say what to look for")
    if len(choices) == 1 or not all(choice.strip() for choice in choices):
        raise HartError(f"choices {shown(list(choices))}: give at least two, none of them empty, or none at all")
    choice_lines(choices)  # has a letter for each
    try:
        "".join([*questions, *choices]).encode()
    except UnicodeEncodeError as error:
        raise HartError(f"a question or choice is no text in UTF-8: {error}") from error


def _inside(boxes: Sequence[Box], size: tuple[int, int]) -> tuple[Box, ...]:
    found, rejected = valid_boxes([box.xyxy for box in boxes], size, len(boxes))
    if rejected:
        raise HartError(f"{rejected} of {len(boxes)} boxes hold no pixel of the image of {size[0]} x {size[1]} pixels")
    return found


def _answer(example: Example, conversation: Conversation, seconds: float) -> Answer:
    outcome, turns = conversation.outcome, conversation.turns
    if outcome is None:
        return Answer(example.question, example.choices, "", None, failure=conversation.failure)
    counts = [turn.response_tokens for turn in turns]
    return Answer(
        example.question,
        example.choices,
        outcome.text,
        read_answer(outcome.text, example.choices),
        outcome.boxes,
        outcome.crops,
        outcome.counts.get("rejected_boxes", 0),
        next((turn.text for turn in turns if turn.kind == "locate"), ""),
        None if None in counts else sum(counts),
        seconds,
    )
