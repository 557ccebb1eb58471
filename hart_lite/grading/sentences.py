"""Where a sentence ends; the dot of an abbreviation or of an initial ends none."""

from __future__ import annotations

import re

from hart_lite.grading.vocabulary import ABBREVIATIONS

_STOP = re.compile(r"[.!?](?=\s+[\"'“«(]?[^\W\d_a-z]|\s*$)|[。！？](?=.)|\n")
_WORD_BEFORE = re.compile(r"[^\s(\"'“«]{1,12}$")


def sentence_end(text: str, start: int = 0) -> int:
    """Where the sentence that begins at `start` ends, without its final punctuation; else the length of the text."""
    for match in _STOP.finditer(text, start):
        word = _WORD_BEFORE.search(text[max(match.start() - 13, 0) : match.start()])
        if match[0] == "." and word and _is_short_form(word[0], match.end() < len(text.rstrip())):
            continue
        return match.start()
    return len(text)


def _is_short_form(word: str, goes_on: bool) -> bool:
    """An abbreviation ("St"), an initial ("J") or letters with dots ("U.S", "D.C")."""
    initial = len(word) == 1 and word.isalpha() and word.isupper()
    dotted = len(word) > 2 and word[-2] == "." and word[-1].isalpha()
    return goes_on and (initial or dotted or word.lower() in ABBREVIATIONS)
