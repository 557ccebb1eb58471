"""The words of `vocabulary.toml`, ready for the lexer: which sign each phrase is."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

# The signs that a text is turned into, one character each; `claims` holds the grammar over them.
SIGNS = {
    "answer": "N",  # names the answer: "answer", "solution"
    "right_answer": "R",  # names it, or says of what stands before that it is right: 正解, 정답
    "option": "O",  # "option"
    "options": "L",  # several of them: the heading of a list
    "is": "i",  # "is", "must be"
    "are": "I",
    "would": "v",
    "maybe": "y",
    "choose": "h",
    "so": "s",
    "right": "r",
    "yes": "Y",
    "matches": "k",
    "wrong": "w",
    "not": "n",  # denies what follows, or what stands before
    "unable": "u",  # "cannot determine": what follows in the sentence is no answer
    "denied": "d",  # denies what stands before
    "no": "z",
    "instead": "c",  # what follows is the lesser choice: "rather than"
    "but": "b",
    "concede": "g",  # a clause that is not the point: "although", "whereas"
    "or": "o",
    "and": "&",
    "if": "q",
    "think": "t",
    "says": "V",
    "because": "j",
    "wait": "X",  # what follows replaces what stood before
    "undo": "U",  # takes back what stood before
    "only": "l",
    "near": "p",  # prepositions
    "except": "e",
    "asks": "?",
    "others": "P",  # people who are not the one who answers
    "declines": "D",  # "I'd rather not": no answer, or not the one that follows
    "filler": "f",
}
LETTER = r"[^\W\d_\u1100-\u11ff\u2e80-\ud7ff\uf900-\ufaff]"  # of scripts that put spaces between words
ELIDED = r"(?:[cdjlmnst]|qu)'(?=[a-z\u00e0-\u00ff]{2}|$)"  # a word before another one: c'est, l'option
_WORD = re.compile(rf"{ELIDED}|{LETTER}+(?:'{LETTER}+)*")


class Entry(NamedTuple):
    """What begins with a word, or with a character of a script without spaces."""

    symbol: str  # its own, "" when it is a phrase only together with others
    longer: tuple[tuple[str, str, bool], ...]  # phrases, the longest first: text, sign, whether no letter may follow


def _read() -> Mapping[str, Mapping[str, tuple[str, ...]]]:
    with (Path(__file__).parent / "vocabulary.toml").open("rb") as file:
        sections = tomllib.load(file)
    return {name: {kind: tuple(text.split(", ")) for kind, text in kinds.items()} for name, kinds in sections.items()}


def _entries(languages: Mapping[str, Mapping[str, tuple[str, ...]]]) -> dict[str, Entry]:
    signs = {
        phrase: SIGNS[kind] for kinds in languages.values() for kind, phrases in kinds.items() for phrase in phrases
    }
    by_key: dict[str, list[tuple[str, str, bool]]] = {}
    for phrase in sorted(signs, key=len, reverse=True):
        word = _WORD.match(phrase)
        spaced = re.fullmatch(LETTER, phrase[-1]) is not None
        by_key.setdefault(word[0] if word else phrase[0], []).append((phrase, signs[phrase], spaced))
    return {
        key: Entry(signs.get(key, ""), tuple(phrase for phrase in found if phrase[0] != key))
        for key, found in by_key.items()
    }


_SECTIONS = dict(_read())
ABBREVIATIONS = frozenset(_SECTIONS.pop("abbreviations")["words"])
UNSURE = _SECTIONS.pop("unsure")["phrases"]
ARTICLES = _SECTIONS.pop("articles")["words"]
NUMBERS = {word: digits for digits, words in _SECTIONS.pop("numbers").items() for word in words}
YES, NO = (frozenset(words) for words in _SECTIONS.pop("answers").values())
PHRASES = _entries(_SECTIONS)
