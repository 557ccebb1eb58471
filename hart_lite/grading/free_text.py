"""Answers in free text: the text that a response gives as its answer, and whether it is the right one."""

from __future__ import annotations

import re
from collections.abc import Iterator

from hart_lite.grading.lexer import Signs, lex
from hart_lite.grading.markup import finals, joined, plain, unwrapped, without_middle
from hart_lite.grading.normalise import NUMBER_WORDS, normalise
from hart_lite.grading.sentences import sentence_end
from hart_lite.grading.vocabulary import LETTER, NO, YES

MOST_CHARACTERS = 2000  # of an answer; a longer text is reasoning, of which only what it announces is read
_REACH = 300  # characters read behind "the answer is"
_ANNOUNCES = re.compile(r"(?:[NR](?:[fOrRlvtsX,]{0,5}|[xpfkrV&,(]{1,10}(?=[i:]))[i:\-]|(?<![^\n.])O:)[i:\-sX,]*")
_DENIED = re.compile(r"[nDzwq][fOrRtihv]{0,6}$")
_ASKED = re.compile(r"[^.?\n]{0,60}\?")
_REASON = re.compile(r"(?<=[^,;]),?;?j")
_CONTRAST = re.compile(r",?(?:(?<=,)[&b]?n|[&b]n|c)[fxOpk]{1,6}\.?$")  # ", not red", "rather than red"
_CORRECTED = re.compile(r"[ny][^.?\n]{1,8},?b(?:f*[iI])?f*")  # "not red but ", "I thought it was red, but it is "
_REMARK = re.compile(r"(\S[^()\n]{0,200}?) ?\(([^()\n]{1,200} [^()\n]{1,200})\)[.!]?")  # "green (on the left)"
_UNDECIDED = frozenset("nDoyqzvwu?")
_INVOLVED = _UNDECIDED | frozenset("ceg&,;:()j")  # signs of a sentence that says more than one thing
_MOST_SIGNS = 30  # of a sentence that may end with its answer
_NAMED = re.compile(r"\s*(?:called|named|labell?ed|titled|marked)\s", re.IGNORECASE)
_JSON = re.compile(r"[\"']((?:[^\"'\\\n]|\\.)*)[\"']\s*[,}\]]|(-?\d[\d.]*)\s*}")
_QUOTED = re.compile(r"[\"“„«「『]([^\"“”„«»「」『』\n]{1,200})[\"”“»」』]|(?<!\w)['‘]([^'‘’\n]{1,200})['’](?!\w)")
_SPACED = "A-Za-z\u00c0-\u024f\u0400-\u04ff\\d_"  # letters of scripts that put spaces between words
_NUMBER = re.compile(  # also a time and an amount of money; not a part of 10^5 or 5'
    rf"(?<![{_SPACED}.,$€£¥₹^/:'-])[$€£¥₹]?[+-]?\d+(?:[.,:/]\d+)*(?: ?[%‰°])?(?![{_SPACED}$€£¥₹^/'\"]|[.,:]\d|-\w)"
)
_DIGITS = re.compile(r"\d+(?:[.,:/]\d+)*")
_NUMBER_WORDS = re.compile(rf"\b(?:{'|'.join(word for word in NUMBER_WORDS if word not in ('zero', 'one'))})\b")
_PLAIN_NUMBER = re.compile(r"[$€£¥₹]?-?\d+(?:[.:/]\d+)*[%‰°]?")
_COUNTED = re.compile(r"\d+ (?!percent|degree)[a-z]{4,20}[.!]?")  # "15 people", but not "A 113" and "5 cm"
_DOUBTED_NUMBER = re.compile(r"\b(?:not|no|or)\b|n't")
_FIRST_WORD = re.compile(r"[^\W_]+")
_BEHIND_YES = re.compile(r"\s*(?:[,;:!，。、—–-]|\.(?!\s?\d))")


def read_text(text: str) -> str | None:
    """The answer of a text without thoughts, as it is written; None when there is none."""
    boxed = finals(text)
    if boxed:
        content = [unwrapped(text[final.start : final.stop]).strip() for final in boxed[-2:]]
        together = len(boxed) > 1 and joined(text[boxed[-2].end : boxed[-1].at])
        return None if together and content[0] != content[1] else content[-1] or None
    announced = _announced(text)
    if announced:
        return announced[: sentence_end(announced)].strip() or None
    return (unwrapped(text) if len(text) <= MOST_CHARACTERS else text).strip() or None


def same(text: str, answer: str) -> bool:
    """Whether the answer of a text without thoughts is `answer`, which is read in the same way."""
    wanted = {normalise(answer), normalise(read_text(answer) or "")} - {""}
    readings = [reading for reading in _readings(text) if len(reading) <= MOST_CHARACTERS + 2 * len(answer)]
    if any(normalise(reading) in wanted for reading in readings):
        return True
    if not readings:
        return False
    claim = _without_contrast(readings[0])
    return any(_same_number(claim, one) or _same_word(readings[0], one) for one in wanted)


def _readings(text: str) -> Iterator[str]:
    """What a text may give as its answer: the boxed one alone, or the announced one with and without what follows."""
    read = read_text(text)
    if read is None:
        return
    yield read
    if finals(text):
        return
    announced = _announced(text)
    if announced:
        yield announced
        yield _without_reason(announced)
        yield _without_contrast(announced)
        yield _without_remark(announced)
        return
    yield text
    if len(text) > MOST_CHARACTERS:
        return
    yield unwrapped(_line_that_stands_out(text))
    bare = _without_remark(read) or read
    yield bare
    if sentence_end(read) >= len(read.rstrip(" .!。")):
        claim = _without_contrast(bare)
        yield claim
        yield _without_reason(claim)
        yield from _stated(claim)


def _signs(text: str) -> Signs:
    return lex(text, plain(text))


def _announced(text: str) -> str:
    """What follows the last "the answer is", to the end of its line; "" when nothing is announced."""
    text = without_middle(text)
    signs = _signs(text)
    symbols = signs.symbols
    for match in reversed(list(_ANNOUNCES.finditer(symbols))):
        start = signs.stops[match.end() - 1]
        line = unwrapped(text[start : start + _REACH].lstrip(" \n*_:").partition("\n")[0].strip(" *_"))
        denied = symbols[match.end() :][:1] in ("n", "D", "q") or _DENIED.search(symbols, 0, match.start())
        if line and not denied and not _ASKED.match(symbols, match.end()):
            quoted = _JSON.match(line)
            return quoted[1] or quoted[2] if quoted else _without_copula(line)
    return ""


def _without_copula(line: str) -> str:
    """Without the verb at the end of a Japanese or Korean sentence: 3です, 3입니다."""
    signs = _signs(line)
    last = len(signs.symbols.rstrip(".")) - 1
    if last < 1 or signs.symbols[last] != "i" or re.match(LETTER, line[signs.starts[last]]):
        return line
    return line[: signs.starts[last]].strip()


def _without_reason(line: str) -> str:
    """What stands before "because"."""
    signs = _signs(line)
    reason = _REASON.search(signs.symbols)
    return line[: signs.starts[reason.start()]] if reason else line


def _without_contrast(claim: str) -> str:
    """What stands before "not .." or "rather than .." at the end of a claim."""
    signs = _signs(claim)
    contrast = _CONTRAST.search(signs.symbols)
    return claim[: signs.starts[contrast.start()]] if contrast else claim


def _without_remark(text: str) -> str:
    """What stands before a remark of several words in brackets; "" where there is none, or where it casts doubt."""
    match = _REMARK.fullmatch(text.strip())
    return match[1] if match and _UNDECIDED.isdisjoint(_signs(match[2]).symbols) else ""


def _line_that_stands_out(text: str) -> str:
    """A short first line before sentences, or a short last line behind them; "" when neither stands out."""
    found = [line.strip() for line in text.splitlines() if line.strip()]
    if len(found) < 2:
        return ""
    if all(map(_is_sentence, found[:-1])) and not _is_sentence(found[-1]):
        return found[-1]
    return found[0] if all(map(_is_sentence, found[1:])) and not _is_sentence(found[0]) else ""


def _is_sentence(line: str) -> bool:
    words = len(line.split())
    return words > 6 or len(line) > 60 or (line[-1] in ".:!?。：" and words > 2)


def _stated(sentence: str) -> Iterator[str]:
    """What a single sentence says: the one quotation in it, or its end.

    The end stands behind its verb ("The car is blue."), or behind an article or preposition ("She holds an umbrella.").
    """
    quoted = [match[1] or match[2] for match in _QUOTED.finditer(sentence)]
    if len(quoted) == 1:
        yield quoted[0]
    signs = _signs(sentence)
    verbs = [index for index, symbol in enumerate(signs.symbols) if symbol in "iIV"]
    if len(verbs) == 1 and not set("nD?q") & set(signs.symbols):
        yield _NAMED.sub("", sentence[signs.stops[verbs[0]] :], count=1)
    corrected = _CORRECTED.search(signs.symbols)
    if corrected and _UNDECIDED.isdisjoint(signs.symbols[corrected.end() :]):
        yield sentence[signs.stops[corrected.end() - 1] :]
    if len(signs.symbols) <= _MOST_SIGNS and _INVOLVED.isdisjoint(signs.symbols):
        behind = list(zip(signs.symbols, signs.stops, strict=True))[2:]  # "A 113" is one name
        yield from (sentence[stop:] for symbol, stop in behind if symbol in "fp")


def _same_number(claim: str, wanted: str) -> bool:
    """Whether the one number of a single sentence is the wanted one: "There are 3 dogs", but not "A 113"."""
    if not _PLAIN_NUMBER.fullmatch(wanted) or sentence_end(claim) < len(claim.rstrip(" .!。")):
        return False
    words = claim.casefold()
    spelled = _NUMBER_WORDS.findall(words)
    if _DOUBTED_NUMBER.search(words) or (
        words.isascii() and len(words.split()) < 3 and not (spelled or _COUNTED.fullmatch(words))
    ):
        return False
    found = _NUMBER.findall(words) + spelled
    return len(found) == 1 == len(_DIGITS.findall(words)) + len(spelled) and normalise(found[0]) == wanted


def _same_word(claim: str, wanted: str) -> bool:
    """Whether a claim begins with the wanted yes or no: "Yes, there is a cat"."""
    kind = YES if wanted in YES else NO if wanted in NO else ()
    first = _FIRST_WORD.match(claim.casefold())
    return bool(first) and first[0] in kind and _BEHIND_YES.match(claim, first.end()) is not None
