"""What the protocols with a tool share: reading a call from what a model wrote, and its box in original pixels.

Model output is hostile: a call is read with `json` alone, in linear time, and whatever is wrong with it is a
`ToolError` whose text the model is told.
"""

from __future__ import annotations

import json
import math

from hart_lite.models.families.base import ImageInterface
from hart_lite.utils.text import shown

OPEN, CLOSE = "<tool_call>", "</tool_call>"
_LARGEST = 1e7  # no image has a coordinate like it, and families read numbers of a few digits only


class ToolError(Exception):
    """A tool call that cannot be carried out, and why."""


def read_arguments(text: str, names: tuple[str, ...] = (), last: bool = False) -> dict:
    """The arguments of the first (or last) call in a text. `names`: what the tool may be called; none: anything."""
    start = text.rfind(OPEN) if last else text.find(OPEN)
    if start < 0:
        raise ToolError(f"there is no {OPEN}")
    stop = text.find(CLOSE, start)
    written = text[start + len(OPEN) : stop if stop >= 0 else len(text)].strip()
    try:
        call = json.loads(written)
    except (ValueError, RecursionError):
        raise ToolError(f"the tool call {shown(written)} is not JSON") from None
    if not isinstance(call, dict) or not isinstance(call.get("arguments"), dict):
        raise ToolError(f"the tool call {shown(written)} has no object of arguments")
    if names and call.get("name") not in names:
        raise ToolError(f"there is no tool {shown(call.get('name'))}; there is {names[0]}")
    return call["arguments"]


def read_corners(arguments: dict) -> list[float]:
    """The four numbers of `bbox_2d`, in whatever frame the model wrote them."""
    corners = arguments.get("bbox_2d")
    if not isinstance(corners, list) or len(corners) != 4 or not all(type(v) in (int, float) for v in corners):
        raise ToolError(f"bbox_2d is {shown(corners)}; [x1, y1, x2, y2] is needed")
    if not all(abs(v) < _LARGEST for v in corners):  # NaN and infinity fail this, too
        raise ToolError(f"bbox_2d is {shown(corners)}, no place in an image")
    return [float(v) for v in corners]


def to_original(
    corners: list[float], interface: ImageInterface, seen: tuple[int, int], original: tuple[float, float]
) -> tuple[float, float, float, float]:
    """Corners in the model's own frame, of an image seen at one size, in the pixels of another."""
    written = ", ".join(f"{value:.6f}" for value in corners)
    found = interface.boxes_from_text(f'[{{"bbox_2d": [{written}]}}]', [seen], [original])
    return found[0][:4] if found else (math.nan,) * 4
