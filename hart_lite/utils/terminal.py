"""Markdown tables in a terminal: in columns that line up, and no wider than it is."""

from __future__ import annotations

import re
import shutil
import sys
import textwrap
from collections.abc import Sequence
from itertools import groupby, zip_longest

LEAST = 8  # columns of characters that a cell keeps; narrower terminals wrap the lines themselves
_RULE = re.compile(r"[ :|-]+")
_EDGE = re.compile(r"(?<!\\)\|")


def fitted(text: str) -> str:
    """The text with its tables laid out for the terminal that standard output is; as it is where that is none, so that
    what goes into a file stays Markdown."""
    return laid_out(text, shutil.get_terminal_size().columns) if sys.stdout.isatty() else text


def laid_out(text: str, width: int) -> str:
    """Tables in `width` columns: cells are wrapped where the widest do not fit, figures stand to the right."""
    parts = []
    for table, group in groupby(text.split("\n"), key=lambda line: line.startswith("|")):
        lines = list(group)
        parts.append(_table(lines, width) if table else "\n".join(lines))
    return "\n".join(parts)


def _table(lines: Sequence[str], width: int) -> str:
    rows = [[cell.strip().replace("\\", "") for cell in _EDGE.split(line)[1:-1]] for line in lines]
    rules = [n for n, line in enumerate(lines) if "---" in line and _RULE.fullmatch(line)]
    right = [cell.endswith(":") for cell in rows[rules[0]]] if rules else [False] * len(rows[0])
    rows = [row for n, row in enumerate(rows) if n not in rules]
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    while sum(widths) + 2 * (len(widths) - 1) > width and max(widths) > LEAST:
        widest = widths.index(max(widths))
        widths[widest] -= 1
    out = [line for row in rows for line in _row(row, widths, right)]
    head = len(_row(rows[0], widths, right))
    return "\n".join([*out[:head], "  ".join("-" * w for w in widths), *out[head:]])


def _row(cells: Sequence[str], widths: Sequence[int], right: Sequence[bool]) -> list[str]:
    wrapped = [textwrap.wrap(cell, w) or [""] for cell, w in zip(cells, widths, strict=True)]
    lines = []
    for parts in zip_longest(*wrapped, fillvalue=""):
        placed = (p.rjust(w) if r else p.ljust(w) for p, w, r in zip(parts, widths, right, strict=True))
        lines.append("  ".join(placed).rstrip())
    return lines
