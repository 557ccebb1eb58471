"""The letter that a text claims: its claims are collected, then weighed."""

from __future__ import annotations

import re
from collections.abc import Sequence

from hart_lite.grading import claims as grammar
from hart_lite.grading.choices import exact, labelled, letters_of, text_mentions
from hart_lite.grading.claims import REACH, Claim, Standing
from hart_lite.grading.lexer import Sign, lex
from hart_lite.grading.markup import Final, finals, plain
from hart_lite.grading.mentions import Group, groups, lines, listed
from hart_lite.grading.sentences import sentence_end

UNCLEAR = ""  # several letters at once, or one that is no choice: no answer, and no reason to look for one elsewhere
_BOUND = re.compile(r"[.?\n;]")
_ANNOUNCES = re.compile(r"[NR][fOrRlvtsX,]{0,5}[i:\-]+f?(?!m)")
_BETWEEN_FINALS = re.compile(r"[\s,;/|&]*(?:or|and|或|和|oder|und|ou|o|y|e|et|или|и)?[\s,;/|&$]*", re.IGNORECASE)


def read_letter(text: str, choices: Sequence[str]) -> str | None:
    """The capital letter that a text without thoughts, in NFKC, gives as its answer; None when it gives none."""
    letter = _short(text, choices)
    if letter is not None:
        return letter
    boxed = finals(text)
    if not boxed:
        return _decide(*_collect(text, choices), choices) or None
    return _with_finals(text, boxed, choices) or None


def _short(text: str, choices: Sequence[str]) -> str | None:
    """Letter of a text that is nothing but an answer."""
    if text.rstrip(" \n*)\"'").endswith("?") and not any(choice.endswith("?") for choice in choices):
        return None
    return exact(text, choices) or labelled(text, choices)


def _with_finals(text: str, boxed: Sequence[Final], choices: Sequence[str]) -> str:
    """The last box or tag, unless it is asked about, or what follows takes it back."""
    last = boxed[-1]
    letter = _in_final(text, last, choices)
    joined = len(boxed) > 1 and _BETWEEN_FINALS.fullmatch(text, boxed[-2].end, last.at)
    if joined and _in_final(text, boxed[-2], choices) != letter:
        return UNCLEAR
    if not text[last.end :].strip():
        return letter
    if text[last.end : last.end + 6].lstrip("$.) *").startswith("?"):
        letter = UNCLEAR
    found, turned = _collect(text[last.at :], choices)
    behind = [claim for claim in found if claim.at >= last.end - last.at]
    later = [claim for claim in behind if claim.standing >= Standing.STATED]
    if later and (turned > last.end - last.at or (not letter and later[-1].standing == Standing.ANNOUNCED)):
        return _decide(behind, turned, choices)
    denied = any(claim.standing == Standing.DENIED and letter in claim.letters for claim in behind) if letter else False
    return UNCLEAR if denied else letter


def _in_final(text: str, final: Final, choices: Sequence[str]) -> str:
    content = text[final.start : final.stop]
    letter = _short(plain(content), choices) or _short(content, choices)
    return letter or _decide(*_collect(content, choices, announced=True), choices)


def _collect(text: str, choices: Sequence[str], announced: bool = False) -> tuple[list[Claim], int]:
    """The claims of a text in order, and the place where it last turns ("wait"); -1 when it does not."""
    lowered = plain(text)
    signs = lex(text, lowered, letters_of(choices), text_mentions(lowered, choices))
    symbols = "".join(sign.symbol for sign in signs)
    found = groups(signs, symbols)
    ends = _sentence_ends(symbols)
    standings = {group.first: _standing(group, symbols, ends) for group in found}
    if len(found) == 1 and found[0].first == 0 and standings[0] is None:
        standings[0] = Standing.MENTIONED  # "C shows it."
    _read_lines(signs, symbols, found, standings, announced)
    out = [
        Claim(group.letters, standing, signs[group.first].start, group.of_text)
        for group in found
        if (standing := standings[group.first]) is not None
    ]
    for n, group in enumerate(found):
        if n and re.search(r"(?:^|[.\n])o[fOyl,]*$", symbols[max(group.first - 6, 0) : group.first]):  # ".. Or B."
            letters = group.letters | found[n - 1].letters
            out.append(Claim(letters, max(standings[found[n - 1].first] or 0, Standing.STATED), signs[group.first].start))
    for at in grammar.taken_back(symbols):
        before = [group for group in found if group.last < at][-1:]
        out += [Claim(group.letters, Standing.DENIED, signs[at].start) for group in before]
    out += _announced_otherwise(text, signs, symbols, choices)
    turned = [signs[at].start for at in grammar.turns(symbols)]
    return sorted(out, key=lambda claim: claim.at), max(turned, default=-1)


def _sentence_ends(symbols: str) -> list[str]:
    """For each sign the sign that ends its sentence."""
    ends, end = [], "."
    for symbol in reversed(symbols):
        if symbol in ".?\n)":
            end = symbol
        ends.append(end)
    return ends[::-1]


def _standing(group: Group, symbols: str, ends: Sequence[str]) -> Standing | None:
    if ends[group.last] == "?":
        return Standing.DOUBTED
    before = _BOUND.split(symbols[max(group.first - REACH, 0) : group.first])[-1]
    behind = _BOUND.split(symbols[group.last + 1 : group.last + 1 + REACH], maxsplit=1)[0]
    standing = grammar.standing(before, behind)
    if standing is not None and not (standing == Standing.PASSED and group.of_text):
        return standing
    if not (before or behind) and group.compact:
        return Standing.STATED  # a sentence of its own
    if group.of_text:
        if re.search("[nqy]", before):
            return None
        single = len(_BOUND.sub("", symbols)) - len(before) - len(behind) - (group.last - group.first + 1) == 0
        return Standing.MENTIONED if single else None
    return Standing.MENTIONED if group.strong else None


def _read_lines(
    signs: Sequence[Sign],
    symbols: str,
    found: Sequence[Group],
    standings: dict[int, Standing | None],
    announced: bool,
) -> None:
    """Raises the standing of a choice that a line begins with; a list of several has none."""
    if announced and found and found[0].first == 0 and standings[0] is None:
        standings[0] = Standing.LABELLED
    kept = [
        line
        for line in lines(signs, symbols, found)
        if standings[line.group.first] not in (Standing.DENIED, Standing.DOUBTED)
    ]
    for run in listed(kept):
        for line in run:
            old = standings[line.group.first]
            if len(run) == 1:
                new = Standing.LABELLED if line.style == "label" and not _sole(line.group, signs) else Standing.ANNOUNCED
                standings[line.group.first] = max(old or new, new)
            elif old is None or old < Standing.ANNOUNCED or not _by_itself(line.group, symbols):
                standings[line.group.first] = None


def _sole(group: Group, signs: Sequence[Sign]) -> bool:
    """Whether nothing but a dot follows on its line."""
    rest = [sign for sign in signs[group.last + 1 : group.last + 3] if sign.line == signs[group.first].line]
    return all(sign.symbol in ".\n" for sign in rest)


def _by_itself(group: Group, symbols: str) -> bool:
    """Whether the mark of a list's item is its own, "C: correct", and not that of the heading before the list."""
    behind = _BOUND.split(symbols[group.last + 1 : group.last + 1 + REACH], maxsplit=1)[0]
    return grammar.standing("", behind) == Standing.ANNOUNCED


def _announced_otherwise(text: str, signs: Sequence[Sign], symbols: str, choices: Sequence[str]) -> list[Claim]:
    """Choices that are announced in another spelling: "The answer is 7.0"."""
    out = []
    for match in _ANNOUNCES.finditer(symbols):
        start = signs[match.end() - 1].stop
        line = text[start : start + 300].lstrip("\n *").partition("\n")[0]
        letter = _short(line, choices) or _short(line[: sentence_end(line)], choices)
        if letter:
            out.append(Claim(frozenset(letter), Standing.ANNOUNCED, start))
    return out


def _decide(found: Sequence[Claim], turned: int, choices: Sequence[str]) -> str:
    """The letter that the claims come to.

    1. Behind the last turn ("wait", "no,") only what follows counts, if it claims anything.
    2. A claim whose letter is denied later, and not claimed again, does not count.
    3. The highest standing wins; of announced answers the last one. Of lower standings two different letters are none.
    4. Several letters in one claim ("A or B") are none.
    """
    later = [claim for claim in found if claim.at > turned]
    if turned >= 0 and any(claim.standing >= Standing.STATED for claim in later):
        found = later
    kept = [claim for n, claim in enumerate(found) if claim.standing > Standing.PASSED and not _retracted(found, n)]
    if not kept:
        return UNCLEAR
    best = max(claim.standing for claim in kept)
    of_best = [claim for claim in kept if claim.standing == best]
    if best == Standing.MENTIONED and any(not claim.of_text for claim in of_best):
        of_best = [claim for claim in of_best if not claim.of_text]
    if best >= Standing.ANNOUNCED:
        of_best = of_best[-1:]
    letters = frozenset().union(*(claim.letters for claim in of_best))
    return next(iter(letters)) if len(letters) == 1 else UNCLEAR


def _retracted(found: Sequence[Claim], n: int) -> bool:
    (letter, *more) = found[n].letters
    if more:
        return False
    for claim in reversed(found[n + 1 :]):
        if letter in claim.letters and claim.standing >= Standing.STATED:
            return False
        if letter in claim.letters and claim.standing == Standing.DENIED:
            return True
    return False
