"""Boxes in what a model wrote, whatever the model: one reader for every family.

Read are four numbers in brackets, two points ("(10, 20), (30, 40)", "[[10, 20], [30, 40]]"), numbers under the names of
sides ("x1": 10, ..), and, where a name or a tag announces a box, four numbers alone. White space, quotes and full-width
punctuation change nothing. The text may be hostile: it is cut into tokens once, and every bracket is opened and closed
once, so the time is linear in its length.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

DEEPEST = 64  # brackets within each other
REACH = 200  # characters before a box in which its image may be named
WrittenBox = tuple[float, float, float, float, int]  # numbers as they stand in the text, image index

# Full-width forms, CJK brackets and commas, minus signs and typographic quotes; one character for one.
_WIDE = {0xFF01 + n: 0x21 + n for n in range(94)}
_WIDE |= str.maketrans("\u3010\u3011\u3001\u2212\u201c\u201d\u201e\u2018\u2019", '[],-"""\'\'')
_SIDES = {"x1": 0, "xmin": 0, "left": 0, "y1": 1, "ymin": 1, "top": 1,
          "x2": 2, "xmax": 2, "right": 2, "y2": 3, "ymax": 3, "bottom": 3}  # fmt: skip
_SIDE = r"[xy]_?(?:min|max|[12])|left|top|right|bottom"
_ASSIGNED = r"[\"']?\s{0,64}[:=]"
_TOKEN = re.compile(
    rf"""(?P<aside>\([^()\[\]{{}}<\d]{{0,99}}\))
    |(?P<open><box>|<\|box_start\|>|[\[({{])
    |(?P<close></box>|<\|box_end\|>|[\])}}])
    |(?P<name>\b(?:bbox(?:es)?(?:_2d)?|bounding[ _]?box(?:es)?|box(?:es)?){_ASSIGNED})
    |(?P<side>\b(?:{_SIDE}){_ASSIGNED})
    |(?P<format>\b(?:{_SIDE})\b)
    |(?P<number>[-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?)
    |(?P<nothing>[\s,;"'\\]+|\bto\b)
    |(?P<word>-?[^\W\d]\w*|[^\w\s\[\](){{}}<,;"'\\+.-]+|.)""",
    re.VERBOSE | re.IGNORECASE | re.DOTALL,
)
_CLOSES = {"]": "[", ")": "[", "}": "{", "</box>": "<", "<|box_end|>": "<"}
_WORDS = ("word", "aside", "format")
_THOUGHT = re.compile(r"</think(?:ing)?>", re.IGNORECASE)
_IMAGE = re.compile(r"\bimage[ -](\d{1,20})\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Found:
    """A box where it stands: text[start:stop]. `lead` is where the outermost list around it begins: what names its
    image stands before that. A box that a name or a tag announces is `announced`, and hides those that none does."""

    numbers: tuple[float, float, float, float]
    lead: int
    start: int
    stop: int
    announced: bool


@dataclass(slots=True)
class _Scope:
    """An open bracket, tag or object, or the text outside of all: what stands in it so far."""

    kind: str  # "[", "{", "<"; "" is the text itself
    start: int
    lead: int
    announced: bool
    under_name: bool = False  # what comes next is announced by a name
    items: list[float | tuple[float, float]] = field(default_factory=list)  # numbers (NaN for a word) and points
    sides: list[str] = field(default_factory=list)  # names of the numbers
    is_format: bool = False  # [x1, y1, x2, y2]: the format, quoted

    def clear(self, start: int) -> None:
        self.start, self.under_name, self.is_format = start, False, False
        self.items, self.sides = [], []


def found(text: str) -> list[Found]:
    """Every box in order. After a thought only what follows it counts, where that has a box."""
    text = text.translate(_WIDE)
    thoughts = list(_THOUGHT.finditer(text))
    boxes = list(_scan(text, thoughts[-1].end())) if thoughts else []
    boxes = boxes or list(_scan(text, 0))
    return [box for box in boxes if box.announced] or boxes


def on_named_images(text: str, images: int) -> list[WrittenBox]:
    """The boxes, each on the image that the words before it name: the last `image n` among them, counting from 1, where
    there are several images, and the first image where none is named. On an image that is not there it is NaN."""
    out: list[WrittenBox] = []
    lead, stop, words = -1, 0, ""
    for box in found(text):
        if box.lead != lead:
            lead, words = box.lead, text[stop : box.lead]
        stop = box.stop
        named = _IMAGE.findall(words[-REACH:]) if images > 1 else []
        out.append(on_image(box, int(named[-1]) - 1 if named else 0, images))
    return out


def on_image(box: Found, index: int, images: int) -> WrittenBox:
    """The box on an image, counting from 0; NaN on the first where it is not there."""
    return (*box.numbers, index) if 0 <= index < images else (math.nan, math.nan, math.nan, math.nan, 0)


def _scan(text: str, start: int) -> Iterator[Found]:
    scopes, open_kinds = [_Scope("", start, start, False)], Counter()
    for token in _TOKEN.finditer(text, start):
        kind, scope = token.lastgroup, scopes[-1]
        if kind == "open":
            if len(scopes) > DEEPEST:  # no answer: nobody means a box by what comes after that
                return
            scopes.append(_opened(scope, token))
            open_kinds[scopes[-1].kind] += 1
        elif kind == "close":
            wanted = _CLOSES[token[0].lower()]
            while open_kinds[wanted]:  # what was left open within is closed with it
                scope = scopes.pop()
                open_kinds[scope.kind] -= 1
                if scope.kind == wanted:
                    yield from _ended(scope, token.end(), scopes[-1])
                    break
            else:
                if scope.kind != "[":
                    yield from _ended(scope, token.start())
                    scope.clear(token.end())
        elif kind == "nothing":
            continue
        elif kind == "number":
            scope.items.append(float(token[0]))
        elif kind in ("name", "side") or (kind in _WORDS and scope.kind in ("", "{")):
            if kind in ("name", "side") or scope.items or scope.under_name or scope.sides:
                yield from _read_word(scope, kind, token)
        elif kind in _WORDS:
            scope.items.append(math.nan)
            scope.is_format |= kind == "format"
    if len(scopes) == 1:
        yield from _ended(scopes[0], len(text))


def _opened(outer: _Scope, token: re.Match) -> _Scope:
    kind = "[" if token[0] in "[(" else "<" if token[0][0] == "<" else "{"
    together = outer.kind in ("[", "<") and math.nan not in outer.items and not outer.is_format
    lead = outer.lead if together and kind != "{" else token.start()
    announced = kind == "<" or (kind == "[" and (outer.announced or outer.under_name))
    return _Scope(kind, token.start(), lead, announced)


def _read_word(scope: _Scope, kind: str, token: re.Match) -> Iterator[Found]:
    """A word outside of lists ends the numbers before it. A name announces those after it."""
    side = re.sub(r"[^a-z0-9]", "", token[0].lower()) if kind == "side" else ""
    if kind == "side" and len(scope.sides) == len(scope.items) < 4:
        if not scope.items and scope.kind in ("", "{"):
            scope.start = token.start()
        scope.sides.append(side)
        return
    yield from _ended(scope, token.start())
    scope.clear(token.start() if side else token.end())
    scope.under_name = kind == "name"
    scope.sides = [side] if side else []


def _ended(scope: _Scope, stop: int, outer: _Scope | None = None) -> Iterator[Found]:
    """The box that a scope comes to, if any. Two numbers in brackets are a point of the scope around them."""
    items, announced = scope.items, scope.announced or scope.under_name or bool(scope.sides)
    points = [item for item in items if isinstance(item, tuple)]
    numbers: tuple[float, ...] = ()
    if len(points) == len(items) == 2:
        numbers = (*points[0], *points[1])
    elif len(items) == 4 and not points and (scope.kind == "[" or announced):
        numbers = _in_order(items, scope.sides)
    elif outer is not None and len(items) == 2 and not points and not math.isnan(sum(items)):
        yield from _with_point(outer, (items[0], items[1]), scope, stop)
    if not numbers or scope.is_format or (not announced and math.isnan(sum(numbers))):
        return
    lead = scope.lead if scope.kind in ("[", "<") else scope.start
    yield Found(numbers, lead, scope.start, stop, announced)


def _with_point(scope: _Scope, point: tuple[float, float], bracket: _Scope, stop: int) -> Iterator[Found]:
    """In a list a point waits for the list's end: four of them are no box. In running text every second one
    ends one."""
    if scope.kind in ("[", "<"):
        scope.items.append(point)
        return
    before = scope.items[-1] if scope.items else None
    if isinstance(before, tuple):
        announced, start = scope.under_name, scope.start
        scope.items = []
        yield Found((*before, *point), start, start, stop, announced)
    else:  # a number of a list of things is no part of a box
        scope.items, scope.start = [point], bracket.start


def _in_order(items: list[float], sides: list[str]) -> tuple[float, ...]:
    """x1, y1, x2, y2 of four numbers; nothing where they bear names that are not those of the four sides."""
    if not sides:
        return tuple(items)
    placed = {_SIDES[side]: value for side, value in zip(sides, items, strict=False)}
    return tuple(placed[n] for n in range(4)) if len(placed) == len(sides) == 4 else ()
