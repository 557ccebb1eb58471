"""A text becomes a row of signs, one character for each word that the grammar knows: see `vocabulary.SIGNS`.

Beside those: `m` a mention of a choice, `x` any other word, `.` the end of a sentence, `?` that of a question, a newline
that ends a line, `;`, `,`, `:` (also = and arrows), `-`, `(`, and `)` for the dot
of a label ("C. It .."). Quotes and Markdown are no signs.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from hart_lite.grading.vocabulary import ELIDED, LETTER, PHRASES

_TOKEN = re.compile(
    rf"""\ *(?:
    (?P<bracketed>[(\[【〔「『《<〈]\ ?([a-z])\ ?[)\]】〕」』》>〉])
    |(?P<labelled>(?<!\w)([a-z])\ ?\)(?!\w))
    |(?P<elided>{ELIDED})
    |(?P<word>{LETTER}+(?:'{LETTER}+)*)
    |(?P<number>\d+(?:[.,:]\d+)*)
    |(?P<line>\n[\ \n]*(?:(?:[-•>+–—|]|\d{{1,2}}[.)])\ +)?)
    |(?P<arrow>[-=]+>)
    |(?P<dots>\.{{2,}})
    |(?P<other>.)
    )""",
    re.VERBOSE | re.DOTALL,
)
_LIST_MARK = re.compile(r"[ \n]*(?:(?:[-•>+–—|]|\d{1,2}[.)]) +)?")
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
_CYRILLIC = str.maketrans("АВСЕКМНОРТХ", "ABCEKMHOPTX")  # letters that look like Latin ones
_LIKE_WORDS = frozenset("AEIOUY")  # articles, prepositions and pronouns of one letter
_NO_LETTER_BEHIND = re.compile(r"['’+#°@\d]|-[A-Za-z\d]|\.[A-Za-z](?![A-Za-z])|\s?%")
_ALONE_BEHIND = re.compile(r" *(?:[.,;:!?()\]\n、。，]|$|[^\x00-\u052f])")
_CONTINUES = re.compile(rf" +['\"(]?{LETTER}")


@dataclass(frozen=True, slots=True)
class Sign:
    """One word of a text, as offsets into it."""

    symbol: str
    start: int
    stop: int
    line: int  # its number in the text
    opens: bool  # whether it is the first of its line, list marks aside
    letter: str = ""  # of a mention
    form: str = ""  # of a mention: "strong" (in brackets, bold), "bare", "text" or "clause" (a choice's own words)


@dataclass(frozen=True, slots=True)
class TextMention:
    """A choice's own words in a text."""

    start: int
    stop: int
    letter: str
    form: str  # "text", or "clause" for one with a verb


def lex(
    text: str, lowered: str, letters: str = "", texts: Sequence[TextMention] = (), noun: str = ""
) -> list[Sign]:
    """The signs of a text. `lowered` is `markup.plain(text)`; `texts` are mentions in it, in order, without overlaps.

    `noun`: what the choices are called, as "point" where they are "Point A" to "Point D".
    """
    return _Lexer(text, lowered, letters, noun).run(texts)


class _Lexer:
    def __init__(self, text: str, lowered: str, letters: str, noun: str) -> None:
        self.text = text
        self.lowered = lowered
        self.letters = letters
        self.noun = noun
        self.signs: list[Sign] = []
        self.line = 0
        self.line_first = 0  # index of the first sign of the line
        self.opens = True

    def run(self, texts: Sequence[TextMention]) -> list[Sign]:
        at = _LIST_MARK.match(self.lowered).end()
        for mention in texts:
            self._between(at, mention.start)
            at = max(at, mention.start)
            self._add("m", at, mention.stop, mention.letter, mention.form)
            at = mention.stop
        self._between(at, len(self.lowered))
        return self.signs

    def _add(self, symbol: str, start: int, stop: int, letter: str = "", form: str = "") -> None:
        if symbol == "x" and self.signs and self.signs[-1].symbol == "x" and start == self.signs[-1].stop:
            start = self.signs.pop().start  # a run of characters without spaces is one unknown word
        self.signs.append(Sign(symbol, start, stop, self.line, self.opens, letter, form))
        self.opens = False

    def _between(self, at: int, end: int) -> None:
        lowered, match_at = self.lowered, _TOKEN.match
        while at < end:
            match = match_at(lowered, at, end)
            if match is None:  # spaces at the end
                return
            at = self._token(match, end)

    def _token(self, match: re.Match[str], end: int) -> int:
        """Adds what was matched; where to go on."""
        kind = match.lastgroup or ""
        start, stop = match.span(kind)
        if kind == "word":
            return self._word(match[kind], start, stop, end)
        if kind in ("bracketed", "labelled"):
            letter = (match[2] or match[4]).upper()
            capital = letter in self.text[start:stop]
            before = self.lowered[max(start - 1, 0) : start]
            if kind == "labelled":
                due = self.opens or (capital or self.signs[-1].symbol in ":iO") and not self._in_brackets(start)
            else:
                due = capital or not before.isalnum()
            if kind == "labelled" and not due:
                return self._word(letter.lower(), start, start + 1, end)
            if letter in self.letters and due:
                self._add("m", start, stop, letter, "strong")
            return stop
        if kind == "elided":
            return self._phrase(match[kind], start, end) or stop
        if kind == "line":
            self._newline(start, stop)
        elif kind == "number":
            self._add("x", start, stop)
        elif kind == "arrow":
            self._add(":", start, stop)
        elif kind == "dots":
            self._add(".", start, stop)
        else:
            return self._other(match[kind], start, stop, end)
        return stop

    def _in_brackets(self, at: int) -> bool:
        """Whether a bracket that was opened shortly before is still open: "(point D)"."""
        start = max(at - 40, 0)
        return self.lowered.rfind("(", start, at) > self.lowered.rfind(")", start, at)

    def _word(self, word: str, start: int, stop: int, end: int) -> int:
        if len(word) == 1 and (letter := self._bare(start, stop)):
            self._add("m", start, stop, letter, "strong" if self._bold(start, stop) else "bare")
            return stop
        if word == self.noun:
            self._add("O", start, stop)
            return stop
        if at := self._phrase(word, start, end):
            return at
        if word.endswith("n't"):
            self._add("n", start, stop)
            return stop
        return self._unknown(start, stop)

    def _phrase(self, key: str, start: int, end: int) -> int:
        """Adds the longest known phrase at `start` and returns where it ends; 0 when there is none."""
        for phrase, symbol, spaced in PHRASES.get(key, ()):
            stop = start + len(phrase)
            if (
                stop <= end
                and self.lowered.startswith(phrase, start)
                and not (spaced and re.match(LETTER, self.lowered[stop : stop + 1]))
            ):
                self._add(symbol, start, stop)
                return stop
        return 0

    def _unknown(self, start: int, stop: int) -> int:
        self._add("x", start, stop)
        return stop

    def _other(self, character: str, start: int, stop: int, end: int) -> int:
        if at := self._phrase(character, start, end):
            return at
        symbol = _PUNCTUATION.get(character)
        if symbol:
            self._add(symbol, start, stop)
        elif character == ".":
            last = self.signs[-1] if self.signs else None
            behind = self.lowered[stop : stop + 1]
            if last and last.symbol == "m" and last.opens and last.form in ("strong", "bare") and self._goes_on(stop, end):
                self._add(")", start, stop)
            elif not behind.isalnum() or ord(behind) > 0x2E80 or (last and last.symbol == "m"):
                self._add(".", start, stop)
        elif character.isalnum():
            self._add("x", start, stop)
        return stop

    def _goes_on(self, at: int, end: int) -> bool:
        """Whether a word follows on the same line."""
        return re.match(r" *[^\s.]", self.lowered[at : min(at + 40, end)]) is not None

    def _newline(self, start: int, stop: int) -> None:
        """A line that ends with a colon, or that is a heading such as "Final answer", announces the next one."""
        self.line += self.lowered.count("\n", start, stop)
        here = self.signs[self.line_first : self.line_first + 6]
        if _HEADING.fullmatch("".join(sign.symbol for sign in here)):
            self._add(":", start, stop)
        elif self.signs and self.signs[-1].symbol not in ":\n":
            self._add("\n", start, stop)
        self.line_first = len(self.signs)
        self.opens = True

    def _bold(self, start: int, stop: int) -> bool:
        return self.text[start - 1 : start] in ("*", "`") and self.text[stop : stop + 1] in ("*", "`", ".", ":", ")")

    def _bare(self, start: int, stop: int) -> str:
        """The label that a single letter is, or "" for an article, a unit or a part of a name."""
        written = self.text[start].translate(_CYRILLIC)
        letter = written.upper()
        if letter not in self.letters or not letter.isascii():
            return ""
        before = self.text[max(start - 2, 0) : start].replace("_{", "_")
        if before[-1:] in tuple("'\u2019°#@_∠△⊙∆√\\") or (before[-1:] in ("-", ".") and before[:1].isalnum()):
            return ""
        if _NO_LETTER_BEHIND.match(self.text, stop):
            return ""
        previous = self.signs[-1].symbol if self.signs else "\n"
        alone = _ALONE_BEHIND.match(self.lowered, stop) is not None
        if written != letter:  # a lower-case letter is a label only where one is due
            due = previous in (":", "i", "h", "N", "R", "O") or (self.opens and letter != "A")
            return letter if (due and alone) or (previous == "O" and written != "a") else ""
        if letter in _LIKE_WORDS and not alone and self._reads_on(stop, letter):
            return ""
        return letter

    def _reads_on(self, stop: int, letter: str) -> bool:
        """Whether a word follows that makes the letter an article or pronoun: "A car", but not "A is" or "A or B"."""
        if _CONTINUES.match(self.lowered, stop) is None:
            return False
        match = _TOKEN.match(self.lowered, stop)
        key = match["word"] if match and match.lastgroup == "word" else ""
        if len(key) == 1:
            return key.upper() not in self.letters and self._symbol(key, match) not in ("o", "&")
        symbol = self._symbol(key, match) if key else "x"
        if letter == "I":
            return True
        return symbol not in tuple("iIvynjos&kbcdqpg")

    def _symbol(self, key: str, match: re.Match[str] | None) -> str:
        start = match.start(match.lastgroup) if match and match.lastgroup else 0
        for phrase, symbol, _ in PHRASES.get(key, ()):
            if self.lowered.startswith(phrase, start):
                return symbol
        return "n" if key.endswith("n't") else "x"
