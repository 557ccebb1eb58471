"""Choices as others write them: "(A) red", "A. red", or run on in the question as "Options: A: red, B: blue".

Labels must be A, B, .. in order and once each: what is not quite that is refused, or left as it is, and never guessed.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from string import ascii_uppercase
from typing import Any, NoReturn

from hart_lite.data.values import literal, number_as_text
from hart_lite.errors import DataError, HartError
from hart_lite.grading import answer_letter, split_label, unlabelled
from hart_lite.utils.text import shown

# One style for all labels of a text: each on a line of its own, or run on behind a space, comma or semicolon. So the D
# of "A: John D. Rockefeller, B: .." is no label.
_RUN_ON = r"(?:\A|(?<=[\s,;]))"
_STYLES = tuple(
    re.compile(pattern, re.MULTILINE)
    for pattern in (
        r"^[ \t]*\(([A-Z])\)",
        r"^[ \t]*([A-Z])[.:)、](?=\s|$)",
        _RUN_ON + r"\(([A-Z])\)",
        _RUN_ON + r"([A-Z]):",
        _RUN_ON + r"([A-Z])\.(?=\s)",
        _RUN_ON + r"([A-Z])\)(?=\s)",
    )
)
_NEXT = re.compile(r"\n(?=[ \t]*(?:\([A-Z]\)|[A-Z][.:)]))")
_HEADING = re.compile(r"(?:^|(?<=\s))(?:Options|Choices)\s?:")
_LAST_LINE = re.compile(  # what may stand between a question and its choices
    r"(?:^|(?<=[\s?.:]))(?:(?:(?:here are )?the )?(?:answer )?(?:options|choices)(?: are)?(?: listed)?(?: below)?|选项)"
    r"\s*[:：]\s*$",
    re.IGNORECASE,
)
_LINE_LABEL = re.compile(r"^([ \t]*)(\([A-Za-z]\)|[A-Za-z][.:)、])[ \t]*", re.MULTILINE)
_ENDS = tuple("?.!:。")  # of a question behind which choices may run on
# How to answer is what prompts say themselves; in a row it is no part of the last choice.
_INSTRUCTION = re.compile(
    r"^\W*(?:please|answer|select|choose|pick|respond|reply|give|output|only|just|think|provide|perform|let'?s)\b"
    r".*\b(?:answer|letter|options?|choices?|correct|word|phrase|boxed|step|reasoning)\b|请.*(?:选|回答|字母)|^\W*直接回答",
    re.IGNORECASE,
)


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
        letter, text = split_label(line)
        if not letter:
            raise DataError(f"choices: {shown(line)} has no label such as (A)")
        letters += letter
        texts.setdefault(letter, text)
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


def as_choices(values: Any) -> tuple[str, ...]:
    """The texts of a row's choices, without labels: a list of texts and numbers, also one written as text
    ("['red', 'blue']"), or labelled lines. Raises `DataError` for anything else, and for labels out of order."""
    given, values = values, _listed(values)
    texts = [number_as_text(value) for value in values] if isinstance(values, list) else []
    if len(texts) == 1 or not isinstance(values, list) or not all(isinstance(t, str) and t.strip() for t in texts):
        raise DataError(f"choices: {shown(given)} given; a list of at least two texts is allowed")
    labels = [split_label(text) for text in texts]
    in_brackets = all(text.strip().startswith(("(", "（")) for text in texts)
    if labels and in_brackets and all(letter for letter, _ in labels):
        expected = list(ascii_uppercase[: len(texts)])
        if [letter for letter, _ in labels] != expected:
            raise DataError(f"choices: {shown(given)} are labelled out of order; {', '.join(expected)} is needed")
        if not all(text for _, text in labels):
            raise DataError(f"choices: {shown(given)} given; a choice has a label but no text")
    return unlabelled([text.strip() for text in texts])


def _listed(values: Any) -> Any:
    """A text of choices as a list; what is none stays."""
    if not isinstance(values, str):
        return values
    text = values.strip()
    if text.startswith(("[", "(")) and isinstance(found := literal(text), list):
        return found
    found: list[str] = []
    for line in text.split("\n"):
        if split_label(line)[0] == ascii_uppercase[len(found) : len(found) + 1]:
            found.append(line)
        elif found:  # it belongs to the choice before it; what stands before the first one is a heading
            found[-1] += f"\n{line}"
    return found if len(found) > 1 else values


def without_options(question: str, choices: Sequence[str], answer: str) -> tuple[str, tuple[str, ...]]:
    """(question, choices) where the choices may stand in the question: they are withheld while a model looks for the
    region, so they must not. `choices`: those the row gives besides, if any.

    A question whose options do not hold the `answer` stays as it is, being about something else; a letter that none of
    them has raises `DataError`.
    """
    found = _options_in(question)
    if found is None:
        return question, tuple(choices)
    stem, inside = found
    if choices:
        return (stem if _same(inside, choices) else question), tuple(choices)
    try:
        answer_letter(answer, inside)
    except HartError:
        if len(answer) == 1 and answer.isalpha():
            raise
        return question, ()
    return stem, inside


def _same(inside: Sequence[str], choices: Sequence[str]) -> bool:
    return [text.casefold() for text in inside] == [text.casefold() for text in choices]


def _options_in(question: str) -> tuple[str, tuple[str, ...]] | None:
    """(question, choices) of a text with labelled choices at its end, each on a line or run on behind a sentence; an
    instruction on how to answer may follow. None where there are none."""
    rows = question.strip().split("\n")
    while len(rows) > 1 and (not rows[-1].strip() or (_INSTRUCTION.search(rows[-1]) and not split_label(rows[-1])[0])):
        rows.pop()
    text = "\n".join(rows)
    plain = text if text.isascii() else "".join(_plain(character) for character in text)
    try:
        stem, choices = from_question(_LINE_LABEL.sub(_plain_label, plain))
    except HartError:
        return None
    if not stem or not (_HEADING.search(plain) or "\n" in plain[len(stem) :] or stem.endswith(_ENDS)):
        return None  # "Compare (A) one with (B) the other"
    stem = text[: len(stem)] if plain.startswith(stem) else stem  # as it was written, full-width signs and all
    return _LAST_LINE.sub("", stem).strip() or stem, choices


def _plain(character: str) -> str:
    """A full-width letter or sign as the plain one."""
    found = unicodedata.normalize("NFKC", character)
    return found if len(found) == 1 else character


def _plain_label(match: re.Match[str]) -> str:
    """A label at the beginning of a line as a capital with a space behind it."""
    return f"{match[1]}{match[2].upper()} "


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
