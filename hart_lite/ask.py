"""Questions about one image: where the model looked and what it answered. They share one conversation's beginning, so
the image is encoded and read once however many there are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hart_lite.boxes import expand
from hart_lite.conversation import Conversation
from hart_lite.eval_settings import EvalSettings, setting_for
from hart_lite.grading import choice_lines, read_answer
from hart_lite.images import crop_pixels
from hart_lite.loops import question_lines
from hart_lite.models import OpenModel
from hart_lite.protocols import registry as protocols
from hart_lite.types import Box, Example, HartError, ImageSource, shown

DEFAULT_MODE = "full+crops"


@dataclass(frozen=True)
class Asked:
    """What came of a question. `answer` is a letter where there are choices, else text; None when none was read.

    `boxes` are original pixels of the upright image, as the model named them; `crops` are what it was shown of them:
    whole pixels, padded. `located` is where it said to look, word for word, and empty in modes that do not look.
    `failure` says why a model behind a server did not answer.
    """

    question: str
    choices: tuple[str, ...]
    text: str
    answer: str | None
    boxes: tuple[Box, ...] = ()
    crops: tuple[Box, ...] = ()
    rejected: int = 0
    located: str = ""
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
) -> list[Asked]:
    """One answer for each question, in order; greedy. All questions have the same choices.

    Raises `HartError` for an image that cannot be read, an empty question, an unknown mode or a single choice.
    """
    check(questions, choices, mode)
    examples = [Example(str(n), (image,), text.strip(), "", tuple(choices)) for n, text in enumerate(questions)]
    settings = EvalSettings({}, modes=(mode,))
    size = image.size()
    image.load()  # so that a broken one is refused in its own words
    protocol = protocols.find(mode)
    runs = [protocol(e, setting_for(question_lines(e), mode, settings, model)) for e in examples]
    answered = dict(model.engine.answer(runs))
    pad = model.rollout.crop_pad if mode in protocols.OURS else 0
    return [_asked(example, answered[n], pad, size) for n, example in enumerate(examples)]


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


def _asked(example: Example, conversation: Conversation, pad: float, size: tuple[int, int]) -> Asked:
    outcome = conversation.outcome
    if outcome is None:
        return Asked(example.question, example.choices, "", None, failure=conversation.failure)
    crops = tuple(Box(*crop_pixels(expand(box, pad, size), size)) for box in outcome.boxes)
    return Asked(
        example.question,
        example.choices,
        outcome.text,
        read_answer(outcome.text, example.choices),
        outcome.boxes,
        crops,
        outcome.counts.get("rejected_boxes", 0),
        next((turn.text for turn in conversation.turns if turn.kind == "locate"), ""),
    )
