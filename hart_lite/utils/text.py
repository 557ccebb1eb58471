"""Text in messages: values as they are quoted, and what others wrote made safe to print."""

from __future__ import annotations


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
