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

from hart_lite.errors import HartError
from hart_lite.utils.text import shown

_BRACES = re.compile(r"\\boxed\s*\{|\{|\}")
_TAGS = re.compile(r"<(/?)answer>", re.IGNORECASE)
_PHRASE = re.compile(r"\b(?:answer|option|choice|letter)[\s*\"']*(?:is\b|:|=)[\s:*\"']*", re.IGNORECASE)
_WRAPPER = re.compile(r"\\(?:text|textbf|mathrm|mathbf)\s*\{([^{}]*)\}")  # \text{C} inside \boxed{}
_TOKENS = re.compile(r"<\|\w{1,30}\|>|</s>")  # <|im_end|>, where a server lets it through
_THOUGHT = "</think>"
_LABEL = re.compile(  # "C. STOP", "C - STOP", "C because"; not "A car"
    r"\s*([A-Z])(?:\s?[.):](?=\s|$)|\s[-\u2013\u2014]\s|,?\s(?=because\b|since\b))"
)
_LABELLED = re.compile(  # a label and what may be the text of its choice
    r"(?:(?:option|choice)\s{1,3}\(?)?([A-Z])(?:[\s).:,\u2013\u2014-]{1,4})(\S.*)", re.IGNORECASE | re.DOTALL
)
_LEADING = re.compile(r"(?:(?:option|choice|letter)\s{1,3}\(?)?([A-Z])(?![\w#+'\u2019]|\.\w)")
_ARTICLE = re.compile(r"\s+(?!(?:because|since|as|based|according|due|for|so|which)\b)[a-z]")  # behind "A" or "I"
_HEDGE = re.compile(  # behind a letter: another one
    r"[)\]}*\"'\s]{0,4}(?:,|/|&|,?\s?\b(?:or|and)\b)\s{0,3}(?:maybe\s|perhaps\s|possibly\s)?"
    r"(?:(?:option|choice)\s{1,3})?[(\[]?([A-Z])(?![\w'\u2019])"
)
_BRACKETED = re.compile(r"\(\s?([A-Z])\s?\)")
_VERDICT = re.compile(  # "so B is correct", "I choose B", "so it must be B." at the end
    r"(?:\A|[.,;:!?\n]\s{0,3}|\b(?i:so|thus|hence|therefore|that|think|believe|and|option|choice)\s)\s?\(?([A-Z])\)?\s"
    r"(?:is|must be)\s(?:the\s)?(?:most\s)?(?:likely\s)?(?:correct|right|best)\b(?!\s?\?)"
    r"|\b(?i:choose|chose|choosing|select|selected|selecting|pick|picked|go with|going with)\s"
    r"(?:(?:option|choice|letter)\s)?\(?([A-Z])\)?(?=[.,;:!?*\"']|\s{0,9}\Z|\s(?:because|since|as|based|due)\b)"
    r"|\b(?i:so|thus|hence|therefore|it is|it's|it must be),?\s(?:it is\s|it's\s|it must be\s)?([A-Z])[.!]?\s{0,9}\Z"
)
_NEGATIONS = {"not", "nor", "neither", "never", "cannot", "except", "if", "whether"}
_FILLERS = {"be", "the", "that", "option", "choice", "answer", "either", "is", "think", "believe"}
_SENTENCE_END = re.compile(r"[.!?](?=\s+[A-Z])")
_NUMBER = re.compile(r"[+-]?(?:\d+|[1-9]\d{0,2}(?:,\d{3})+)(?:\.\d+)?")
_OPTION = re.compile(r"(?:option|choice)\s+\(?([A-Za-z])", re.IGNORECASE)
# At the ends of an answer; not "#" or "+": C# is no C. The last two have no width.
_EDGES = string.whitespace + "()[]{}<>.,:;!?\"'`*_$\\。、「」【】\u200b\ufeff"
_PHRASE_REACH = 300  # characters read after "the answer is"
_UNCLEAR = ""  # several letters at once: no answer, and no reason to look for one elsewhere


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

    What follows `</think>` counts, unless there is nothing. The last of `\boxed{..}`, `<answer>..</answer>` and "answer
    is .." / "answer: .." wins. Without any of them a letter is read from a lone letter or choice text (whole text or
    last line), from "B is correct" and "I choose B", from the label of a line ("C. STOP") when no other line carries
    another label, or from the last "(C)" that is not denied ("not (C)"); free text is the whole text. Two letters at
    once ("A or B") are no answer.
    """
    text = _TOKENS.sub("", text)
    text = text.rpartition(_THOUGHT)[2].strip() or text
    if choices:
        text = unicodedata.normalize("NFKC", text)  # full-width letters and brackets
    for marker in sorted(_markers(text), reverse=True):
        content = _unwrap(text[marker.start : marker.stop]).strip()
        if not content:
            continue
        if not choices:
            return content if marker.final else _sentence(content)
        letter = _letter_in(content, choices, announced=True)
        if letter is None and not marker.final:
            letter = _letter_in(_sentence(content), choices, announced=True)
        if letter is not None or marker.final:
            return letter or None
    whole = _unwrap(text).strip()
    return (_letter_in(whole, choices) or None) if choices else whole or None


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


def _labelled(text: str, choices: Sequence[str]) -> str | None:
    """Letter of a text that is a label and the text of that choice, such as "b) blue" or "Option B: blue"."""
    match = _LABELLED.fullmatch(text.strip(_EDGES))
    if match is None or (letter := match[1].upper()) not in _letters(choices):
        return None
    own = normalise(choices[ord(letter) - ord("A")])
    return letter if own in (normalise(match[2]), normalise(match[2].strip(_EDGES))) else None


def _letter_in(text: str, choices: Sequence[str], announced: bool = False) -> str | None:
    """A letter, `_UNCLEAR`, or None. `announced`: the text stands where an answer is due."""
    letters = _letters(choices)
    lines = [line for line in text.splitlines() if line.strip()]
    if not lines:
        return None
    letter = _exact(text, choices) or _labelled(text, choices) or _exact(lines[-1], choices)
    if letter is None:
        letter = _leading(text, letters) if announced else _verdict(text, letters)
    if letter is not None:
        return letter
    labels = {match[1] for line in lines if (match := _LABEL.match(line)) and match[1] in letters}
    if len(labels) == 1:
        return labels.pop()
    return _bracketed(text, letters)


def _leading(text: str, letters: str) -> str | None:
    """The letter an announced answer begins with; an A may be an article, an I no letter."""
    text = text.lstrip(_EDGES)
    match = _LEADING.match(text)
    if match is None or match[1] not in letters or text[match.end() : match.end() + 3].lstrip(")* ").startswith("?"):
        return None
    if _another(text, match.end(), letters):
        return _UNCLEAR
    bare = match.end() == 1  # neither "option A" nor "A)"
    return None if match[1] in "AI" and bare and _ARTICLE.match(text, 1) else match[1]


def _verdict(text: str, letters: str) -> str | None:
    for match in reversed(list(_VERDICT.finditer(text))):
        group = match.lastindex
        clear = not _another(text, match.end(group), letters) and not _denied(text, match.start(group))
        if clear and match[group] in letters:
            return match[group]
    return None


def _bracketed(text: str, letters: str) -> str | None:
    """The last letter in brackets that is not denied. Those of a list of all choices, or of its lines, name none."""
    found = [match for match in _BRACKETED.finditer(text) if match[1] in letters]
    if [match[1] for match in found] == list(letters) and len(letters) > 2:
        return _UNCLEAR
    last = next((n for n in reversed(range(len(found))) if not _denied(text, found[n].start())), None)
    if last is None:
        return None
    at, before = found[last], found[last - 1] if last else None
    of_lines = {match[1] for match in found if _begins_line(text, match.start())}
    listed = len(of_lines) > 1 and _begins_line(text, at.start())
    joined = before is not None and before[1] != at[1] and _another(text, before.end(), letters)
    return _UNCLEAR if listed or joined else at[1]


def _begins_line(text: str, at: int) -> bool:
    """A bullet may stand before."""
    before = text[max(at - 5, 0) : at].rpartition("\n")
    return not before[2].strip(" \t-*>") and (bool(before[1]) or at <= 5)


def _another(text: str, at: int, letters: str) -> bool:
    """Whether a further letter follows at once: "A or B"."""
    match = _HEDGE.match(text, at)
    return match is not None and match[1] in letters


def _denied(text: str, at: int) -> bool:
    """Whether the word before is a "not", fillers aside."""
    words = re.sub(r"[^\w'\u2019 ]", " ", text[max(at - 40, 0) : at].lower()).split()
    while words and words[-1] in _FILLERS:
        words.pop()
    return bool(words) and (words[-1] in _NEGATIONS or words[-1].endswith(("n't", "n\u2019t")))


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
    """Without the markup that models put around an answer, of which two layers are usual."""
    return _WRAPPER.sub(r"\1", _WRAPPER.sub(r"\1", content)).replace("**", "")


def _sentence(line: str) -> str:
    end = _SENTENCE_END.search(line)
    return line[: end.start()] if end else line
