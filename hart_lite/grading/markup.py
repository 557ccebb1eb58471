r"""What models put around an answer: thoughts, `\boxed{..}`, `<answer>..</answer>`, LaTeX, Markdown, special tokens.

Everything is matched in one pass from left to right, so that no text is read in more than linear time.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass

from hart_lite.grading.vocabulary import UNSURE

_TOKENS = re.compile(
    r"<\|(?!begin_of_box|end_of_box)[\w/ -]{1,30}\|>|</?s>|<(?:eos|bos|pad|end_of_turn|eod)>|\[/?INST\]"
)
_THOUGHT = re.compile(
    r"[<◁\[](/?)(?:think|thinking|thought|thoughts|reasoning|reason|reflection|scratchpad|analysis)[>▷\]]",
    re.IGNORECASE,
)
_MOST = 32_768  # characters, some 8,000 tokens
_OPENING = frozenset("<◁[")  # of tags
_BRACES = re.compile(r"\\(?:boxed|fbox|framebox)\s*\{|\{|\}")
_TAGS = re.compile(
    r"<(/?)(?:answer|final_answer|final-answer|finalanswer|final|ans|choice|conclusion|solution|result|response|output)>"
    r"|\[(/?)answer\]|<\|(begin|end)_of_box\|>",
    re.IGNORECASE,
)
_EMPTY_BOX = re.compile(r"\\boxed\s{0,9}\{\s{0,99}\}")
_EMPTY_TAG = re.compile(r"<(answer|final_answer|ans|conclusion)>\s{0,99}</\1>", re.IGNORECASE)
_COMMAND = re.compile(
    r"\\(?:boxed|fbox|framebox|(?:text|math)[a-z]*|emph|underline|bf|rm|left|right|[Bb]ig+[lr]?|quad|qquad|displaystyle"
    r"|large|Large|[()\[\],;:! ])"
)
_JOINT = re.compile(r"[\s,;/|&$]*(?:or|and|或|和|oder|und|ou|o|y|e|et|или|и)?[\s,;/|&$]*")  # between two boxes
_LATEX_WRAPPER = re.compile(r"\\(?:(?:text|math)[a-z]*|emph|underline)\s*\{([^{}]*)\}")
_BOLD = re.compile(r"(?<!\w)(\*{1,3}|_{2,3}|`{1,3})(?=\S)(.{1,400}?)(?<=\S)\1(?!\w)", re.DOTALL)
_MATH = re.compile(r"\s*(?:\$\$?([^$]+)\$\$?|\\\((.+)\\\)|\\\[(.+)\\\])\s*", re.DOTALL)
_INLINE_TAG = re.compile(r"</?(?:[biups]|em|strong|span|sub|sup|mark|code)>")
_BLOCK_TAG = re.compile(r"</?[A-Za-z][\w -]{1,30}/?>|<\|(?:begin|end)_of_box\|>")
_TIMES = re.compile(r"(?<=[\d)]) ?\*(?= ?[\d(\\a-z])")
_BLANKED = str.maketrans(
    {
        **dict.fromkeys('*_`"“”„«»‹›$#{}~\u200b\ufeff\u200e\u200f', " "),
        "’": "'",
        "‘": "'",
        "\t": " ",
        **dict(zip("：，？！；（）", ":,?!;()", strict=True)),
    }
)


@dataclass(frozen=True)
class Final:
    """A box or tag that holds an answer, as offsets: nested boxes copied out would fill the memory."""

    at: int  # where its mark-up begins
    start: int  # of what it holds
    stop: int
    end: int  # behind its mark-up


def answer_part(text: str) -> str:
    """The text without special tokens and thoughts: "" when generation stopped inside a thought.

    A closed thought with nothing behind it is read itself. An answer in tags that ends an unclosed thought is one.
    """
    if "\\" in text:
        text = _EMPTY_BOX.sub(" ", text)
    if _OPENING.isdisjoint(text):
        return text
    text = _EMPTY_TAG.sub(" ", _TOKENS.sub("", text))
    marks = list(_THOUGHT.finditer(text))
    if not marks:
        return text
    last = marks[-1]
    if last[1]:
        return text[last.end() :] if text[last.end() :].strip() else _THOUGHT.sub(" ", text)
    before = text[: last.start()]
    if before.strip() and marks[0] is last and not text[last.end() :].strip():
        return before
    tagged = [final for final in finals(text) if final.at > last.end() and text[final.start - 1] == ">"]
    ends_in_tag = tagged and tagged[-1].stop < tagged[-1].end and not text[tagged[-1].end :].strip()
    return text[tagged[-1].at :] if ends_in_tag else ""


def finals(text: str) -> list[Final]:
    """Every box and tagged answer that is not empty, in order. An unclosed one reaches to the end of its line."""
    if "\\" not in text and _OPENING.isdisjoint(text):
        return []
    found = sorted((*_boxes(text), *_tagged(text)), key=lambda final: (final.end, -final.at))
    outer: list[Final] = []
    for final in found:  # a box in a tag, or in a box, is a part of it
        while outer and outer[-1].at >= final.at:
            outer.pop()
        outer.append(final)
    return [final for final in outer if text[final.start : min(final.stop, final.start + 2000)].strip(" \n{}")]


def joined(between: str) -> bool:
    """Whether two boxes with this text between them are two parts of one answer, "A or B"."""
    return len(between) <= 60 and _JOINT.fullmatch(plain(between)) is not None


def _boxes(text: str) -> Iterator[Final]:
    opened: list[tuple[int, int] | None] = []  # span of an opened box; None for any other brace
    for match in _BRACES.finditer(text):
        if match[0] != "}":
            opened.append(None if match[0] == "{" else match.span())
        elif opened and (box := opened.pop()):
            yield Final(*box, match.start(), match.end())
    last = next((span for span in reversed(opened) if span), None)
    if last:
        stop = _line_end(text, last[1])
        yield Final(*last, stop, stop)


def _tagged(text: str) -> Iterator[Final]:
    opened: tuple[int, int] | None = None
    for match in _TAGS.finditer(text):
        closes = bool(match[1] or match[2] or (match[3] or "").lower() == "end")
        if opened and closes:
            yield Final(*opened, match.start(), match.end())
        opened = None if closes else match.span()
    if opened:
        yield Final(*opened, len(text), len(text))


def _line_end(text: str, at: int) -> int:
    end = text.find("\n", at)
    return end if end >= 0 else len(text)


def unwrapped(text: str) -> str:
    r"""Free text without the mark-up around it: `\text{..}`, `$..$`, Markdown's bold; 2**3 stays what it is."""
    for _ in range(2):  # two layers are usual
        text = _LATEX_WRAPPER.sub(r"\1", text)
        text = _BOLD.sub(r"\2", text)
        if match := _MATH.fullmatch(text):
            text = match[match.lastindex or 0]
    return re.sub(r"^#{1,6}\s+", "", text.strip())


def plain(text: str) -> str:
    """The text in lower case with its mark-up blanked, every character where it was."""
    if "\\" in text:
        text = _COMMAND.sub(_blank, text)
    if "*" in text:
        text = _TIMES.sub(lambda match: match[0].replace("*", "×"), text)
    if "<" in text:
        text = _INLINE_TAG.sub(_blank, text)
        text = _BLOCK_TAG.sub(lambda match: "\n" + " " * (len(match[0]) - 1), text)
    return lower(text).translate(_BLANKED)


def lower(text: str) -> str:
    """The text in lower case, but for the few letters that would become two."""
    lowered = text.lower()
    if len(lowered) == len(text):
        return lowered
    return "".join(low if len(low := character.lower()) == 1 else character for character in text)


def settled(text: str) -> tuple[str, bool]:
    """A text without "I am not sure" and question marks at its end, and whether a question mark was among them."""
    lowered = lower(text)
    stop, asked = len(text), False
    while stop:
        if lowered[stop - 1] in " \n\t":
            stop -= 1
        elif lowered[stop - 1] in "?？":
            stop, asked = stop - 1, True
        else:
            end = stop
            while end and lowered[end - 1] in ".!。！ ":
                end -= 1
            phrase = next((phrase for phrase in UNSURE if lowered.endswith(phrase, 0, end)), "")
            if not phrase:
                break
            stop = end - len(phrase)
    return text[:stop], asked


def without_middle(text: str) -> str:
    """A text of over `_MOST` characters without its middle: it answers at its beginning or its end, if at all."""
    return text if len(text) <= _MOST else f"{text[: _MOST // 4]}\n\n{text[-_MOST * 3 // 4 :]}"


def compatible(text: str) -> str:
    """NFKC: full-width letters and brackets become plain ones."""
    return text if text.isascii() else unicodedata.normalize("NFKC", text)


def _blank(match: re.Match[str]) -> str:
    return " " * len(match[0])
