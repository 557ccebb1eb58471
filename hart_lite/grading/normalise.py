"""The form in which free text is compared: Unicode, case, quotes, final punctuation, numbers and their units."""

from __future__ import annotations

import re
import unicodedata

_INVISIBLE = "\u00ad\u200b\u200c\u200d\u200e\u200f\u2060\ufeff"  # soft hyphen, spaces without width, directions
_TRADE_MARKS = "\u00ae\u2122\u2120\u00a9"
_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻", "0123456789+-")
_SUPERSCRIPT = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻]+")
_FRACTION_BEHIND_NUMBER = re.compile(r"(?<=\d)(?=[¼½¾⅐-⅞])")
_SAME = str.maketrans(
    {
        **dict.fromkeys("“”„‟«»‹›「」『』〝〞＂", '"'),
        **dict.fromkeys("’‘‚‛´", "'"),
        **dict.fromkeys("−‐‑‒–—―﹣", "-"),
        "\u2044": "/",  # NFKC writes ½ with it
        "×": "x",
        **dict.fromkeys(_INVISIBLE + _TRADE_MARKS, None),
    }
)
_LATEX = (
    (re.compile(r"\\+([%$#&_])"), r"\1"),
    (re.compile(r"\s?(?:\^\s*\{?\s*\\+circ\b\s*\}?|\\+degree\b)"), "°"),
    (re.compile(r"(?<=\d)(?:\\+,|\{,\})(?=\d{3})"), ","),
    (re.compile(r"\\+[,!;: ]"), " "),
    (re.compile(r"\^\{([+-]?\w+)\}"), r"^\1"),
)
_WHOLE_FRACTION = re.compile(r"(-?)\\[dt]?frac\{(\d+)\}\{(\d+)\}")
_QUOTES = "\"'`"
_STOPS = ".,;:!?。、，；：！？…"
_OPENING = "¿¡"
_BRACKETS = {"(": ")", "[": "]", "{": "}", "【": "】"}
_ARTICLES = re.compile(r"(?:(?:the|an?) )+(?=[^\W\d_]{2})")
_NUMBER = r"[+-]?(?:[1-9]\d{0,2}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+)"
_QUANTITY = re.compile(rf"([$€£¥₹]?)({_NUMBER})(?: ?([%‰°$€£¥₹]|[^\W\d_][^\n]*))?")
_UNITS = {"percent": "%", "per cent": "%", "degrees": "°", "degree": "°"}
_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
NUMBER_WORDS = {word: str(number) for number, word in enumerate(_WORDS)}


def normalise(text: str) -> str:
    r"""Free text as it is compared; `normalise(normalise(text)) == normalise(text)` for every text.

    NFKC, case, white space, kinds of quotes and dashes, quotes and brackets around the whole, final punctuation, an
    English article before a word, `\%` and `^\circ` of LaTeX. Numbers: 1,000 = 1000, 3.0 = 3, .5 = 0.5, three = 3, and
    12 % = 12%. A number with leading zeros stays text (007 on a number plate is not 7), 5' is not 5 and 10⁵ is 10^5.
    """
    plain = fold(text)
    core = _peeled(plain)
    core = core[match.end() :] if (match := _ARTICLES.match(core)) else core
    # An answer may be a "?" itself.
    return _quantity(core) if core else plain


def fold(text: str) -> str:
    """The text with one spelling for each character, in lower case, with single spaces."""
    previous = None
    while text != previous:  # a few passes at most: each one replaces characters by plainer ones
        previous = text
        text = _FRACTION_BEHIND_NUMBER.sub(" ", text)
        text = _SUPERSCRIPT.sub(lambda match: "^" + match[0].translate(_SUPERSCRIPTS), text)
        text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold()).translate(_SAME)
        for pattern, plain in _LATEX:
            text = pattern.sub(plain, text)
        text = ("" if "\\" in text else " ").join(text.split())  # spaces say nothing in a formula
    return text


def _peeled(text: str) -> str:
    """Without the quotes, brackets and punctuation at its ends. A final ' or " behind a digit is feet or inches."""
    start, stop = 0, len(text)
    while start < stop:
        first, last = text[start], text[stop - 1]
        if last in _STOPS or last == " ":
            stop -= 1
        elif first == " " or first in _OPENING:
            start += 1
        elif first in _QUOTES and last in _QUOTES and stop - start > 1:
            start, stop = start + 1, stop - 1
        elif first in _QUOTES:
            start += 1
        elif last in _QUOTES and not text[stop - 2 : stop - 1].isdigit():
            stop -= 1
        elif _BRACKETS.get(first) == last and not _holds(text, start + 1, stop - 1):
            start, stop = start + 1, stop - 1
        else:
            break
    return text[start:stop]


def _holds(text: str, start: int, stop: int) -> bool:
    """Whether a bracket stands between two places."""
    return any(text.find(bracket, start, stop) >= 0 for pair in _BRACKETS.items() for bracket in pair)


def _quantity(text: str) -> str:
    """A number, alone or with a unit, in its one form; any other text as it is."""
    text = NUMBER_WORDS.get(text, text)
    if fraction := _WHOLE_FRACTION.fullmatch(text):
        return f"{fraction[1]}{fraction[2]}/{fraction[3]}"
    match = _QUANTITY.fullmatch(text)
    if match is None:
        return text
    number = match[2].replace(",", "").lstrip("+")
    number = re.sub(r"^(-?)\.", r"\g<1>0.", number)
    if "." in number:
        number = number.rstrip("0").rstrip(".")
    number = "0" if number == "-0" else number
    unit = match[3] or ""
    return match[1] + number + _UNITS.get(unit, unit)
