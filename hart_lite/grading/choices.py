"""The choices of a question: their labels, how prompts show them, and which one a short text names."""

from __future__ import annotations

import re
import string
import unicodedata
from collections.abc import Sequence
from functools import lru_cache

from hart_lite.grading.lexer import Mention
from hart_lite.grading.markup import plain
from hart_lite.grading.normalise import NUMBER_WORDS, normalise
from hart_lite.types import HartError

# At the ends of an answer; not "#" or "+": C# is no C. The last two have no width.
_EDGES = string.whitespace + "()[]{}<>.,:;!\"'`*_$\\。、「」【】《》\u200b\ufeff"
_NAMED = re.compile(r"([^\W\d_]{2,}) ([A-Z])")
_OPTION = re.compile(r"(?:option|choice|letter)\s+\(?([A-Za-z])", re.IGNORECASE)
_LABEL = re.compile(r"\s*(?:\(\s?([A-Za-z])\s?\)|([A-Za-z])\s?[.):、,])\s*(?=\S)")
_LABELLED = re.compile(  # a label and what may be the text of its choice
    r"(?:(?:option|choice)\s{1,3}\(?)?([A-Z])(?:[\s).:,、\u2013\u2014-]{1,4})(\S.*)", re.IGNORECASE | re.DOTALL
)
_LEADING_ARTICLE = re.compile(
    r"(?:the|an?|el|la|los|las|una?|unos|unas|der|die|das|ein|eine|einen|le|les|une|des|o|os|as|um|uma) (?!(?:is|are|was|and|or|has) )(?=\S{2})|l'(?=\S)"
)
_JOINED = re.compile(r"[^\W\d_]|\d")
_TERM_BEHIND = re.compile(r" ?[-+*/^×÷=] ?(?:[\d\\√]|\(\d|[a-z]\b(?![.)]))")  # a number in a formula is no answer
_TERM_BEFORE = re.compile(r"[\d\\)√a-z] ?[-+*/^×÷] ?$|(?:[\d)]|\b[a-z]{1,2}) ?= ?$")
_VERB = re.compile(r"\w (?:is|are|was|were|says|has|have) \w")
_UNSPACED = re.compile("[\u1100-\u11ff\u2e80-\ud7ff\uf900-\ufaff]")
_CUES = frozenset(("right", "correct", "wrong"))  # choices that also judge one
_LABEL_BEFORE = re.compile(r"(?<![^\s(\[（])[a-z] ?[)\].:、,-]*$")
_LEADS = (" is", "是", " es", " ist", " est", " é", " say", " and", " or", "/")
_JUDGED = re.compile(r"(?:^|[\s(])[a-z]\)?\s(?:is|looks|seems)(?: the)?$")
# As words of a sentence these say nothing of a choice; at its beginning, or where an answer is due, they do.
_COMMON = frozenset("yes no true false none both neither sí oui non ja nein sim não да нет 是 否 はい いいえ 네 아니요".split()) | _CUES


def letters_of(choices: Sequence[str]) -> str:
    """"ABC" for three choices. Raises `HartError` for more than 26."""
    if len(choices) > len(string.ascii_uppercase):
        raise HartError(f"A question has {len(choices)} choices; at most 26 are allowed, one for each letter.")
    return string.ascii_uppercase[: len(choices)]


def choice_lines(choices: Sequence[str]) -> str:
    """The choices as every prompt shows them: a heading, then one `(A) text` line each."""
    lines = [f"({letter}) {choice}" for letter, choice in zip(letters_of(choices), choices, strict=True)]
    return "\n".join(["The choices are listed below:", *lines])


def unlabelled(choices: Sequence[str]) -> tuple[str, ...]:
    """The choices without labels such as "(A)", "A.", "A)" and "（A）", where all bear them in order."""
    found = [_LABEL.match(unicodedata.normalize("NFKC", choice)) for choice in choices]
    labels = "".join((match[1] or match[2]).upper() for match in found if match)
    if not choices or labels != letters_of(choices):
        return tuple(choices)
    return tuple(unicodedata.normalize("NFKC", c)[m.end() :].strip() for c, m in zip(choices, found, strict=True))


def exact(text: str, choices: Sequence[str]) -> str | None:
    """Letter of a text that is nothing but a letter or one choice; the letter wins where choices are letters."""
    text, letters = text.strip(), letters_of(choices)
    if _too_long(text, choices):
        return None
    core = text.strip(_EDGES)
    if option := _OPTION.fullmatch(core):
        core = option[1]
    if len(core) == 1 and core.upper() in letters:
        return core.upper()
    same = [i for i, choice in enumerate(choices) if choice.strip() == text]
    if len(same) != 1:
        wanted = normalise(text)
        same = [i for i, choice in enumerate(_normal(tuple(choices))) if wanted and wanted in choice]
    return letters[same[0]] if len(same) == 1 else None


def labelled(text: str, choices: Sequence[str]) -> str | None:
    """Letter of a text that is a label and the text of that choice, such as "b) blue" or "Option B: blue"."""
    text = text.strip()
    if _too_long(text, choices):
        return None
    match = _LABELLED.fullmatch(text.strip(_EDGES))
    if match is None or (letter := match[1].upper()) not in letters_of(choices):
        return None
    own = _normal(tuple(choices))[ord(letter) - ord("A")]
    return letter if normalise(match[2]) in own or normalise(match[2].strip(_EDGES)) in own else None


def _too_long(text: str, choices: Sequence[str]) -> bool:
    """Whether a text cannot be one choice, however it is written."""
    return len(text) > 200 and len(text) > 100 + 3 * max(map(len, choices), default=0)


@lru_cache(maxsize=4096)
def noun_of(choices: tuple[str, ...]) -> str:
    """"point" for the choices "Point A", "Point B", ..: what they are called. "" where they are no such names."""
    found = [_NAMED.fullmatch(choice.strip()) for choice in unlabelled(choices)]
    names = {match[1].lower() for match in found if match}
    labels = "".join(match[2] for match in found if match)
    return names.pop() if len(names) == 1 and labels == letters_of(choices) else ""


@lru_cache(maxsize=4096)
def _normal(choices: tuple[str, ...]) -> tuple[tuple[str, ...], ...]:
    """For each choice its forms in `normalise`, with and without its label."""
    return tuple(tuple({normalise(a), normalise(b)}) for a, b in zip(choices, unlabelled(choices), strict=True))


@lru_cache(maxsize=4096)
def _wordings(choices: tuple[str, ...]) -> tuple[tuple[str, str, bool, str], ...]:
    """(words to look for in a plain text, letter, whether they are common ones, form), without those of two choices."""
    found: dict[str, str | None] = {}
    if noun_of(choices):
        return ()
    for letter, choice in zip(letters_of(choices), unlabelled(choices), strict=True):
        words = " ".join(plain(unicodedata.normalize("NFKC", choice)).split()).strip(" .,:;!?。")
        words = _LEADING_ARTICLE.sub("", words, count=1) if _LEADING_ARTICLE.match(words) else words
        numbers = [word for word, number in NUMBER_WORDS.items() if number == words and int(number) > 1]
        for wording in (words, *numbers):
            if wording and not (len(wording) == 1 and wording.upper() in letters_of(choices)):
                found[wording] = letter if found.get(wording, letter) == letter else None
    return tuple(
        (words, letter, words in _COMMON, "clause" if _VERB.search(words) else "text")
        for words, letter in found.items()
        if letter
    )


def text_mentions(lowered: str, choices: Sequence[str]) -> list[Mention]:
    """Where the choices' own words stand in a plain text (`markup.plain`): in order, the longest where they overlap."""
    found = []
    for words, letter, common, form in _wordings(tuple(choices)):
        at = lowered.find(words)
        while at >= 0:
            stop = at + len(words)
            if _bounded(lowered, at, stop) and (not common or _is_answer(lowered, at, stop)):
                found.append((at, -stop, letter, form))
            at = lowered.find(words, stop)
    mentions: list[Mention] = []
    for start, stop, letter, form in sorted(found):
        if not mentions or start >= mentions[-1].stop:
            mentions.append(Mention(start, -stop, letter, form))
    return mentions


def _is_answer(text: str, start: int, stop: int) -> bool:
    """Whether a common word answers: "No, .." and ".., no." do, "no car" and "A is right" do not."""
    before = text[max(start - 20, 0) : start].rstrip(" ([")
    if text[start:stop] in _CUES:
        return _JUDGED.search(before) is None
    if not before.strip() and start < 20:
        return True
    if _LABEL_BEFORE.search(before):
        return True
    ends = not text[stop : stop + 3].lstrip(" )")[:1].isalnum()
    led = before[-1:] in tuple("\n.:!?-=。),]】|*") or before.endswith(_LEADS)
    return ends and led


def _bounded(text: str, start: int, stop: int) -> bool:
    """Whether no word or number goes on at either end; scripts without spaces have no such bounds."""
    before, behind = text[max(start - 2, 0) : start], text[stop : stop + 2]
    first, last = text[start], text[stop - 1]
    if last.isdigit() and (_TERM_BEHIND.match(text, stop) or _TERM_BEFORE.search(text, max(start - 4, 0), start)):
        return False
    if _JOINED.match(first) and not _UNSPACED.match(first):
        if before and _JOINED.match(before[-1]) and not _UNSPACED.match(before[-1]):
            return False
        if first.isdigit() and len(before) == 2 and before[1] in ".,/:-" and before[0].isdigit():
            return False
    if _JOINED.match(last) and not _UNSPACED.match(last):
        if behind and _JOINED.match(behind[0]) and not _UNSPACED.match(behind[0]):
            return False
        if last.isdigit() and (behind[:1] == "%" or (len(behind) == 2 and behind[0] in ".,/:-" and behind[1].isdigit())):
            return False
    return True
