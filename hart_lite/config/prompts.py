"""The words a model is asked with. A recipe may replace any of them, for another language or another base.

`{question}`, `{choices}` and `{box_format}` stand for text, `{image}` for the full image and `{crops}` for the crops.
Text before `{crops}` is a prefix that all samples of a question share.
"""

from __future__ import annotations

import re

from pydantic import model_validator

from hart_lite.config.section import Section

PLACEHOLDER = re.compile(r"\{([a-z_]+)\}")
_NEEDED = {
    "locate": {"image", "question", "box_format"},
    "verify": {"question", "crops"},
    "answer": {"image", "question"},
    "answer_with_crops": {"image", "question", "crops"},
    "continue_with_crops": {"question", "crops"},
    "continue_without_crops": {"question", "crops"},
    "choices": {"question", "choices"},
}


class Prompts(Section):
    system: str | None = None
    """System words of every conversation; null: those of the base's own template."""
    locate: str = (  # paper, section 3; choices are withheld as MGPO does, since the box must come from the question
        "{image}{question}\nOutput the coordinates of the key image area relevant to the problem{box_format}."
    )
    """Turn 1; `{box_format}` is how the base is told to write a box."""
    verify: str = (  # paper, section 3
        "You were supposed to answer a question based on a full image, but now the full image is not visible. "
        "You can only see some sub-regions relevant to the problem. Answer the following question: {question}\n{crops}"
    )
    """Turn 2 of the loop `hart`: a new conversation without the full image."""
    answer: str = "{image}{question}"
    """The only turn of the loop `direct` and of the mode `full`."""
    answer_with_crops: str = (
        "{image}The full image comes first, enlarged sub-regions of it come last. "
        "Answer the following question: {question}\n{crops}"
    )
    """Turn 2 of the mode `full+crops`: a new conversation, and the prompt of SFT."""
    continue_with_crops: str = "Based on the provided coordinates, return the sub-image:\n{crops}\n{question}"
    """Turn 2 of the loop `mgpo`, in the conversation that holds the full image; MGPO's words."""
    continue_without_crops: str = (
        "Not providing correct coordinates or invalid coordinate values, return the original image:\n"
        "{crops}\n{question}"
    )
    """The same where turn 1 named no usable box: `{crops}` is the full image once more."""
    choices: str = (
        "{question}\nThe choices are listed below:\n{choices}\n"
        "Answer with the letter or the text of the correct option."
    )
    """What `{question}` stands for where a question has choices, except in `locate`."""

    @model_validator(mode="after")
    def _check_placeholders(self) -> Prompts:
        problems = []
        for name, needed in _NEEDED.items():
            found = set(PLACEHOLDER.findall(getattr(self, name)))
            allowed = " ".join(f"{{{word}}}" for word in sorted(needed))
            problems += [f"prompts.{name} lacks {{{word}}}; it needs {allowed}" for word in sorted(needed - found)]
            problems += [f"prompts.{name} has {{{word}}}; it may hold {allowed}" for word in sorted(found - needed)]
        if problems:
            raise ValueError("\n".join(problems))
        return self
