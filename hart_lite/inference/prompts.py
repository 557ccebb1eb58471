"""From the words of a recipe to what one message shows: text and images, in order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hart_lite.config.prompts import PLACEHOLDER, Prompts
from hart_lite.grading import choice_lines
from hart_lite.models.families.base import Content, ImageInterface
from hart_lite.types import Example, ImageView

Part = str | Sequence[ImageView]


def fill(template: str, parts: Mapping[str, Part]) -> Content:
    """The template with its placeholders replaced, each once: what a question says is no template."""
    content: list[str | ImageView] = []

    def add(part: str | ImageView) -> None:
        if isinstance(part, str) and content and isinstance(content[-1], str):
            content[-1] += part
        elif part:
            content.append(part)

    at = 0
    for match in PLACEHOLDER.finditer(template):
        part = parts[match[1]]
        for piece in (template[at : match.start()], *([part] if isinstance(part, str) else part)):
            add(piece)
        at = match.end()
    add(template[at:])
    return content


def question_text(prompts: Prompts, example: Example) -> str:
    """The question, and with choices also the choices and how to answer."""
    if not example.choices:
        return example.question
    lines = choice_lines(example.choices).partition("\n")[2]
    return "".join(map(str, fill(prompts.choices, {"question": example.question, "choices": lines})))


def target_text(example: Example, form: str = "letter") -> str:
    """The answer as stage 2 teaches it: with choices the `letter` or the `text` of the right one, which the prompt asks
    for and the grader reads either way."""
    if not example.choices or form == "letter":
        return example.answer
    return example.choices[ord(example.answer) - ord("A")]


def locate_content(prompts: Prompts, example: Example, full: Sequence[ImageView], interface: ImageInterface) -> Content:
    """Turn 1, for a model that sees images and writes boxes as `interface` says."""
    words = interface.locate_words + (interface.several_words if len(full) > 1 else "")
    return fill(prompts.locate, {"image": full, "question": example.question, "box_format": words})
