"""Text in messages: values as they are quoted, and what others wrote made safe to print."""

from __future__ import annotations

import os
from typing import TextIO

RED, YELLOW = 31, 33


def coloured(text: str, colour: int, stream: TextIO) -> str:
    """The text in an ANSI colour where `stream` is a terminal and NO_COLOR (no-color.org) is unset."""
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb" or not stream.isatty()
    return text if plain else f"\x1b[{colour}m{text}\x1b[0m"


def shown(value: object) -> str:
    """A value as messages quote it: no more than 200 characters of its `repr`, from both ends."""
    try:
        return cut(repr(value))
    except (RecursionError, ValueError):  # nested a thousand times; a number of over 4,300 digits
        return f"a {type(value).__name__} that is too large to show"


def cut(text: str) -> str:
    """A text of at most 200 characters: what is longer loses its middle."""
    return text if len(text) <= 200 else f"{text[:98]} .. {text[-98:]}"


def printable(text: str) -> str:
    """Text that neither moves a terminal's cursor nor turns the direction of what follows: for what others wrote."""
    return "".join(c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in text)
