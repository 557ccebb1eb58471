"""Read a final answer and grade it: the ONLY grader, for rewards, evaluation and benchmarks.

`markup` takes thoughts, boxes and Markdown off; `lexer` turns the text into a row of signs with the words of
`vocabulary.toml`; `mentions` finds the choices in it; `claims` gives each a standing; `reader` weighs them. `free_text`
does the same where there are no choices, and `normalise` is the form in which free text is compared.

Reading takes time linear in the text, whatever a model writes.
"""

from __future__ import annotations

from collections.abc import Sequence

from hart_lite.errors import DataError, HartError
from hart_lite.grading.choices import choice_lines, exact, labelled, letters_of, split_label, unlabelled
from hart_lite.grading.free_text import read_text, same
from hart_lite.grading.markup import answer_part, compatible, finals, settled
from hart_lite.grading.normalise import normalise
from hart_lite.grading.reader import read_letter
from hart_lite.utils.text import shown

__all__ = [
    "answer_letter",
    "check_answer",
    "choice_lines",
    "final_answer",
    "grade",
    "letters_of",
    "normalise",
    "read_answer",
    "split_label",
    "unlabelled",
]


def read_answer(text: str, choices: Sequence[str] = ()) -> str | None:
    r"""The final answer in `text`: a capital letter when there are choices, else free text; None when there is none.

    What follows `</think>` counts, unless there is nothing; a thought that was cut off gives no answer. Then, from the
    strongest: the last `\boxed{..}` or `<answer>..</answer>`; the last announced answer ("The answer is C", "C is
    correct", "选C", "C" alone on its line); what something corresponds to; a line that begins with its label ("C. It
    ...") or the one choice of a conclusion ("So the green one"); one that is stated ("it is C"), hedged ("maybe C") or
    merely mentioned ("the green one (C)"). What is denied, asked or taken back is none, and neither are several letters
    at once ("A or B"), a list of the choices or an answer that is declined. A text that was cut off gives no more than
    it announced. Free text is what is announced, or the whole text.
    """
    text, asked = _settled(text)
    if not choices:
        return read_text(f"{text}?" if asked else text) if text.strip() else None
    letter = read_letter(compatible(text), choices) if text.strip() else None
    return letter if not asked or read_letter(compatible(f"{text}?"), choices) == letter else None


def grade(text: str, answer: str, choices: Sequence[str] = ()) -> bool:
    """Whether `text`, as a model wrote it, gives the right `answer`: with choices, a letter or a choice's text.

    Free text is compared after `normalise`, and the answer is read as the text is. Raises `HartError` for an answer
    that is not among the choices.
    """
    if choices:
        letter = answer_letter(answer, choices)
        return read_answer(text, choices) == letter
    (text, asked), (answer, _) = _settled(text), _settled(answer)
    if not text.strip() or not answer.strip():
        return False
    return same(text, answer) and (not asked or same(f"{text}?", answer))


def final_answer(text: str) -> str:
    """What a response gives as its answer, as it stands there: no thought, and of a box or tag what is in it. "" where
    a thought was cut off. The words around an announced answer stay."""
    text = answer_part(text)
    found = finals(text)
    return (text[found[-1].start : found[-1].stop] if found else text).strip()


def _settled(text: str) -> tuple[str, bool]:
    """A text without thoughts and without doubts at its end, and whether it ends in a question."""
    return settled(answer_part(text.replace("\r\n", "\n").replace("\r", "\n")))


def answer_letter(answer: str, choices: Sequence[str]) -> str:
    r"""The letter of a row's answer: a letter, the text of a choice, or both, "(B) blue"; also in a box or tag.

    A letter is tried first. Raises `HartError` for an answer that is none of these, or that is the text of two choices.
    """
    letter = exact(answer, choices) or labelled(compatible(answer), choices)
    if letter is None and finals(answer):
        letter = read_answer(answer, choices)
    if letter is None:
        allowed = ", ".join(f"{a}={shown(c)}" for a, c in zip(letters_of(choices), choices, strict=True))
        raise HartError(
            f"The answer {shown(answer)} is not one of the choices: {allowed}. Give the letter or its exact text."
        )
    return letter


def check_answer(answer: str, choices: Sequence[str] = ()) -> None:
    """Raises `DataError` for a row's answer that no response can match, not even the answer itself."""
    if not grade(answer, answer, choices):
        raise DataError(
            f"answer: {shown(answer)} given; nothing can be read from it, so that no response would be right: give the "
            "answer alone, as text"
        )
