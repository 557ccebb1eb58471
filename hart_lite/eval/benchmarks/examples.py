"""From records to `Example`s: what every benchmark checks in the same way."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from hart_lite.boxes import clip
from hart_lite.data.values import literal, number_as_text
from hart_lite.errors import DataError, HartError
from hart_lite.eval.benchmarks.base import BadRow
from hart_lite.eval.benchmarks.readers import Record
from hart_lite.grading import answer_letter
from hart_lite.types import Box, Example
from hart_lite.utils.text import shown


def examples(
    records: Iterable[Record | BadRow],
    name: Callable[[Record], str],
    make: Callable[[Record, str], Example | None],
    number_repeats: bool = False,
) -> Iterator[Example | BadRow]:
    """`make(record, id)` for each record; its `DataError` makes the record a `BadRow`, None leaves it out.

    Ids come from `name`. A repeated one is a bad row, or with `number_repeats` becomes "id#2", bad rows counted too, so
    that ids do not depend on which images are there.
    """
    seen: Counter[str] = Counter()
    for record in records:
        result = record if isinstance(record, BadRow) else _made(record, name, make, seen, number_repeats)
        if result is not None:
            yield result


def _made(
    record: Record,
    name: Callable[[Record], str],
    make: Callable[[Record, str], Example | None],
    seen: Counter[str],
    number_repeats: bool,
) -> Example | BadRow | None:
    try:
        id = name(record)
        seen[id] += 1
        if seen[id] > 1:
            if not number_repeats:
                raise DataError(f"id {shown(id)} is taken by a row before")
            id = f"{id}#{seen[id]}"
        return make(record, id)
    except HartError as error:
        return BadRow(record.where, str(error))


def text(record: Record, name: str) -> str:
    """A field that must hold text or a number. Raises `DataError` naming it."""
    value = number_as_text(record.fields.get(name))
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{name}: {shown(value)} given; text is needed")
    return value.strip()


def letter(record: Record, name: str, choices: Sequence[str]) -> str:
    """The letter of the right choice. Raises `DataError` if it is none of them."""
    return answer_letter(text(record, name), choices)


def known(value: str, allowed: Iterable[str], what: str) -> str:
    """Raises `DataError` unless the value is an allowed one."""
    if value not in (allowed := tuple(allowed)):
        raise DataError(f"unknown {what} {shown(value)}; known: {', '.join(allowed)}")
    return value


def boxes_inside(values: Any, size: tuple[int, int]) -> tuple[Box, ...]:
    """A list of [x1, y1, x2, y2] in original pixels, clipped to an image of `size` (width, height).

    Raises `DataError` for another form, and for a box of which nothing is left.
    """
    if not isinstance(values, list):
        raise DataError(f"boxes: {shown(values)} given; a list of [x1, y1, x2, y2] is needed")
    found = []
    for value in values:
        numbers = isinstance(value, list) and all(type(v) in (int, float) and abs(v) < math.inf for v in value)
        if not numbers or len(value) != 4:
            raise DataError(f"boxes: {shown(value)} given; [x1, y1, x2, y2] is needed")
        box = clip(Box(*value), size)
        if not (box.x1 < box.x2 and box.y1 < box.y2):
            raise DataError(f"boxes: {shown(value)} holds nothing of its image of {size[0]} x {size[1]} pixels")
        found.append(box)
    return tuple(found)


def listed(value: str, what: str) -> Any:
    """A list that is written as text, or what else is; tuples as lists. Raises `DataError` naming `what`."""
    found = literal(value)
    if found is None:
        raise DataError(f"{what}: {shown(value)} given; a list such as [[0, 0, 10, 10]] is needed")
    return found
