"""Markers of images in questions: `<image>` and what other tools write in its place.

Prompts put images where they belong, so a marker goes where it begins or ends a question, and is "image 2" within one.
"""

from __future__ import annotations

import re

from hart_lite.errors import DataError

MARKER = "<image>"
_MARKERS = re.compile(
    r"<\|vision_start\|>(?:<\|image_pad\|>)*<\|vision_end\|>|<\|?image(?:_pad|_\d+|\s\d+)?\|?>|<img>[^<]*</img>"
    r"|<img>|\[IMG\]|<image_?placeholder>|<start_of_image>",
    re.IGNORECASE,
)
_NUMBER = re.compile(r"\d+")


def count_markers(text: str) -> int:
    return len(_MARKERS.findall(text)) if "<" in text or "[" in text else 0


def check_markers(markers: int, images: int) -> None:
    """Raises `DataError` for markers that are not one for each image, and not none either."""
    if markers not in (0, images):
        raise DataError(f"{markers} times {MARKER} for {images} images; once for each is needed, or not at all")


def without_markers(text: str, before: int = 0) -> str:
    """The text without markers at its ends, and with their images' numbers within: their own, as in <image_2>, or their
    place. `before`: the markers of earlier turns."""
    marks = list(_MARKERS.finditer(text))
    if not marks:
        return text.strip()
    bounds = [0, *(edge for mark in marks for edge in mark.span()), len(text)]
    parts = [text[start:stop] for start, stop in zip(bounds[::2], bounds[1::2], strict=True)]
    spoken = [i for i, part in enumerate(parts) if part.strip()] or [0]
    out = [parts[0]]
    for i, (mark, part) in enumerate(zip(marks, parts[1:], strict=True), start=1):
        own = _NUMBER.search(mark[0]) if not mark[0].lower().startswith("<img>") else None
        number = own[0] if own else before + i
        out += [f"image {number}" if spoken[0] < i <= spoken[-1] else "", part]
    return "".join(out).strip()
