"""Read a final answer and grade it: the ONLY grader, for rewards, evaluation and benchmarks.

Reading takes time linear in the text, whatever a model writes: braces and tags are matched in one pass, and no pattern
here has two unbounded parts that can match the same characters.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from hart_lite.types import HartError, shown

_BRACES = re.compile(r"\\boxed\s*\{|\{|\}")
_TAGS = re.compile(r"<(/?)answer>", re.IGNORECASE)
_PHRASE = re.compile(r"\b(?:answer|option|choice)\s*(?:is\b|:|=)\s*:?\s*", re.IGNORECASE)
_WRAPPER = re.compile(r"\\(?:text|textbf|mathrm|mathbf)\s*\{([^{}]*)\}")  # \text{C} inside \boxed{}
_LABEL = re.compile(r"\s*([A-Z])(?:\s?[.):](?=\s|$)|,?\s(?=because\b|since\b))")  # "C. STOP", "C because"; not "A car"
_BRACKETED = re.compile(r"\(\s?([A-Z])\s?\)")
_SENTENCE_END = re.compile(r"[.!?](?=\s+[A-Z])")
_NUMBER = re.compile(r"[+-]?(?:\d+|[1-9]\d{0,2}(?:,\d{3})+)(?:\.\d+)?")
_OPTION = re.compile(r"(?:option|choice)\s+\(?([A-Za-z])", re.IGNORECASE)
_EDGES = string.whitespace + "()[]{}<>.,:;!?\"'`*_$。、「」"  # not "#" or "+": C# is no C
_PHRASE_REACH = 300  # characters read after "the answer is"


@dataclass(frozen=True, order=True)
class _Marker:
    """A place where the text announces its answer, as offsets: nested boxes copied out would fill the memory."""

    at: int  # where the announcement begins: the last one wins
    start: int
    stop: int
    final: bool  # a closed box or tag: what it holds is the answer even when it is no valid one


def choice_lines(choices: Sequence[str]) -> str:
    """The choices as every prompt shows them: a heading, then one `(A) text` line each."""
    lines = [f"({letter}) {choice}" for letter, choice in zip(_letters(choices), choices, strict=True)]
    return "\n".join(["The choices are listed below:", *lines])


def answer_letter(answer: str, choices: Sequence[str]) -> str:
    """The letter of a row's answer, given as a letter or as the text of a choice; a letter is tried first.

    Raises `HartError` for an answer that is neither, or that is the text of two choices.
    """
    letter = _exact(answer, choices)
    if letter is None:
        allowed = ", ".join(f"{a}={shown(c)}" for a, c in zip(_letters(choices), choices, strict=True))
        raise HartError(
            f"The answer {shown(answer)} is not one of the choices: {allowed}. Give the letter or its exact text."
        )
    return letter


def grade(text: str, answer: str, choices: Sequence[str] = ()) -> bool:
    """Whether `text`, as a model wrote it, gives the right `answer`: with choices, a letter or a choice's text.

    Free text is compared after `normalise`. Raises `HartError` for an answer that is not among the choices.
    """
    given = read_answer(text, choices)
    if choices:
        return given == answer_letter(answer, choices)
    return given is not None and normalise(given) == normalise(answer)


def read_answer(text: str, choices: Sequence[str] = ()) -> str | None:
    r"""The final answer in `text`: a capital letter when there are choices, else free text; None when there is none.

    The last of `\boxed{..}`, `<answer>..</answer>` and "answer is .." / "answer: .." wins. Without any of them a letter
    is read from a lone letter or choice text (whole text or last line), from the label of a line ("C. STOP") when no
    other line carries another label, or from the last "(C)"; free text is the whole text.
    """
    if choices:
        text = unicodedata.normalize("NFKC", text)  # full-width letters and brackets
    for marker in sorted(_markers(text), reverse=True):
        content = _unwrap(text[marker.start : marker.stop]).strip()
        if not content:
            continue
        if not choices:
            return content if marker.final else _sentence(content)
        letter = _letter_in(content, choices)
        if letter is None and not marker.final:
            letter = _letter_in(_sentence(content), choices)
        if letter is not None or marker.final:
            return letter
    whole = _unwrap(text).strip()
    return _letter_in(whole, choices) if choices else whole or None


def normalise(text: str) -> str:
    """Free text as it is compared: NFKC, case, white space, quotes, trailing punctuation; 1,000 = 1000 and 3.0 = 3.

    A number with leading zeros stays text: 007 on a number plate is not 7.
    """
    plain = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    plain = plain.lstrip("\"'`").rstrip(".,;:!?\"'` ") or plain  # an answer may be a "?" itself
    if not _NUMBER.fullmatch(plain):
        return plain
    number = plain.replace(",", "").lstrip("+")
    if "." in number:
        number = number.rstrip("0").rstrip(".")
    return "0" if number == "-0" else number


def _letters(choices: Sequence[str]) -> str:
    if len(choices) > len(string.ascii_uppercase):
        raise HartError(f"A question has {len(choices)} choices; at most 26 are allowed, one for each letter.")
    return string.ascii_uppercase[: len(choices)]


def _exact(text: str, choices: Sequence[str]) -> str | None:
    """Letter of a text that is nothing but a letter or one choice; the letter wins where choices are letters."""
    letters = _letters(choices)
    core = text.strip(_EDGES)
    option = _OPTION.fullmatch(core)
    core = option[1] if option else core
    if len(core) == 1 and core.upper() in letters:
        return core.upper()
    same = [i for i, choice in enumerate(choices) if choice.strip() == text.strip()]
    if len(same) != 1:
        wanted = normalise(text)
        same = [i for i, choice in enumerate(choices) if wanted and normalise(choice) == wanted]
    return letters[same[0]] if len(same) == 1 else None


def _letter_in(text: str, choices: Sequence[str]) -> str | None:
    letters = _letters(choices)
    lines = [line for line in text.splitlines() if line.strip()]
    if not lines:
        return None
    letter = _exact(text, choices) or _exact(lines[-1], choices)
    if letter is not None:
        return letter
    labels = {match[1] for line in lines if (match := _LABEL.match(line)) and match[1] in letters}
    if len(labels) == 1:
        return labels.pop()
    bracketed = [letter for letter in _BRACKETED.findall(text) if letter in letters]
    return bracketed[-1] if bracketed else None


def _markers(text: str) -> Iterator[_Marker]:
    opened: list[tuple[int, int] | None] = []  # span of an opened box; None for any other brace
    for match in _BRACES.finditer(text):
        if match[0] != "}":
            opened.append(None if match[0] == "{" else match.span())
        elif opened and (box := opened.pop()):
            yield _Marker(*box, match.start(), True)
    tag: tuple[int, int] | None = None
    for match in _TAGS.finditer(text):
        if tag and match[1]:
            yield _Marker(*tag, match.start(), True)
        tag = None if match[1] else match.span()
    if tag:  # generation stopped inside the tag
        yield _Marker(*tag, len(text), False)
    for match in _PHRASE.finditer(text):
        line_end = text.find("\n", match.end(), match.end() + _PHRASE_REACH)
        yield _Marker(*match.span(), line_end if line_end >= 0 else match.end() + _PHRASE_REACH, False)


def _unwrap(content: str) -> str:
    """Without the markup that models put around an answer."""
    return _WRAPPER.sub(r"\1", content).replace("**", "")


def _sentence(line: str) -> str:
    end = _SENTENCE_END.search(line)
    return line[: end.start()] if end else line
