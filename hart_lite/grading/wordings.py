"""Where the choices' own words stand in a text."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

from hart_lite.grading.choices import letters_of, noun_of, unlabelled
from hart_lite.grading.lexer import Mention
from hart_lite.grading.markup import compatible, plain
from hart_lite.grading.vocabulary import ARTICLES, LETTER, NO, NUMBERS, YES

_ARTICLE = re.compile(rf"(?:{'|'.join(ARTICLES)}) (?!(?:is|are|was|and|or|has) )(?=\S{{2}})|l'(?=\S)")
_VERB = re.compile(r"\w (?:is|are|was|were|says|has|have) \w")
_GOES_ON = re.compile(rf"{LETTER}|\d")
_DIGITS_BEFORE = re.compile(r"\d[.,/:-]$")
_DIGITS_BEHIND = re.compile(r"[.,/:-]\d|%")
_TERM_BEHIND = re.compile(  # a number in a formula is no answer
    r"(?: ?[-+*^×÷=] ?|/)(?:[\d\\√]|\(\d)|(?: ?[+*^×÷=] ?|[-/])[a-z]\b(?! ?[.):、-])"
)
_SPACED_NUMBERS = [word for word in NUMBERS if re.match(LETTER, word)]  # of scripts that put spaces between words
_NUMBER = re.compile(rf"\d+(?:[.,]\d+)*|(?<!{LETTER})(?:{'|'.join(_SPACED_NUMBERS)})(?!{LETTER})")
_ENDS = re.compile(r"[\s.$]*\Z")  # the result of a formula may be one: "5 / 2 = 2.5"
_TERM_BEFORE = re.compile(
    r"(?:[\d\\√](?: ?[-+*^×÷] ?|/)|\)[-+*^×÷/]|[a-z](?: ?[+*^×÷] ?|[-/])|(?:[\d)]|\b[a-z]{1,2}) ?= ?)$"
)
# As words of a sentence these say nothing of a choice; at its beginning, or where an answer is due, they do.
_JUDGES = frozenset(("right", "correct", "wrong"))  # "A is right"
_COMMON = YES | NO | _JUDGES | {"true", "false", "none", "both", "neither"}
_JUDGED = re.compile(r"(?:^|[\s(])[a-z]\)?\s(?:is|looks|seems)(?: the)?$")
_LABEL_BEFORE = re.compile(r"(?<![a-z\d'])[a-z] ?[)\].:、,-]*$")
_IDIOM = re.compile(r" (?:idea|clue|doubt|problem|way|answer|comment|sé|lo sé)\b")  # "no idea"
_ANOTHER = re.compile(r" +(?:or|and|o|y|oder|und|ou|et|e|или|и) | +(?:yes|no|true|false)\b")
_LED_BY = (" is", " are", "是", " es", " ist", " est", " é", " say", " so", " and", " or")
_LED = (*"\n.:;!?-=。),、]】|*/", *_LED_BY, *_COMMON)


@lru_cache(maxsize=4096)
def _wordings(choices: tuple[str, ...]) -> tuple[tuple[str, str, str], ...]:
    """(words to look for in a plain text, letter, form of the mention), without the words of two choices."""
    found: dict[str, str] = {}
    if noun_of(choices):
        return ()
    for letter, choice in zip(letters_of(choices), unlabelled(choices), strict=True):
        words = " ".join(plain(compatible(choice)).split()).strip(" .,:;!?。")
        words = words[match.end() :] if (match := _ARTICLE.match(words)) else words
        for wording in (words, *_spelled(words)):
            if wording and not (len(wording) == 1 and wording.upper() in letters_of(choices)):
                found[wording] = letter if found.get(wording, letter) == letter else ""
    return tuple(
        (words, letter, "clause" if _VERB.search(words) else "text") for words, letter in found.items() if letter
    )


def _spelled(number: str) -> list[str]:
    """The words of a number, or the digits of a word; no words of scripts without spaces, which stand in others."""
    if digits := NUMBERS.get(number):
        return [digits]
    return [word for word in _SPACED_NUMBERS if NUMBERS[word] == number]


def numbers_in(lowered: str) -> set[str]:
    """The numbers of a plain text, as digits."""
    return {NUMBERS.get(match[0], match[0]) for match in _NUMBER.finditer(lowered)}


def is_number(words: str) -> bool:
    return words in NUMBERS or words.isdigit()


def hinted(lowered: str, choices: Sequence[str]) -> frozenset[str]:
    """The letters of choices of one word that stand in a plain text in another form: "Italien" as "Italiens"."""
    words = [(word, word[: max(4, len(word) - 2)], letter) for word, letter, _ in _wordings(tuple(choices))]
    return frozenset(
        letter
        for word, stem, letter in words
        if word.isalpha() and len(word) > 3
        if re.search(rf"(?<!{LETTER}){stem}(?!{word[len(stem) :]}(?!{LETTER}))", lowered)
    )


def text_mentions(lowered: str, choices: Sequence[str]) -> list[Mention]:
    """The choices' own words in a plain text (`markup.plain`): in order, the longest where they overlap."""
    found = []
    for words, letter, form in _wordings(tuple(choices)):
        at = lowered.find(words)
        while at >= 0:
            stop = at + len(words)
            if _bounded(lowered, at, stop) and (words not in _COMMON or _answers(lowered, at, stop)):
                found.append((at, -stop, letter, form))
            at = lowered.find(words, stop)
    mentions: list[Mention] = []
    for start, stop, letter, form in sorted(found):
        if not mentions or start >= mentions[-1].stop:
            mentions.append(Mention(start, -stop, letter, form))
    return mentions


def _bounded(text: str, start: int, stop: int) -> bool:
    """Whether no word, number or formula goes on at either end; scripts without spaces have no such bounds."""
    first, last = text[start], text[stop - 1]
    if _GOES_ON.match(first) and start and _GOES_ON.match(text[start - 1]):
        return False
    if _GOES_ON.match(last) and _GOES_ON.match(text, stop):
        return False
    if first.isdigit() and _DIGITS_BEFORE.search(text, max(start - 2, 0), start):
        return False
    if not last.isdigit():
        return True
    in_formula = _TERM_BEHIND.match(text, stop) or _TERM_BEFORE.search(text, max(start - 4, 0), start)
    if in_formula and text[max(start - 2, 0) : start].endswith(("=", "= ")) and _ENDS.match(text, stop):
        return True
    return not in_formula and _DIGITS_BEHIND.match(text, stop) is None


def _answers(text: str, start: int, stop: int) -> bool:
    """Whether a common word is an answer: "No, .." and ".., no." are, "no car" and "A is right" are not."""
    before = text[max(start - 20, 0) : start].rstrip(" ([")
    if text[start:stop] in _JUDGES:
        return _JUDGED.search(before) is None
    if _IDIOM.match(text, stop):
        return False
    if (start < 20 and not before.strip("-* \n")) or _LABEL_BEFORE.search(before):
        return True
    ends = not text[stop : stop + 3].lstrip(" )")[:1].isalnum() or _ANOTHER.match(text, stop) is not None
    return ends and before.endswith(_LED)
