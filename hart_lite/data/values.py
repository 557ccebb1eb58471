"""Values as tables and files have them: numbers that stand for texts, lists that were written as text."""

from __future__ import annotations

import ast
import json
import math
from typing import Any

MOST = 2**20  # characters of a list that was written as text


def number_as_text(value: Any) -> Any:
    """3 and 3.0, as a table of whole numbers with gaps has them, as "3"; 2.5 as "2.5"; what is no number stays."""
    if isinstance(value, float) and math.isfinite(value):
        return str(int(value)) if value.is_integer() and abs(value) < 2**53 else repr(value)
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() < 2**12:
        return str(value)
    return value


def literal(text: str) -> Any:
    """The list, text or number that a text spells in JSON or Python, tuples as lists; None for anything else."""
    if len(text) > MOST:
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    try:
        return _listed(ast.literal_eval(text))
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        return None


def _listed(value: Any) -> Any:
    return [_listed(item) for item in value] if isinstance(value, tuple | list) else value
