"""Figures as text, and Markdown tables of text that others wrote."""

from __future__ import annotations

import re
from collections.abc import Sequence

from hart_lite.utils.text import printable

# An underscore within a word, and & or ~ alone, are no markup.
_SPECIAL = re.compile(r"[\\`*\[|]|<(?=\S)|(?<!\w)_|_(?!\w)|~(?=~)|&(?=[#\w])")


def percent(share: dict | None, with_n: bool = False) -> str:
    """A share {"value", "low", "high", "n"} as `62.4 (60.1-64.6)`, in percent; blank where there is none."""
    if share is None:
        return ""
    inside = [] if share["low"] is None else [f"{100 * share['low']:.1f}-{100 * share['high']:.1f}"]
    inside += [f"n {share['n']:,}"] if with_n else []
    return f"{100 * share['value']:.1f}" + (f" ({'; '.join(inside)})" if inside else "")


def probability(p: float) -> str:
    return f"p {p:.3f}" if p >= 0.001 else "p < 0.001"


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]], words: int = 1) -> str:
    """The first `words` columns to the left, the others to the right."""
    top, *lines = [f"| {' | '.join(map(plain, row))} |" for row in (head, *rows)]
    return "\n".join([top, "|" + " --- |" * words + " ---: |" * (len(head) - words), *lines])


def plain(text: str) -> str:
    """Text that Markdown shows as it is: names come from files and models."""
    return _SPECIAL.sub(r"\\\g<0>", printable(" ".join(text.split())))
