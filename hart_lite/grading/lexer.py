"""A text becomes a row of signs, one character for each word that the grammar knows: see `vocabulary.SIGNS`.

Beside those: `m` a mention of a choice, `x` any other word, `.` the end of a sentence, `?` that of a question, a
newline that ends a line, `;`, `,`, `:` (also = and arrows), `-`, `(`, and `)` for the dot of a label ("C. It ..").
Quotes and Markdown are no signs.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from hart_lite.grading.vocabulary import ELIDED, LETTER, PHRASES, Entry

_TOKEN = re.compile(
    rf"""
    ({LETTER}+(?:'{LETTER}+)*)
    |(\d+(?:[.,:]\d+)*)
    |([(\[【〔「『《<〈]\ ?[a-z]\ ?[)\]】〕」』》>〉])
    |(\n[\ \n]*(?:(?:[-•>+–—|]|\d{{1,2}}[.)])\ +)?)
    |([-=]+>)
    |(\.{{2,}})
    |([^\ ])
    """,
    re.VERBOSE,
)
_WORD, _NUMBER, _BRACKETED, _LINE, _ARROW, _DOTS, _OTHER = range(1, 8)
_LIST_MARK = re.compile(r"[ \n]*(?:(?:[-•>+–—|]|\d{1,2}[.)]) +)?")
_ELIDED = re.compile(ELIDED)
_PUNCTUATION = {
    **dict.fromkeys("!。｡", "."),
    **dict.fromkeys("?؟", "?"),
    **dict.fromkeys(",、،", ","),
    **dict.fromkeys("([（【", "("),
    **dict.fromkeys(":=→⇒➜➡⟶👉】", ":"),
    **dict.fromkeys("-–—―−", "-"),
    **dict.fromkeys("/|", "o"),
    **dict.fromkeys("&+", "&"),
    ";": ";",
}
_HEADING = re.compile(r"[frYx]{0,2}[NR]f?|[fr]{0,2}rf*O|[fr]{0,2}O")  # a line that announces the next one
_ARTICLE = re.compile(r"(?<=[iIkh])o(?=[fO]{0,2}m)")  # the Portuguese "o" is no "or" behind a verb
_PEOPLE = re.compile(r"(h[fi]{0,3})?P([fx]{0,2}[hvytN])?")  # what they choose or think is not the point
_CYRILLIC = str.maketrans("АВСЕКМНОРТХ", "ABCEKMHOPTX")  # letters that look like Latin ones
_LIKE_WORDS = frozenset("AEIOUY")  # articles, prepositions and pronouns of one letter
_NO_LETTER_BEFORE = re.compile(r"(?:['’°#@_∠△⊙∆√\\]|_\{|\w[-.])$")
_NO_LETTER_BEHIND = re.compile(r"['’+#°@\d]|-[A-Za-z\d]|\.[A-Za-z](?![A-Za-z])|\s?%")
_ALONE_BEHIND = re.compile(r" *(?:[.,;:!?()\]\n、。，]|$|[^\x00-\u052f])")
_READS_ON = re.compile(rf" +['\"(]?({LETTER}+(?:'{LETTER}+)*)")
_GOES_ON = re.compile(r" *[^\s.]")
_MODAL = frozenset(("should", "must", "can", "will", "does", "has", "would", "cannot"))
_VERBAL = frozenset("iIvynjos&kbcdqpg")  # what may follow the label A; behind an article stands something else


class Mention(NamedTuple):
    """A choice in a text, as offsets. `form`: "strong" (in brackets or bold) or "bare" for its letter, "text" for its
    own words, "clause" for those with a verb."""

    start: int
    stop: int
    letter: str
    form: str


@dataclass
class Signs:
    """The signs of a text and where each stands in it."""

    symbols: str = ""
    starts: list[int] = field(default_factory=list)
    stops: list[int] = field(default_factory=list)
    mentions: dict[int, Mention] = field(default_factory=dict)  # by the index of its sign
    firsts: list[int] = field(default_factory=lambda: [0])  # index of the first sign of each line, list marks aside

    def line(self, index: int) -> int:
        """The number of the line that a sign stands on; empty lines are not counted."""
        return bisect_right(self.firsts, index)

    def opens(self, index: int) -> bool:
        """Whether a line begins with a sign."""
        return self.firsts[self.line(index) - 1] == index


def lex(text: str, lowered: str, letters: str = "", texts: Sequence[Mention] = (), noun: str = "") -> Signs:
    """The signs of a text. `lowered` is `markup.plain(text)`; `texts` are mentions in it, in order, without overlaps.

    `noun`: what the choices are called, as "point" where they are "Point A" to "Point D".
    """
    lexer = _Lexer(text, lowered, letters, noun)
    lexer.run([*texts, Mention(len(lowered) + 1, 0, "", "")])
    lexer.signs.symbols = _PEOPLE.sub(_conceded, _ARTICLE.sub("f", "".join(lexer.symbols)))
    return lexer.signs


def _conceded(match: re.Match[str]) -> str:
    """The signs of people: what they choose is conceded, and without a choice they are any other word."""
    return f"{match[1] or ''}{'g' if match[1] or match[2] else 'x'}{match[2] or ''}"


class _Lexer:
    def __init__(self, text: str, lowered: str, letters: str, noun: str) -> None:
        self.text = text
        self.lowered = lowered
        self.letters = letters
        self.noun = noun
        self.symbols: list[str] = []
        self.signs = Signs()

    def run(self, texts: Sequence[Mention]) -> None:
        """One pass over the tokens. `skip`: where the last phrase or mention ended."""
        following = iter(texts)
        mention = next(following)
        skip = _LIST_MARK.match(self.lowered).end()
        for match in _TOKEN.finditer(self.lowered):
            start, stop = match.span()
            while start >= mention.start:
                self._mention(mention)
                skip = mention.stop
                mention = next(following)
            if start < skip:
                continue
            kind = match.lastindex
            if kind == _WORD:
                skip = self._word(match[1], start, stop)
            elif kind == _NUMBER:
                self._add("x", start, stop)
            elif kind == _OTHER:
                skip = self._other(match[7], start, stop)
            elif kind == _BRACKETED:
                self._bracketed(start, stop)
            elif kind == _LINE:
                self._newline(start, stop)
            else:
                self._add(":" if kind == _ARROW else ".", start, stop)

    def _add(self, symbol: str, start: int, stop: int) -> int:
        self.symbols.append(symbol)
        self.signs.starts.append(start)
        self.signs.stops.append(stop)
        return stop

    def _mention(self, mention: Mention) -> int:
        self.signs.mentions[len(self.symbols)] = mention
        return self._add("m", mention.start, mention.stop)

    def _word(self, word: str, start: int, stop: int) -> int:
        """Adds the sign of a word, or of the phrase that begins with it; where to go on."""
        if len(word) == 1 and (letter := self._label(start, stop)):
            return self._mention(letter)
        entry = PHRASES.get(word)
        if entry and (end := self._phrase(entry, start, stop)):
            return end
        if "'" in word:
            if elided := _ELIDED.match(word):  # l'option
                rest = start + elided.end()
                end = self._phrase(PHRASES[elided[0]], start, rest)
                return end if end > rest else self._word(word[elided.end() :], rest, stop)
            if word.endswith("n't"):
                return self._add("n", start, stop)
            if word.endswith("'s") and PHRASES.get(word[:-2], ("",))[0] in ("N", "O"):  # "the answer's C"
                return self._add("i", self._word(word[:-2], start, stop - 2), stop)
        return self._add("O" if word == self.noun else "x", start, stop)

    def _phrase(self, entry: Entry, start: int, stop: int) -> int:
        """Adds the longest known phrase at `start` and returns where it ends; 0 when there is none."""
        for phrase, symbol, spaced in entry.longer:
            if self.lowered.startswith(phrase, start):
                end = start + len(phrase)
                if not (spaced and _is_letter(self.lowered[end : end + 1])):
                    return self._add(symbol, start, end)
        return self._add(entry.symbol, start, stop) if entry.symbol else 0

    def _other(self, character: str, start: int, stop: int) -> int:
        entry = PHRASES.get(character)
        if entry and (end := self._phrase(entry, start, stop)):
            return end
        symbol = _PUNCTUATION.get(character, "")
        last = len(self.symbols) - 1
        if character == ".":
            behind = self.lowered[stop : stop + 1]
            label = self.signs.mentions.get(last)
            if label and label.form in ("strong", "bare") and self.signs.firsts[-1] == last and self._goes_on(stop):
                symbol = ")"
            elif label or not behind.isalnum() or ord(behind) > 0x2E80:
                symbol = "."
        elif not symbol and character.isalnum():
            if last >= 0 and self.symbols[last] == "x" and self.signs.stops[last] == start:
                self.signs.stops[last] = stop  # a run of characters without spaces is one unknown word
            else:
                symbol = "x"
        return self._add(symbol, start, stop) if symbol else stop

    def _goes_on(self, at: int) -> bool:
        """Whether a word follows on the same line."""
        return _GOES_ON.match(self.lowered, at) is not None

    def _bracketed(self, start: int, stop: int) -> None:
        letter = self.lowered[start + 1 : stop - 1].strip().upper()
        capital = letter in self.text[start:stop]
        if letter in self.letters and (capital or not self.lowered[start - 1 : start].isalnum()):
            self._mention(Mention(start, stop, letter, "strong"))

    def _newline(self, start: int, stop: int) -> None:
        """A line that ends with a colon, or that is a heading such as "Final answer", announces the next one."""
        first = self.signs.firsts[-1]
        if _HEADING.fullmatch("".join(self.symbols[first : first + 6])):
            self._add(":", start, stop)
        elif self.symbols and self.symbols[-1] not in ":\n":
            self._add("\n", start, stop)
        if self.signs.firsts[-1] != len(self.symbols):
            self.signs.firsts.append(len(self.symbols))

    def _label(self, start: int, stop: int) -> Mention | None:
        """The label that a single letter is; None for an article, a unit or a part of a name."""
        written = self.text[start].translate(_CYRILLIC)
        letter = written.upper()
        if letter not in self.letters or not letter.isascii():
            return None
        if _NO_LETTER_BEFORE.search(self.text, max(start - 2, 0), start) or _NO_LETTER_BEHIND.match(self.text, stop):
            return None
        opens = self.signs.firsts[-1] == len(self.symbols)
        previous = self.symbols[-1] if self.symbols else "\n"
        bracket = self.lowered[stop : stop + 2].lstrip(" ")[:1] == ")"
        if bracket and (opens or ((written == letter or previous in ":iO") and not self._in_brackets(start))):
            return Mention(start, self.lowered.index(")", stop) + 1, letter, "strong")
        alone = _ALONE_BEHIND.match(self.lowered, stop) is not None
        if written != letter:  # a lower-case letter is a label only where one is due
            due = previous in (":", "i", "h", "N", "R", "O") or opens
            if letter == "A" and not {"N", "R", "O", "h"}.intersection(self.symbols[-4:]):
                due = False  # an article
            named = previous == "O" and written != "a"
            return Mention(start, stop, letter, "bare") if (due and alone) or named else None
        latin = self.text[start].isascii()  # В, С, А and К are Russian words
        if not alone and previous != "O" and (not latin or (letter in _LIKE_WORDS and self._is_article(stop, letter))):
            return None
        bold = self.text[start - 1 : start] in ("*", "`") and self.text[stop : stop + 1] in ("*", "`", ".", ":", ")")
        return Mention(start, stop, letter, "strong" if bold else "bare")

    def _in_brackets(self, at: int) -> bool:
        """Whether a bracket that was opened shortly before is still open: "(point D)"."""
        start = max(at - 40, 0)
        return self.lowered.rfind("(", start, at) > self.lowered.rfind(")", start, at)

    def _is_article(self, stop: int, letter: str) -> bool:
        """Whether the word that follows makes the letter an article or pronoun: "A car", but not "A is" or "A or B"."""
        match = _READS_ON.match(self.lowered, stop)
        if match is None:
            return False
        word = match[1]
        own, longer = PHRASES.get(word, ("x", ()))
        symbol = next((sign for phrase, sign, _ in longer if self.lowered.startswith(phrase, match.start(1))), own)
        if len(word) == 1:
            return word.upper() not in self.letters and symbol not in ("o", "&", "i")
        return letter == "I" or not (symbol in _VERBAL or word in _MODAL or word.endswith("n't"))


def _is_letter(character: str) -> bool:
    return bool(character) and _LETTER.match(character) is not None


_LETTER = re.compile(LETTER)
