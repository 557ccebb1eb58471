"""How one question becomes turns: `hart`, `mgpo`, `direct`, and the three ways of answering after training.

Every prompt string of the method lives here, once. Text comes before crops wherever the crops differ between
samples, so that the text is a prefix the whole group shares.
"""

from __future__ import annotations

from collections.abc import Sequence

from hart_lite.families.base import Content
from hart_lite.grading import choice_lines
from hart_lite.protocols.base import Frame
from hart_lite.types import Example, ImageView

LOCATE = "Output the coordinates of the key image area relevant to the problem"  # paper, section 3
VERIFY = (  # paper, section 3
    "You were supposed to answer a question based on a full image, but now the full image is not visible. "
    "You can only see some sub-regions relevant to the problem. Answer the following question: "
)
SUB_IMAGE = "Based on the provided coordinates, return the sub-image:"  # MGPO, turn 2
NO_SUB_IMAGE = "Not providing correct coordinates or invalid coordinate values, return the original image:"
WITH_CROPS = "The full image comes first, enlarged sub-regions of it come last. Answer the following question: "
CHOOSE = "Answer with the letter or the text of the correct option."


def question_lines(example: Example) -> str:
    """The question, and with choices also the choices and how to answer."""
    if not example.choices:
        return example.question
    return f"{example.question}\n{choice_lines(example.choices)}\n{CHOOSE}"


def target_text(example: Example, form: str = "letter") -> str:
    """The answer as stage 2 teaches it: with choices the `letter` or the `text` of the right one, which `CHOOSE` asks
    for and the grader reads either way."""
    if not example.choices or form == "letter":
        return example.answer
    return example.choices[ord(example.answer) - ord("A")]


def locate_content(example: Example, full: Sequence[ImageView], family: Frame) -> Content:
    """Turn 1. Choices are withheld, as MGPO does: the box must come from the question."""
    words = family.locate_words + (family.several_words if len(full) > 1 else "")
    return [*full, f"{example.question}\n{LOCATE}{words}."]


def verify_content(example: Example, crops: Sequence[ImageView]) -> Content:
    """Turn 2 of `hart`: a new context without the full image."""
    return [VERIFY + question_lines(example) + "\n", *crops]


def sub_image_content(example: Example, shown: Sequence[ImageView], valid: bool = True) -> Content:
    """Turn 2 of `mgpo`: goes on in the conversation that holds the full image.

    `shown` is the crops; without a valid box MGPO appends the original image once more.
    """
    return [(SUB_IMAGE if valid else NO_SUB_IMAGE) + "\n", *shown, "\n" + question_lines(example)]


def direct_content(example: Example, full: Sequence[ImageView]) -> Content:
    return [*full, question_lines(example)]


def with_crops_content(example: Example, full: Sequence[ImageView], crops: Sequence[ImageView]) -> Content:
    """The full image and the crops in one fresh context: stage 2, and answering after training."""
    return [*full, WITH_CROPS + question_lines(example) + "\n", *crops]
