"""What the protocols with a tool share: reading a call from what a model wrote, and its box in original pixels.

A call is read as it is meant: in a fence, in single quotes, as one of several, its box nested or in quotes. `published`
reads it as a peer's code does, and no other way. Model output is hostile: it is read in linear time, by `json` alone,
and whatever is wrong with it is a `ToolError` whose text the model is told.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from typing import Literal

from hart_lite.models.families.base import ImageInterface
from hart_lite.models.families.box_parsing import found
from hart_lite.utils.text import shown

OPEN, CLOSE = "<tool_call>", "</tool_call>"
Published = Literal["json", "python"]
_LARGEST = 1e7  # no image has a coordinate like it
# What Python writes otherwise than JSON. A string that does not end is taken to the end: tried again from each of its
# characters, it would cost the square of its length.
_PYTHON = re.compile(
    r"""("(?:[^"\\]|\\.)*"?)|'((?:[^'\\]|\\.)*)'?|\b(True|False|None)\b|,(?=\s{0,64}[}\]])""", re.DOTALL
)
_WORDS = {"True": "true", "False": "false", "None": "null"}


class ToolError(Exception):
    """A tool call that cannot be carried out, and why."""


def read_arguments(
    text: str, names: tuple[str, ...] = (), last: bool = False, published: Published | None = None
) -> dict:
    """The arguments of the first (or last) call in a text. `names`: what the tool may be called; none: anything."""
    bodies = [part.partition(CLOSE)[0].strip() for part in text.split(OPEN)[1:]]
    if not bodies:
        raise ToolError(f"there is no {OPEN}")
    if last:
        bodies.reverse()
    calls = [_parsed(bodies[0], published)] if published else [call for body in bodies for call in _calls(body, last)]
    calls = [call for call in calls if isinstance(call, dict)]
    good = [call for call in calls if isinstance(call.get("arguments"), dict)]
    if not good:
        what = "has no object of arguments" if calls else "is not JSON"
        raise ToolError(f"the tool call {shown(bodies[0])} {what}")
    if names and good[0].get("name") not in names:
        raise ToolError(f"there is no tool {shown(good[0].get('name'))}; there is {names[0]}")
    return good[0]["arguments"]


def _parsed(written: str, published: Published) -> object:
    """The whole of a call's text as JSON, or as the Python that a peer evaluates; None where it is neither."""
    try:
        return json.loads(_as_json(written) if published == "python" else written)
    except (ValueError, RecursionError):
        return None


def _calls(body: str, last: bool) -> list[object]:
    """The objects in a call's text, whatever stands around them: a fence, a word, another object."""
    found_calls = list(_objects(body)) or list(_objects(_as_json(body)))
    return found_calls[::-1] if last else found_calls


def _objects(text: str) -> Iterator[object]:
    at = text.find("{")
    while at >= 0:
        try:
            value, at = json.JSONDecoder().raw_decode(text, at)
        except (ValueError, RecursionError):
            return
        yield value
        at = text.find("{", at)


def _as_json(text: str) -> str:
    def spelled(match: re.Match) -> str:
        double, single, word = match.groups()
        if single is not None:
            return json.dumps(re.sub(r"\\(.)", r"\1", single, flags=re.DOTALL))
        return double or _WORDS.get(word, "")

    return _PYTHON.sub(spelled, text)


def read_corners(arguments: dict, published: Published | None = None) -> list[float]:
    """The four numbers of `bbox_2d` (or `bbox`), in whatever frame the model wrote them."""
    corners = arguments.get("bbox_2d", None if published else arguments.get("bbox"))
    plain = isinstance(corners, list) and len(corners) == 4 and all(type(v) in (int, float) for v in corners)
    numbers = corners if plain else None if published else _nested(corners)
    if numbers is None:
        raise ToolError(f"bbox_2d is {shown(corners)}; [x1, y1, x2, y2] is needed")
    if not all(abs(v) < _LARGEST for v in numbers):  # NaN and infinity fail this, too
        raise ToolError(f"bbox_2d is {shown(corners)}, no place in an image")
    return [float(v) for v in numbers]


def _nested(corners: object) -> tuple[float, ...] | None:
    """One box in lists, points or quotes; None for anything else."""
    try:
        boxes = found(f"bbox_2d: {json.dumps(corners)}")
    except (ValueError, RecursionError):
        return None
    return boxes[0].numbers if len(boxes) == 1 and not math.isnan(sum(boxes[0].numbers)) else None


def to_original(
    corners: list[float], interface: ImageInterface, seen: tuple[int, int], original: tuple[float, float]
) -> tuple[float, float, float, float]:
    """Corners in the model's own frame, of an image seen at one size, in the pixels of another."""
    written = ", ".join(f"{value:.6f}" for value in corners)
    found = interface.boxes_from_text(f'[{{"bbox_2d": [{written}]}}]', [seen], [original])
    return found[0][:4] if found else (math.nan,) * 4
