"""Mentions that stand together, "A or B" and "(C) EXIT", are one group; and the lines that begin with one."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from hart_lite.grading.lexer import Signs

_SAME = re.compile(r"[.):]?f?|[fx]{0,2}[,:\-(]?[fxOiNp]{0,4}[,:\-(]?")  # between a letter and its text
_REPEATED = re.compile(r"[,:.)(\-]?O?(?:[fx]{0,2}i[fO]{0,2})?")  # "option A, i.e. A"
_JOINED = re.compile(r"(?:,?b)?[,;.(]?[o&]+[yfOlpt,(]{0,5}")  # between two choices: "or", "and", "or maybe"
_NOUNS_JOINED = re.compile(r"[xf]{1,3},?[&o]f?")  # "2 cats and 3 dogs"
_LISTED = re.compile(r"[,;:.\-()]?O?|[,(]?[yf]*O?")
_REST_OF_LIST = re.compile(r"[f)]*(?:[,;&o]+[fOly(]*m[f)]*)*(?:[.?\n]|$)")
_DENIED = re.compile(r"nf*$")
_EACH_DENIED = re.compile(r"nf*m,nf*$")
_LABEL_END = re.compile(r"[.:\-)]?f?")
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
    tail: tuple[str, bool] = ("", False)  # of its last mention: letter, and whether it is a choice's words


def groups(signs: Signs) -> list[Group]:
    """All mentions of a text, in order, those that stand together as one."""
    found: list[Group] = []
    symbols = signs.symbols
    for at, mention in signs.mentions.items():
        letter, of_text = mention.letter, mention.form in ("text", "clause")
        strong = mention.form == "strong" or "O" in (symbols[at - 1 : at], symbols[at + 1 : at + 2])
        new = Group(at, at, frozenset(letter), strong, of_text, tail=(letter, of_text))
        if found and _together(found[-1], new, signs):
            last = found.pop()
            between = symbols[last.last + 1 : at]
            compact = last.compact and not set("ix") & set(between)
            ended = last.ended or bool(set("&o") & set(between))
            letters, all_text = last.letters | new.letters, last.of_text and of_text
            both = of_text != last.of_text  # a letter and its text
            new = Group(last.first, at, letters, last.strong or strong or both, all_text, compact, ended, new.tail)
        found.append(new)
    return found


def _together(group: Group, new: Group, signs: Signs) -> bool:
    symbols = signs.symbols
    if new.first - group.last > 8:
        return False
    between = symbols[group.last + 1 : new.first]
    (letter, of_text), (last, last_of_text) = new.tail, group.tail
    if letter == last and of_text != last_of_text:
        return _SAME.fullmatch(between) is not None  # a letter and its text
    if letter == last and (len(group.letters) == 1 or between != ","):
        return _REPEATED.fullmatch(between) is not None
    if _JOINED.fullmatch(between) or (group.of_text and new.of_text and _NOUNS_JOINED.fullmatch(between)):
        return True
    if between == ":f" and of_text and not last_of_text:
        return True  # "A: a pilot", where that is C
    if not _LISTED.fullmatch(between):
        return False
    if ";" in between and not _REST_OF_LIST.match(symbols, new.last + 1):
        return False  # "It is A; B and C are too large"
    if between == ",f" and _EACH_DENIED.search(symbols[max(group.first - 8, 0) : group.first]):
        return False  # "not A, not B, definitely C"
    if between == ":" and _DENIED.search(symbols[max(group.first - 3, 0) : group.first]):
        return False  # "Not B: A"
    at = new.last + 1
    own = at + len(_LABEL_END.match(symbols, at)[0])
    if own in signs.mentions and signs.mentions[own].letter in new.letters:
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


def opens(signs: Signs, group: Group) -> bool:
    """Whether a line begins with the group, or with "option" before it."""
    return signs.opens(group.first - (signs.symbols[group.first - 1 : group.first] == "O"))


def lines(signs: Signs, found: Sequence[Group]) -> list[Line]:
    """The lines that begin with one choice, as its label or as all they hold."""
    out: list[Line] = []
    symbols = signs.symbols
    last_line = signs.line(len(symbols) - 1)
    inline = _lists_in_a_line(signs, found)
    for group in found:
        number = signs.line(group.first)
        outer = number in (1, last_line)
        if len(group.letters) > 1 or not group.compact or (out and out[-1].number == number) or not opens(signs, group):
            continue
        line_end = signs.firsts[number] if number < len(signs.firsts) else len(symbols)
        rest = symbols[group.last + 1 : line_end]
        next_item = out and not out[-1].sole and out[-1].number == number - 1 and _follows(group, out[-1].group)
        if line_end == len(symbols) and (rest[-1:] == ":" or (next_item and not rest)):
            continue  # a list that was cut off
        sole = not rest.strip(".,:;-)\n")
        own = group.last > group.first  # with its choice's text
        if sole:
            style = "label" if own else "text" if group.of_text else "letter"
            out.append(Line(group, number, outer, True, style))
        elif number in inline:
            continue
        elif group.first == 0 and group.of_text and symbols[group.last + 1] in ",:-j":  # "No, there is none."
            out.append(Line(group, number, True, False, "label"))
        elif not group.of_text and (own or _is_label(signs, group)):
            out.append(Line(group, number, outer, False, "label"))
    return out


def _follows(group: Group, before: Group) -> bool:
    """Whether it is the next letter of the alphabet."""
    return ord(min(group.letters)) == ord(min(before.letters)) + 1


def _lists_in_a_line(signs: Signs, found: Sequence[Group]) -> set[int]:
    """The lines in which several choices bear a colon: {"A": 0.1, "B": 0.9}."""
    labels: dict[int, frozenset[str]] = {}
    symbols = signs.symbols
    for group in found:
        begins = signs.mentions[group.first].form == "strong" and symbols[group.first - 1 : group.first] in (
            "",
            ".",
            "\n",
        )
        if begins or symbols[group.last + 1 : group.last + 2] == ":":
            line = signs.line(group.first)
            labels[line] = labels.get(line, frozenset()) | group.letters
    return {line for line, letters in labels.items() if len(letters) > 1}


def _is_label(signs: Signs, group: Group) -> bool:
    """Whether it is in brackets, or a label's punctuation or a reason follows: "(C) ", "C. ", "C - ", "C because"."""
    mention = signs.mentions[group.first]
    bracketed = mention.form == "strong" and mention.stop - mention.start > 1
    behind = signs.symbols[group.last + 1]
    return (bracketed and behind not in "iIvn") or behind in ".:-j,()"


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
