"""The choices of a question: their labels, how prompts show them, and which one a short text names."""

from __future__ import annotations

import re
import string
from collections.abc import Sequence
from functools import lru_cache

from hart_lite.errors import HartError
from hart_lite.grading.markup import compatible
from hart_lite.grading.normalise import normalise

# At the ends of an answer; not "#" or "+": C# is no C. The last two have no width.
_EDGES = string.whitespace + "()[]{}<>.,:;!\"'`*_$\\。、「」【】《》\u200b\ufeff"
_NAMED = re.compile(r"([^\W\d_]{2,}) ([A-Z])")
_OPTION = re.compile(r"(?:option|choice|letter)\s+\(?([A-Za-z])", re.IGNORECASE)
_LABEL = re.compile(r"\s*(?:\(\s?([A-Za-z])\s?\)|([A-Za-z])\s?[.):、])\s*")  # no comma: "A, then B" is a choice
_LABELLED = re.compile(  # a label and what may be the text of its choice
    r"(?:(?:option|choice)\s{1,3}\(?)?([A-Z])(?:[\s).:,、\u2013\u2014-]{1,4})(\S.*)", re.IGNORECASE | re.DOTALL
)


def letters_of(choices: Sequence[str]) -> str:
    """ "ABC" for three choices. Raises `HartError` for more than 26."""
    if len(choices) > len(string.ascii_uppercase):
        raise HartError(f"A question has {len(choices)} choices; at most 26 are allowed, one for each letter.")
    return string.ascii_uppercase[: len(choices)]


def choice_lines(choices: Sequence[str]) -> str:
    """The choices as every prompt shows them: a heading, then one `(A) text` line each."""
    lines = [f"({letter}) {choice}" for letter, choice in zip(letters_of(choices), choices, strict=True)]
    return "\n".join(["The choices are listed below:", *lines])


def split_label(choice: str) -> tuple[str, str]:
    """(letter, text) of a choice with a label such as "(A)", "A.", "A)", "a:" or "（A）"; ("", choice) without one."""
    plain = compatible(choice)
    match = _LABEL.match(plain)
    return ((match[1] or match[2]).upper(), plain[match.end() :].strip()) if match else ("", choice)


def unlabelled(choices: Sequence[str]) -> tuple[str, ...]:
    """The choices without their labels, where all bear them in order and have a text behind them."""
    found = [split_label(choice) for choice in choices]
    if "".join(letter for letter, _ in found) != letters_of(choices) or not all(text for _, text in found):
        return tuple(choices)
    return tuple(text for _, text in found)


def exact(text: str, choices: Sequence[str]) -> str | None:
    """Letter of a text that is nothing but a letter or one choice; the letter wins where choices are letters."""
    text, letters = text.strip(), letters_of(choices)
    if _too_long(text, choices):
        return None
    core = text.strip(_EDGES)
    if option := _OPTION.fullmatch(core):
        core = option[1]
    if len(core) == 1 and core.upper() in letters:
        return core.upper()
    same = [i for i, choice in enumerate(choices) if choice.strip() == text]
    if len(same) != 1:
        wanted = normalise(text)
        same = [i for i, choice in enumerate(_normal(tuple(choices))) if wanted and wanted in choice]
    return letters[same[0]] if len(same) == 1 else None


def labelled(text: str, choices: Sequence[str]) -> str | None:
    """Letter of a text that is a label and the text of that choice, such as "b) blue" or "Option B: blue"."""
    text = text.strip()
    if _too_long(text, choices):
        return None
    match = _LABELLED.fullmatch(text.strip(_EDGES))
    if match is None or (letter := match[1].upper()) not in letters_of(choices):
        return None
    own = _normal(tuple(choices))[ord(letter) - ord("A")]
    return letter if normalise(match[2]) in own or normalise(match[2].strip(_EDGES)) in own else None


def _too_long(text: str, choices: Sequence[str]) -> bool:
    """Whether a text cannot be one choice, however it is written."""
    return len(text) > 200 and len(text) > 100 + 3 * max(map(len, choices), default=0)


@lru_cache(maxsize=4096)
def noun_of(choices: tuple[str, ...]) -> str:
    """ "point" for the choices "Point A", "Point B", ..: what they are called. "" where they are no such names."""
    found = [_NAMED.fullmatch(choice.strip()) for choice in unlabelled(choices)]
    names = {match[1].lower() for match in found if match}
    labels = "".join(match[2] for match in found if match)
    return names.pop() if len(names) == 1 and labels == letters_of(choices) else ""


@lru_cache(maxsize=4096)
def _normal(choices: tuple[str, ...]) -> tuple[tuple[str, ...], ...]:
    """For each choice its forms in `normalise`, with and without its label."""
    return tuple(tuple({normalise(a), normalise(b)}) for a, b in zip(choices, unlabelled(choices), strict=True))
