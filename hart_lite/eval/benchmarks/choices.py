"""Choices as benchmarks write them: "(A) red", "A. red", or run on in the question as "Options: A: red, B: blue".

Labels must be A, B, .. in order and once each: what is not quite that is refused, never guessed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from string import ascii_uppercase
from typing import NoReturn

from hart_lite.errors import DataError
from hart_lite.utils.text import shown

# One style for all labels of a text: each on a line of its own, or run on behind a space, comma or semicolon. So the D
# of "A: John D. Rockefeller, B: .." is no label.
_RUN_ON = r"(?:\A|(?<=[\s,;]))"
_STYLES = tuple(
    re.compile(pattern, re.MULTILINE)
    for pattern in (
        r"^[ \t]*\(([A-Z])\)",
        r"^[ \t]*([A-Z])[.:)](?=\s|$)",
        _RUN_ON + r"\(([A-Z])\)",
        _RUN_ON + r"([A-Z]):",
        _RUN_ON + r"([A-Z])\.(?=\s)",
        _RUN_ON + r"([A-Z])\)(?=\s)",
    )
)
_LABEL = re.compile(r"\s*(?:\(([A-Z])\)|([A-Z])[.:)])\s*")
_NEXT = re.compile(r"\n(?=[ \t]*(?:\([A-Z]\)|[A-Z][.:)]))")
_HEADING = re.compile(r"(?:^|(?<=\s))(?:Options|Choices)\s?:")


def bracketed(choices: Sequence[str]) -> str:
    """One "(A) .." line each."""
    return "\n".join(f"({letter}) {choice}" for letter, choice in zip(ascii_uppercase, choices, strict=False))


def dotted(choices: Sequence[str]) -> str:
    """One "A. .." line each."""
    return "\n".join(f"{letter}. {choice}" for letter, choice in zip(ascii_uppercase, choices, strict=False))


def lines(labelled: str) -> list[str]:
    """The labelled choices of a text that has one to a line; a line without a label belongs to the one before it."""
    return _NEXT.split(labelled)


def from_list(labelled: Iterable[str]) -> tuple[str, ...]:
    """The texts of labelled choices, one to an item; of choices that share a letter the first (MME-RealWorld has two
    such questions, and is scored by letter). Raises `DataError` for labels that are not A, B, .."""
    texts: dict[str, str] = {}
    letters = ""
    for line in labelled:
        label = _LABEL.match(line)
        if label is None:
            raise DataError(f"choices: {shown(line)} has no label such as (A)")
        letter = label[1] or label[2]
        letters += letter
        texts.setdefault(letter, line[label.end() :].strip())
    if letters != "".join(sorted(letters)):
        _refuse(letters)
    return _complete(texts.items())


def from_text(text: str) -> tuple[str, tuple[str, ...]]:
    """(what stands before the first label, the texts of the choices). Raises `DataError` if they cannot be told."""
    letters = ""
    for style in _STYLES:
        marks = list(style.finditer(text))
        found = "".join(mark[1] for mark in marks)
        letters = letters or found
        if len(marks) > 1 and found == ascii_uppercase[: len(found)]:
            stops = [*(mark.start() for mark in marks[1:]), len(text)]
            texts = [text[mark.end() : stop].strip() for mark, stop in zip(marks, stops, strict=True)]
            texts = [part.removesuffix(",").removesuffix(";").rstrip() for part in texts[:-1]] + texts[-1:]
            following = ascii_uppercase[len(found) : len(found) + 1]
            if any(mark[1] == following for other in _STYLES for mark in other.finditer(texts[-1])):
                break  # one more choice, in another style
            return text[: marks[0].start()].strip(), _complete(zip(found, texts, strict=True))
    _refuse(letters)


def from_question(text: str) -> tuple[str, tuple[str, ...]]:
    """(question, choices) of a text that ends in "Options: .." or "Choices: ..", or in labelled choices alone."""
    heading = max(_HEADING.finditer(text), key=lambda match: match.start(), default=None)
    if heading is None:
        return from_text(text)
    between, choices = from_text(text[heading.end() :])
    if between:
        raise DataError(f"choices: {shown(between)} stands before the first one; they cannot be told apart")
    return text[: heading.start()].strip(), choices


def _complete(labelled: Iterable[tuple[str, str]]) -> tuple[str, ...]:
    texts = dict(labelled)
    letters = "".join(texts)
    if len(texts) < 2 or letters != ascii_uppercase[: len(texts)]:
        _refuse(letters)
    for letter, text in texts.items():
        if not text:
            raise DataError(f"choices: {letter} has a label but no text")
    return tuple(texts.values())


def _refuse(letters: str) -> NoReturn:
    found = ", ".join(letters) or "none"
    raise DataError(f"choices: labels found: {shown(found)}; A, B, .. in order, once each, at least two, are needed")
