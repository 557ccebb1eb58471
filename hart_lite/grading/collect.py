"""The claims of one text: what it says of each choice, and where it turns."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Sequence
from itertools import pairwise

from hart_lite.grading import claims as grammar
from hart_lite.grading.choices import exact, labelled, letters_of, noun_of
from hart_lite.grading.claims import REACH, Claim, Standing
from hart_lite.grading.lexer import lex
from hart_lite.grading.markup import plain, without_middle
from hart_lite.grading.mentions import Group, groups, lines, listed, opens
from hart_lite.grading.sentences import sentence_end
from hart_lite.grading.wordings import hinted, is_number, numbers_in, text_mentions

SHORT = 3  # sentences of a text in which a choice's words, or a guess, count wherever they stand
AGAINST = (Standing.DENIED, Standing.DOUBTED)
_BOUND = re.compile(r"[.?\n;]")
_ANNOUNCES = re.compile(r"[NR][fOrRlvtsX,]{0,5}[i:\-]+f?(?!m)")
_NEUTRAL = frozenset("mOf:,.;\n-()o&")  # signs of a bare list
_HEADING = re.compile("L[fOI:]*$")
_OPEN = "nqyugD?"  # signs of a sentence that does not simply state
_DIRECT = re.compile(r"(?:^|[,b])[fstk]*[iI]f*$")  # "It is C"
_POINTS = re.compile("[xm]f?hf*$")
_DUE = re.compile(r"[iIvhkNRsV:\-][fOrtl,]*$")  # a letter may end a text without a stop: "so C"
_CONCLUDES = re.compile(r"(?:^|[,;:\-&bjiI])[fb]{0,2}s[^nqygudDw]*(?<!p)(?<!pf)$|^j[^nqygudDw]*[,:][fOt]*$")
_SENTENCE_WITH_OR = re.compile(r"[.\n]o[fOyl,]*$")  # ".. Or B."
_ALTERNATIVE = re.compile(r"[,;.\n]?o[fOyNRrilvh,]{0,8}")  # "or is it B?", "or the answer is B"


def short_answer(text: str, choices: Sequence[str]) -> str | None:
    """Letter of a text that is nothing but an answer: a letter, a choice's text, or both."""
    if text[-20:].rstrip(" \n*)\"'").endswith("?") and not any(choice.endswith("?") for choice in choices):
        return None
    return exact(text, choices) or labelled(text, choices)


def collect(text: str, choices: Sequence[str], announced: bool = False) -> tuple[list[Claim], int]:
    """The claims of a text in order, and the place where it last turns ("wait"); -1 when it does not.

    `announced`: the text stands where an answer is due, so that a letter at its beginning is one.
    """
    return _Reading(text, choices).claims(announced)


class _Reading:
    def __init__(self, text: str, choices: Sequence[str]) -> None:
        self.text = text = without_middle(text)
        self.choices = choices
        self.lowered = lowered = plain(text)
        texts = text_mentions(lowered, choices)
        self.signs = lex(text, lowered, letters_of(choices), texts, noun_of(tuple(choices)))
        self.symbols = self.signs.symbols
        self.groups = groups(self.signs)
        self.ends = self._ends()
        self.sentence = self._sentences()
        self.named: dict[int, frozenset[str]] = {}  # the choices of each sentence, by its number
        for group in self.groups:
            number = self.sentence[group.last]
            self.named[number] = self.named.get(number, frozenset()) | group.letters
        self.hinted = hinted(lowered, choices)
        self.several_numbers = len(numbers_in(lowered)) > 1
        self.last_open = max(map(self.symbols.rfind, _OPEN))
        self.standings = {group.first: self._standing(group) for group in self.groups}

    def _ends(self) -> list[str]:
        """For each sign the sign that ends its sentence."""
        ends, end = [], "."
        for symbol in reversed(self.symbols):
            if symbol in ".?\n)":
                end = symbol
            ends.append(end)
        return ends[::-1]

    def _sentences(self) -> list[int]:
        """For each sign the number of its sentence."""
        numbers, number, empty = [], 0, True
        for symbol in self.symbols:
            ends = symbol in ".?\n;"
            if not ends and empty and numbers:
                number += 1
            empty = ends
            numbers.append(number)
        return numbers

    def _before(self, group: Group) -> str:
        return _BOUND.split(self.symbols[max(group.first - REACH, 0) : group.first])[-1]

    def _behind(self, group: Group) -> str:
        return _BOUND.split(self.symbols[group.last + 1 : group.last + 1 + REACH], maxsplit=1)[0]

    def _outer(self, group: Group) -> bool:
        """Whether a mention stands in the first or last sentence of a text, or in a short text."""
        return self.sentence[group.last] in (0, self.sentence[-1]) or self.sentence[-1] < SHORT

    def _standing(self, group: Group) -> Standing | None:
        if self.ends[group.last] == "?":
            return Standing.DOUBTED
        before, behind = self._before(group), self._behind(group)
        if len(group.letters) > 1 and _HEADING.search(before):
            return None  # "The choices are (A) .., (B) .."
        if behind[:1] in tuple("iIvnzyk") and before.rstrip("Of").endswith(":") and opens(self.signs, group):
            before = ""  # "Matching the options:" before a list of sentences announces none of them
        standing = grammar.standing(before, behind)
        if group.of_text and _POINTS.search(before) and standing == Standing.ANNOUNCED:
            standing = Standing.STATED  # "The arrow points to the north"
        alone = self.named[self.sentence[group.last]] == group.letters
        if standing == Standing.CHOSEN and not alone:
            standing = Standing.STATED  # "So the largest is A and the smallest is B"
        if standing in (None, Standing.STATED) and alone and self._concludes(group):
            return Standing.LABELLED
        if standing == Standing.HEDGED or (standing == Standing.STATED and group.of_text):
            return standing if self._outer(group) else None  # in the midst of reasoning
        text_first = self.signs.mentions[group.first].form in ("text", "clause")
        if standing in (None, Standing.PASSED) and text_first:
            if not group.of_text and "i" in self.symbols[group.first : group.last]:
                return Standing.STATED  # "STOP is (A)"
            standing = None
        if standing is not None:
            return standing
        if not (before or behind) and group.compact:
            return Standing.STATED  # a sentence of its own
        if self.signs.mentions[group.first].form == "clause":
            return Standing.STATED if self._outer(group) else None  # "A is closer"
        if group.of_text:
            plain_sentence = re.search("[nqyuD]", before) is None
            subject = not before.strip("f") and re.match("[fvx][^jiI]+$", behind)  # "Tea comes with a bag"
            return Standing.MENTIONED if plain_sentence and not subject and self._states_one_thing(group) else None
        if group.first == 0 and len(self.groups) == 1:
            return Standing.MENTIONED
        return Standing.MENTIONED if group.strong and self._outer(group) else None

    def _concludes(self, group: Group) -> bool:
        """Whether it stands in a last sentence that draws a conclusion, "So ..", or "Since .., C"."""
        start = bisect_left(self.sentence, self.sentence[-1])
        if not (start <= group.first < start + REACH * 3 and self.last_open < group.first):
            return False
        return _CONCLUDES.search(self.symbols[start : group.first]) is not None

    def _is_whole(self) -> bool:
        """Whether the text was not cut off in the midst of a sentence, as far as one can see."""
        end = self.symbols[-1:]
        if self.sentence[-1:] != [0] or end in tuple(".?\n)Yw"):
            return end in tuple(".?\n)Yw")
        return end not in tuple(",opgj:(-") and not (self.groups and set("&b") & set(self._behind(self.groups[-1])))

    def _leave_unfinished(self) -> None:
        """Takes what is not announced from the last sentence of a text that was cut off, and all guesses from it."""
        for group in self.groups:
            last = self.sentence[group.last] == self.sentence[-1]
            due = self._is_direct(group) if group.of_text else _DUE.search(self._before(group))
            own = group.strong or self.symbols[group.first - 1 : group.first] == "?"
            ends = group.last == len(self.symbols) - 1 and (due or (own and not self._before(group)))
            standing = self.standings[group.first] or Standing.DENIED
            if not ends and standing < Standing.LABELLED and (last or group.of_text or standing == Standing.HEDGED):
                self.standings[group.first] = None

    def _is_direct(self, group: Group) -> bool:
        """Whether nothing but an answer is said: "It is C", "..., that is, C .."."""
        before, behind = self._before(group), self._behind(group)
        led = self.named[self.sentence[group.last]] == group.letters and before.rstrip("f")[-1:] in tuple(":-")
        that_is = before.rstrip("f").endswith("i,")
        return that_is or (not behind and (led or not before.strip("f") or _DIRECT.search(before) is not None))

    def _states_one_thing(self, group: Group) -> bool:
        """Whether it stands in a short text, where a number is the only one."""
        mention = self.signs.mentions[group.first]
        number = is_number(self.lowered[mention.start : mention.stop])
        doubted = self.sentence[-1] > 0 and self.last_open >= 0
        return self.sentence[-1] < SHORT and not doubted and not (number and self.several_numbers)

    def _weigh_statements(self, turned: int) -> list[Claim]:
        """Takes the standing from a choice's words that are merely stated where another choice is named, too.

        "The roof is red. The door is blue." states nothing, but "The roof is red. It is blue." does. Returns claims
        that say so.
        """
        found = [group for group in self.groups if self.signs.starts[group.first] > turned]
        short = self.sentence[-1:] < [SHORT - 1]
        against = {
            Standing.STATED: {*AGAINST, Standing.HEDGED},
            Standing.HEDGED: set(AGAINST),
            Standing.MENTIONED: {Standing.DENIED},
        }
        direct = {group.first for group in self.groups if self._is_direct(group)}
        unclear: list[Claim] = []
        for standing, no_rivals in against.items():
            rivals = [group for group in found if self.standings[group.first] not in no_rivals]
            named = frozenset().union(*(group.letters for group in rivals))
            last = {letter: group.first for group in rivals for letter in group.letters}
            for group in self.groups:
                weighed = group.of_text or standing == Standing.HEDGED
                if not weighed or self.standings[group.first] != standing or group.first in direct:
                    continue
                anywhere = short or standing != Standing.STATED
                others = {letter for letter in named - group.letters if anywhere or last[letter] > group.first}
                if others or (standing != Standing.STATED and group.of_text and self.hinted - group.letters):
                    self.standings[group.first] = None if group.of_text else standing
                if others:
                    at = max([group.first, *(last[letter] for letter in others if last[letter] not in direct)])
                    unclear.append(Claim(group.letters | others, standing, self.signs.starts[at]))
        return unclear

    def _lists_all(self) -> bool:
        """Whether nothing but the choices follows from the first one on, and each of them once."""
        named = [letter for group in self.groups for letter in sorted(group.letters)]
        rest = self.symbols[self.groups[0].first :] if self.groups else ""
        return len(named) > 1 and sorted(named) == list(letters_of(self.choices)) and _NEUTRAL.issuperset(rest)

    def claims(self, announced: bool) -> tuple[list[Claim], int]:
        if self._lists_all():
            return [], -1
        turned = max((self.signs.starts[at] for at in grammar.turns(self.symbols)), default=-1)
        whole = self._is_whole()
        if not whole:
            self._leave_unfinished()
        unclear = self._weigh_statements(turned)
        self._read_lines(announced)
        self._pass_over_echo()
        out = [
            Claim(group.letters, standing, self.signs.starts[group.first], group.of_text)
            for group in self.groups
            if (standing := self.standings[group.first]) is not None
        ]
        out += [Claim(frozenset(), Standing.ANNOUNCED, self.signs.starts[at]) for at in grammar.declines(self.symbols)]
        out += [*unclear, *self._alternatives(), *self._taken_back(), *self._announced_otherwise()]
        unable = self.signs.starts[self.symbols.rindex("u")] if "u" in self.symbols else -1
        if -1 < turned < unable or (not whole and turned >= 0):
            out.append(Claim(frozenset(), Standing.STATED, max(unable, turned + 1)))  # "No, wait .. I cannot tell."
        return sorted(out, key=lambda claim: claim.at), turned

    def _pass_over_echo(self) -> None:
        """All choices in a row, each with its text, have no standing: "A is a kite, B is a ball, .."."""
        letters, first = frozenset(letters_of(self.choices)), 0
        while len(letters) > 2 and first + len(letters) <= len(self.groups):
            run = self.groups[first : first + len(letters)]
            gaps = "".join(self.symbols[a.last + 1 : b.first] for a, b in pairwise(run))
            named = frozenset().union(*(group.letters for group in run))
            if named == letters and all(group.last > group.first for group in run) and _NEUTRAL.issuperset(gaps):
                self.standings.update(dict.fromkeys((group.first for group in run), None))
                first += len(letters) - 1
            first += 1

    def _read_lines(self, announced: bool) -> None:
        """Raises the standing of a choice that a line begins with; a list of several has none."""
        first = self.groups[0] if self.groups else None
        if announced and first and first.first == 0 and self.standings[0] is None and not first.of_text:
            self.standings[0] = Standing.LABELLED
        for run in listed(lines(self.signs, self.groups)):
            kept = [line for line in run if self.standings[line.group.first] not in AGAINST]
            alone = len(kept) == 1 and (len(run) == 1 or kept[0].group.first == 0)  # the answer, then the others denied
            for line in kept:
                at, old = line.group.first, self.standings[line.group.first]
                if alone and (line.sole or old != Standing.HEDGED):
                    new = (Standing.MENTIONED, Standing.LABELLED, Standing.ANNOUNCED)[line.sole + line.outer]
                    self.standings[at] = new if old is None else max(old, new)
                elif not alone and (old is None or old < Standing.ANNOUNCED or not self._by_itself(line.group)):
                    self.standings[at] = None

    def _by_itself(self, group: Group) -> bool:
        """Whether the mark of a list's item is its own, "C: correct", and not that of the heading before the list."""
        return grammar.standing("", self._behind(group)) == Standing.ANNOUNCED

    def _alternatives(self) -> list[Claim]:
        """An "or" between two claims makes both unclear."""
        out = []
        for before, group in pairwise(self.groups):
            near = self.symbols[max(group.first - 6, before.last + 1) : group.first]
            if _ALTERNATIVE.fullmatch(self.symbols, before.last + 1, group.first) or _SENTENCE_WITH_OR.search(near):
                standing = max(self.standings[before.first] or Standing.STATED, Standing.STATED)
                out.append(Claim(group.letters | before.letters, standing, self.signs.starts[group.first]))
        return out

    def _taken_back(self) -> list[Claim]:
        """Denials of the last mention before "that is wrong"."""
        out, n = [], 0
        for at in grammar.taken_back(self.symbols):
            while n < len(self.groups) and self.groups[n].last < at:
                n += 1
            if n:
                out.append(Claim(self.groups[n - 1].letters, Standing.DENIED, self.signs.starts[at]))
        return out

    def _announced_otherwise(self) -> list[Claim]:
        """What is announced and no mention: a choice in another spelling, "The answer is 7.0", or "none"."""
        out = []
        for match in _ANNOUNCES.finditer(self.symbols):
            start = self.signs.stops[match.end() - 1]
            line = self.text[start : start + 300].lstrip("\n *").partition("\n")[0]
            letter = short_answer(line, self.choices) or short_answer(line[: sentence_end(line)], self.choices)
            rest = _BOUND.split(self.symbols[match.end() : match.end() + REACH], maxsplit=1)[0]
            if letter:
                out.append(Claim(frozenset(letter), Standing.ANNOUNCED, start))
            elif rest[:1] in ("n", "z") and "m" not in rest:
                out.append(Claim(frozenset(), Standing.ANNOUNCED, start))
        return out
