"""Turns of a conversation as tools write them: {from, value} or {role, content}, the content a text or parts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hart_lite.data.markers import MARKER, check_markers, count_markers
from hart_lite.errors import DataError
from hart_lite.utils.text import shown

ASKING, ANSWERING, SILENT = ("human", "user"), ("gpt", "assistant"), ("system", "developer")
_IMAGE_KEYS = ("image", "image_url", "url", "path")
NEEDED = "`conversations` of {from, value} or `messages` of {role, content}"


@dataclass(frozen=True)
class Turn:
    number: int  # from 1, among all turns of the conversation
    asks: bool
    text: str


def turns_of(entries: Any, images: list[Any]) -> list[Turn]:
    """The turns but for system ones. Images that stand in them are appended to `images`, which are those beside them.

    Raises `DataError` for turns that cannot be read, and for images that are not the ones spoken of.
    """
    if isinstance(entries, str):  # a table may hold them as text
        try:
            entries = json.loads(entries)
        except (ValueError, RecursionError):
            raise DataError(f"turns: {shown(entries)} given; {NEEDED} are read") from None
    if not isinstance(entries, list) or not entries:
        raise DataError(f"no turns; {NEEDED} are read")
    turns, markers, inside = [], 0, []
    for number, entry in enumerate(entries, start=1):
        speaker, text = said_in(entry, number, inside)
        if speaker not in (*ASKING, *ANSWERING, *SILENT):
            raise DataError(f"turn {number} is by {shown(speaker)}; {', '.join((*ASKING, *ANSWERING))} are read")
        if speaker not in SILENT:
            turns.append(Turn(number, speaker in ASKING, text))
            markers += count_markers(text)
    if inside and images:
        if len(inside) != len(images):
            raise DataError(
                f"{len(images)} images beside the turns and {len(inside)} in them; which count is not clear"
            )
    else:
        images += inside
    if images:
        check_markers(markers, len(images))
    return turns


def said_in(entry: Any, number: int, images: list[Any]) -> tuple[str, str]:
    """(speaker, text) of a turn, with a marker for each image in it."""
    names = ("role", "content") if isinstance(entry, dict) and "role" in entry else ("from", "value")
    speaker, content = (entry.get(name) for name in names) if isinstance(entry, dict) else (None, None)
    if isinstance(content, list):
        content = "".join(_part(part, number, images) for part in content)
    if not isinstance(speaker, str) or not isinstance(content, str):
        raise DataError(f"turn {number}: {shown(entry)} given; texts in `{names[0]}` and `{names[1]}` are needed")
    return speaker, content


def _part(part: Any, number: int, images: list[Any]) -> str:
    if isinstance(part, str):
        return part
    kind = part.get("type") if isinstance(part, Mapping) else None
    if kind == "text" and isinstance(part.get("text"), str):
        return part["text"]
    if kind in ("image", "image_url"):
        image = next((part[key] for key in _IMAGE_KEYS if part.get(key) is not None), None)
        image = image.get("url") if isinstance(image, Mapping) and "url" in image else image
        if image is not None:
            images.append(image)
        return MARKER  # without a name: one of the images beside the turns
    raise DataError(f"turn {number}: {shown(part)} given; parts of text and of images are read")
