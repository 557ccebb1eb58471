"""What the readers are given to begin with, and how."""

from __future__ import annotations

import io
import json

from PIL import Image

CHOICES = ("red", "blue", "green", "white")
SIZE = (1120, 560)


def text_of(data: bytes) -> str:
    return data.decode("utf-8", "replace")


def lists(*values: object) -> tuple[bytes, ...]:
    return tuple(json.dumps(value).encode() for value in values)


def png(size: tuple[int, int] = (24, 16)) -> bytes:
    stream = io.BytesIO()
    Image.linear_gradient("L").resize(size).convert("RGB").save(stream, "PNG")
    return stream.getvalue()
