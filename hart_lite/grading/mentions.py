"""Mentions that stand together, "A or B" and "(C) EXIT", are one group; and the lines that begin with one."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from hart_lite.grading.lexer import Sign

_SAME = re.compile(r"[.)]?|[fx]{0,2}[,:\-(]?[fxOiNp]{0,4}[,:\-(]?")  # between a letter and its text
_JOINED = re.compile(r"[,;.(]?[o&]+[yfOlpt,(]{0,5}")  # between two choices: "or", "and", "or maybe"
_NOUNS_JOINED = re.compile(r"[xf]{1,3},?[&o]f?")  # "2 cats and 3 dogs"
_LISTED = re.compile(r"[,;:.\-()]?O?|[,(]?[yf]*O?")
_LIST_GOES_ON = frozenset(",;o&.?\n-Im)(")


@dataclass(frozen=True, slots=True)
class Group:
    first: int  # index of its first sign
    last: int  # of its last
    letters: frozenset[str]
    strong: bool  # in brackets, bold, or called an option
    of_text: bool  # the choices' words alone
    compact: bool = True  # a letter with its text at once, "C. EXIT", and not "(C) shows EXIT"
    ended: bool = False  # by "and" or "or": a comma behind leads to something new
    tail: str = ""  # letter of its last mention


def groups(signs: Sequence[Sign], symbols: str) -> list[Group]:
    """All mentions of a text, in order, those that stand together as one."""
    found: list[Group] = []
    at = symbols.find("m")
    while at >= 0:
        sign = signs[at]
        strong = sign.form == "strong" or symbols[at - 1 : at] == "O" or symbols[at + 1 : at + 2] == "O"
        new = Group(at, at, frozenset(sign.letter), strong, sign.form in ("text", "clause"), tail=sign.letter)
        if found and _together(found[-1], new, signs, symbols):
            last = found.pop()
            between = symbols[last.last + 1 : at]
            compact = last.compact and not set("ifx") & set(between)
            ended = last.ended or bool(set("&o") & set(between))
            letters, of_text = last.letters | new.letters, last.of_text and new.of_text
            new = Group(last.first, at, letters, last.strong or strong, of_text, compact, ended, sign.letter)
        found.append(new)
        at = symbols.find("m", at + 1)
    return found


def _together(group: Group, new: Group, signs: Sequence[Sign], symbols: str) -> bool:
    if new.first - group.last > 8:
        return False
    between = symbols[group.last + 1 : new.first]
    if new.tail == group.tail and (_SAME.fullmatch(between) or len(group.letters) == 1):
        return _SAME.fullmatch(between) is not None
    if _JOINED.fullmatch(between) or (group.of_text and new.of_text and _NOUNS_JOINED.fullmatch(between)):
        return True
    if not _LISTED.fullmatch(between):
        return False
    at = new.last + 1
    own = at + (symbols[at : at + 1] in tuple(".:-)"))
    if symbols[own : own + 1] == "m" and signs[own].letter in new.letters:
        at = own + 1  # behind its text: "(A) red"
    behind = symbols[at : at + 2]
    ends = not behind or behind[0] in _LIST_GOES_ON
    if between[:1] == ".":
        return ends and behind[:1] not in "-,:;I" and symbols[group.first - 1 : group.first] in ("", ".", "\n")
    return not group.ended and (ends or (len(group.letters) > 1 and not new.letters <= group.letters))


@dataclass(frozen=True, slots=True)
class Line:
    """A line that begins with a mention of one choice."""

    group: Group
    number: int
    outer: bool  # whether it is the first or the last line of the text
    sole: bool  # whether it holds nothing else
    style: str  # "letter", "text", or "label" for a label with what it stands for


def lines(signs: Sequence[Sign], symbols: str, found: Sequence[Group]) -> list[Line]:
    """The lines that begin with one choice, as its label or as all they hold."""
    out = []
    outer = (signs[0].line, signs[-1].line) if signs else ()
    inline = _lists_in_a_line(signs, symbols, found)
    for group in found:
        sign = signs[group.first - 1 if group.first and symbols[group.first - 1] == "O" else group.first]
        if not sign.opens or len(group.letters) > 1 or not group.compact or (out and out[-1].number == sign.line):
            continue
        end = group.last + 1
        while end < len(symbols) and symbols[end] in ".,:;-)" and signs[end].line == sign.line:
            end += 1
        sole = end == len(symbols) or symbols[end] == "\n" or signs[end].line != sign.line
        own = group.last > group.first  # with its choice's text
        if sole:
            style = "label" if own else "text" if group.of_text else "letter"
            out.append(Line(group, sign.line, sign.line in outer, True, style))
        elif group.first == 0 and group.of_text and symbols[group.last + 1] in ",:-j":  # "No, there is none."
            out.append(Line(group, sign.line, True, False, "label"))
        elif not group.of_text and sign.line not in inline and (own or _is_label(signs, symbols, group)):
            out.append(Line(group, sign.line, sign.line in outer, False, "label"))
    return out


def _lists_in_a_line(signs: Sequence[Sign], symbols: str, found: Sequence[Group]) -> set[int]:
    """The lines in which several choices bear a colon: {"A": 0.1, "B": 0.9}."""
    labels: dict[int, frozenset[str]] = {}
    for group in found:
        begins = signs[group.first].form == "strong" and symbols[group.first - 1 : group.first] in ("", ".", "\n")
        if begins or symbols[group.last + 1 : group.last + 2] == ":":
            line = signs[group.first].line
            labels[line] = labels.get(line, frozenset()) | group.letters
    return {line for line, letters in labels.items() if len(letters) > 1}


def _is_label(signs: Sequence[Sign], symbols: str, group: Group) -> bool:
    """Whether it is in brackets, or a label's punctuation or a reason follows: "(C) ", "C. ", "C - ", "C because"."""
    sign = signs[group.first]
    return symbols[group.last + 1] in ".:-j,()" or (sign.form == "strong" and sign.stop - sign.start > 1)


def listed(of_lines: Sequence[Line]) -> list[list[Line]]:
    """Lines that form one list, together: of one style, with different letters, adjacent or in the alphabet's order."""
    runs: list[list[Line]] = []
    for line in of_lines:
        (letter,) = line.group.letters
        run = runs[-1] if runs else None
        if run and run[-1].style == line.style and not any(letter in other.group.letters for other in run):
            (last,) = run[-1].group.letters
            if line.number - run[-1].number <= 1 or last < letter:
                run.append(line)
                continue
        runs.append([line])
    return runs
