"""Answers in free text: the text that a response gives as its answer, and whether it is the right one."""

from __future__ import annotations

import re
from collections.abc import Iterator

from hart_lite.grading.lexer import lex
from hart_lite.grading.markup import finals, plain, unwrapped, without_middle
from hart_lite.grading.normalise import NUMBER_WORDS, normalise
from hart_lite.grading.sentences import sentence_end

MOST_CHARACTERS = 2000  # of an answer; a longer text is reasoning, of which only what it announces is read
_ANNOUNCES = re.compile(r"(?:[NR](?:[fOrRlvtsX,]{0,5}|[xpfkrV&,(]{1,10}(?=[i:]))[i:\-]|(?<![^\n.])O:)[i:\-sX,]*")
_DENIED = re.compile(r"[nzwq][fOrRtihv]{0,6}$")
_REACH = 300  # characters read behind "the answer is"
_REASON = re.compile(r"[,;]?\s+(?:because|since|as|given that|due to|weil|porque|parce que|потому что)\s|[,，]?(?:因为|由于)")
_ENDING = re.compile(r"(?:です|でした|だ|である|입니다|이다|이에요|예요)[。.]?$")
_JSON_TEXT = re.compile(r"[\"']((?:[^\"'\\\n]|\\.)*)[\"']\s*[,}\]]|(-?\d[\d.]*)\s*}")
_QUOTED = re.compile(r"[\"“„«「『]([^\"“”„«»「」『』\n]{1,200})[\"”“»」』]|(?<!\w)['‘]([^'‘’\n]{1,200})['’](?!\w)")
_SPACED = "A-Za-z\u00c0-\u024f\u0400-\u04ff\\d_"  # letters of scripts that put spaces between words
_NUMBER = re.compile(  # also a time and an amount of money; not a part of 10^5 or 5'
    rf"(?<![{_SPACED}.,$€£¥₹^/:'-])[$€£¥₹]?[+-]?\d+(?:[.,:/]\d+)*(?: ?[%‰°])?(?![{_SPACED}$€£¥₹^/'\"]|[.,:]\d|-\w)"
)
_NUMBER_WORDS = re.compile(rf"\b(?:{'|'.join(word for word in NUMBER_WORDS if word not in ('zero', 'one'))})\b")
_PLAIN_NUMBER = re.compile(r"[$€£¥₹]?-?\d+(?:[.:/]\d+)*[%‰°]?")
_YES = frozenset("yes sí oui ja sim да 是 是的 はい 네 예 对".split())
_NO = frozenset("no non nein não нет 否 不是 いいえ 아니요 아니오 没有".split())


def read_text(text: str) -> str | None:
    """The answer of a text without thoughts, as it is written; None when there is none."""
    boxed = finals(text)
    if boxed:
        content = [unwrapped(text[final.start : final.stop]).strip() for final in boxed[-2:]]
        together = len(boxed) > 1 and not text[boxed[-2].end : boxed[-1].at].strip(" \n,;/|$")
        return None if together and content[0] != content[1] else content[-1] or None
    announced = _announced(text)
    if announced:
        return announced[: sentence_end(announced)].strip() or None
    return unwrapped(text).strip() or None if len(text) <= MOST_CHARACTERS else text.strip() or None


def same(text: str, answer: str) -> bool:
    """Whether the answer of a text without thoughts is `answer`, which is read in the same way."""
    wanted = {normalise(answer)} | {normalise(reading) for reading in (read_text(answer),) if reading}
    wanted.discard("")
    readings = [reading for reading in _readings(text) if len(reading) <= MOST_CHARACTERS + 2 * len(answer)]
    if any(normalise(reading) in wanted for reading in readings):
        return True
    claim = readings[0] if readings else ""
    return any(_same_number(claim, number) or _same_word(claim, number) for number in wanted)


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
        if reason := _REASON.search(announced):
            yield announced[: reason.start()]
        return
    if len(text) > MOST_CHARACTERS:
        return
    yield text
    line = _alone(text)
    if line:
        yield unwrapped(line)
    if sentence_end(read) >= len(read.rstrip(" .!。")):
        yield from _stated(read)


def _announced(text: str) -> str:
    """What follows the last "the answer is", to the end of its line; "" when nothing is announced."""
    text = without_middle(text)
    lowered = plain(text)
    signs = lex(text, lowered)
    symbols = signs.symbols
    for match in reversed(list(_ANNOUNCES.finditer(symbols))):
        start = signs.stops[match.end() - 1]
        line = unwrapped(text[start : start + _REACH].lstrip(" \n*_:").partition("\n")[0].strip(" *_"))
        behind = symbols[match.end() : match.end() + 1]
        if line and behind not in ("n", "q", "?") and not _DENIED.search(symbols[max(match.start() - 8, 0) : match.start()]):
            asked = re.match(r"[^.?\n]*\?", symbols[match.end() :][:60])
            if not asked:
                quoted = _JSON_TEXT.match(line)
                return quoted[1] or quoted[2] if quoted else _ENDING.sub("", line).strip()
    return ""


def _alone(text: str) -> str:
    """A short first line before sentences, or a short last line behind them; "" when neither stands out."""
    found = [line.strip() for line in text.splitlines() if line.strip()]
    if len(found) < 2:
        return ""
    if all(_is_sentence(line) for line in found[:-1]) and not _is_sentence(found[-1]):
        return found[-1]
    if all(_is_sentence(line) for line in found[1:]) and not _is_sentence(found[0]):
        return found[0]
    return ""


def _is_sentence(line: str) -> bool:
    return len(line.split()) > 6 or (line[-1] in ".:!?。：" and len(line.split()) > 2) or len(line) > 60


def _stated(sentence: str) -> Iterator[str]:
    """What a single sentence says: the one quotation in it, or what stands behind its verb ("The car is blue.")."""
    quoted = [match[1] or match[2] for match in _QUOTED.finditer(sentence)]
    if len(quoted) == 1:
        yield quoted[0]
    lowered = plain(sentence)
    signs = lex(sentence, lowered)
    symbols = signs.symbols
    verbs = re.findall("[iV]", symbols)
    if len(verbs) == 1 and not re.search("[n?q]", symbols):
        yield sentence[signs.stops[symbols.index(verbs[0])] :]


def _same_number(claim: str, wanted: str) -> bool:
    """Whether the one number of a single sentence is the wanted one: "There are 3 dogs"."""
    if not _PLAIN_NUMBER.fullmatch(wanted) or sentence_end(claim) < len(claim.rstrip(" .!。")):
        return False
    words = claim.casefold()
    if words.isascii() and len(words.split()) < 3:  # "A 113" is a name
        return False
    found = _NUMBER.findall(words) + _NUMBER_WORDS.findall(words)
    others = len(re.findall(r"\d+(?:[.,:/]\d+)*", words)) + len(_NUMBER_WORDS.findall(words))
    denied = re.search(r"\b(?:not|no|or)\b|n't", words)
    return len(found) == 1 and others == 1 and not denied and normalise(found[0]) == wanted


def _same_word(claim: str, wanted: str) -> bool:
    """Whether a claim begins with the wanted yes or no: "Yes, there is a cat"."""
    kind = _YES if wanted in _YES else _NO if wanted in _NO else frozenset()
    first = re.match(r"[^\W_]+", claim.casefold())
    if not kind or not first:
        return False
    rest = claim[first.end() :].lstrip()
    return first[0] in kind and not re.match(r"\.\s?\d", rest) and rest[:1] in (",", ".", ";", ":", "!", "，", "。", "、", "-", "—", "–")
