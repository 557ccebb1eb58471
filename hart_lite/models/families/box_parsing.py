"""Lists of four numbers in what a model wrote. Every pattern is bounded on all sides: the text may be hostile."""

from __future__ import annotations

import math
import re

NUMBER = r"\s{0,4}(-?\d{1,7}(?:\.\d{1,6})?)\s{0,4}"
FRACTION = r"\s{0,4}(-?(?:\d{1,7}(?:\.\d{0,20})?|\.\d{1,20}))\s{0,4}"
ANYTHING = r"\s{0,4}([^\s,\[\]]{1,40})\s{0,4}"  # a named box of NaN is a box, to be refused and counted
REACH = 200  # characters before a box in which its image may be named
_IMAGE = re.compile(r"\bimage[ -](\d{1,20})\b", re.IGNORECASE)

WrittenBox = tuple[float, float, float, float, int]  # numbers as they stand in the text, image index


def four(kind: str) -> str:
    """Pattern of a list of four."""
    return r"\[" + ",".join([kind] * 4) + r"\]"


def number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def on_image(numbers: tuple[str, ...], before: str, images: int) -> WrittenBox:
    """A box, on the image that the words before it name: the last `image n` among them, counting from 1, where there
    are several images, and the first image where none is named. On an image that is not there it is NaN."""
    named = _IMAGE.findall(before[-REACH:]) if images > 1 else []
    index = int(named[-1]) - 1 if named else 0
    if not 0 <= index < images:
        return (math.nan, math.nan, math.nan, math.nan, 0)
    x1, y1, x2, y2 = map(number, numbers)
    return (x1, y1, x2, y2, index)
