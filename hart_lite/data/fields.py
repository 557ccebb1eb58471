"""What the names in a row are to us: the fields that are read, columns of choices, and the rest.

One rule for every file and table: nothing is left out in silence. A name that looks like one of ours is refused with
the one that was meant; other names are left out, and a warning says which.
"""

from __future__ import annotations

import difflib
import logging
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from string import ascii_uppercase
from typing import Any

from hart_lite.errors import DataError
from hart_lite.utils.text import cut, printable, shown

FIELDS = ("id", "image", "images", "question", "choices", "answer", "boxes", "category")
NEEDED = ("image", "question", "answer")
HINT = "Columns of other names are read with --column image=THEIRS --column question=THEIRS .. (data.columns)"
# Of other tools: a row that has one of these in the place of ours would lose it.
OTHERS = {
    **dict.fromkeys(("problem", "query", "prompt", "instruction", "text"), "question"),
    **dict.fromkeys(("messages", "conversations", "conversation"), "question"),
    **dict.fromkeys(("solution", "response", "ground_truth", "gt", "label", "output", "target"), "answer"),
    "reward_model": "answer",
    **dict.fromkeys(("options", "multi-choice options", "answer choices", "candidates"), "choices"),
    **dict.fromkeys(("bbox", "bboxes", "box", "bbox_2d", "bounding_boxes", "gt_boxes"), "boxes"),
    **dict.fromkeys(("img", "picture", "image_path", "image_file", "file_name"), "image"),
}  # fmt: skip
_CHOICE = re.compile(r"(?:(?:option|choice)[ _-]?)?([A-Z])", re.IGNORECASE)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Names:
    """Our field -> the name it has in a record; the names of its choices A, B, ..; the names that are not read."""

    fields: Mapping[str, str]
    choices: tuple[str, ...]
    unread: tuple[str, ...]

    def read(self) -> list[str]:
        return sorted({*self.fields.values(), *self.choices})

    def fields_of(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """Raises `DataError` for a gap in the choices."""
        found = {ours: record[theirs] for ours, theirs in self.fields.items() if theirs in record}
        if self.choices and (choices := _filled([record.get(name) for name in self.choices])):
            found["choices"] = choices
        return found


@dataclass
class FieldNames:
    """The names of a data set's records, told one after another.

    `columns` maps ours to theirs and says all that is read; without it the names are those of `known`. A name that
    stands for one of ours is refused unless `others` wrote the set in a layout of their own.
    """

    title: str
    known: Sequence[str] = FIELDS
    columns: Mapping[str, str] = field(default_factory=dict)
    others: bool = False
    _unread: Counter[str] = field(default_factory=Counter)
    _seen: dict[tuple[str, ...], Names] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for ours in self.columns:
            if ours not in self.known:
                near = nearest(ours, self.known)
                raise DataError(f"columns: unknown field {ours!r}{near}; allowed: {', '.join(self.known)}")

    def of(self, available: Iterable[str]) -> Names:
        """Raises `DataError` for a name that was meant to be one of ours, and for a column that is not there."""
        key = tuple(available)
        if key not in self._seen:
            self._seen[key] = self._named(key)
        names = self._seen[key]
        self._unread.update(names.unread)
        return names

    def check(self, available: Sequence[str]) -> None:
        """The columns of a table, before its first row. Raises `DataError` where none is ours, where `columns` names
        one that is not there, and for a name that was meant to be one of ours."""
        for ours, theirs in self.columns.items():
            if theirs not in available:
                raise DataError(
                    f"{self.title}: no column {theirs!r} (for {ours!r}){nearest(theirs, available)}; "
                    f"there are: {', '.join(available)}"
                )
        if not self.columns and not set(self.known) & set(available):
            raise DataError(
                f"{self.title}: none of the columns {', '.join(self.known)}; there are: {', '.join(available)}"
            )
        try:
            names = self._named(tuple(available))
        except DataError as error:
            raise DataError(f"{self.title}: {error}") from error
        has = {"image", *names.fields} if "images" in names.fields else names.fields
        missing = [name for name in NEEDED if name not in has]
        if missing and tuple(self.known) == FIELDS:
            columns = cut(", ".join(available))
            raise DataError(f"{self.title}: no column {', '.join(missing)}; its columns are: {columns}. {HINT}")

    def warn(self) -> None:
        """Says what was left out; to be called when all was read."""
        if self._unread:
            names = ", ".join(printable(name).replace("\n", " ") for name in self._unread)
            log.warning("%s: columns that are not read: %s", self.title, cut(names))

    def _named(self, available: tuple[str, ...]) -> Names:
        if self.columns:
            fields = dict(self.columns)
        else:
            fields = {name: name for name in self.known if name in available}
            if not self.others:
                self._refuse_misnamed(available, fields)
        choices = () if "choices" in fields or "choices" not in self.known else _choice_columns(available, fields)
        read = {*fields.values(), *choices}
        return Names(fields, choices, tuple(name for name in available if name not in read))

    def _refuse_misnamed(self, available: Sequence[str], fields: Mapping[str, str]) -> None:
        for name in available:
            meant = "" if name in fields else _meant(name, fields)
            if meant:
                raise DataError(
                    f"unknown field {shown(name)} (did you mean {meant!r}?); allowed: {', '.join(self.known)}. "
                    f"Another name is read with --column {meant}={cut(name)} (data.columns in a recipe), other layouts "
                    "with `hart-lite data convert`"
                )


def nearest(name: str, known: Sequence[str]) -> str:
    """' (did you mean ..?)' for a name close to a known one, else nothing."""
    close = difflib.get_close_matches(name, known, n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def _meant(name: str, present: Mapping[str, str]) -> str:
    """Which field of ours a name was meant to be: a slip of the pen, or another tool's name for what is lacking."""
    folded = name.strip().lower()
    if folded in FIELDS:
        return folded
    other = OTHERS.get(folded, "")
    if other and other not in present and not (other == "image" and "images" in present):
        return other
    parts = re.split(r"[\W_]+", folded)
    close = difflib.get_close_matches(folded, FIELDS, n=1, cutoff=0.8)
    return close[0] if close and close[0] not in parts else ""


def _choice_columns(available: Sequence[str], fields: Mapping[str, str]) -> tuple[str, ...]:
    """The columns A, B, .. (or option_a, ..) in order, if there are two at least."""
    taken = set(fields.values())
    found = {m[1].upper(): name for name in available if name not in taken and (m := _CHOICE.fullmatch(name.strip()))}
    names: list[str] = []
    for letter in ascii_uppercase:
        if letter not in found:
            break
        names.append(found[letter])
    return tuple(names) if len(names) > 1 else ()


def _filled(values: list[Any]) -> list[Any]:
    """The choices up to the last one given. Raises `DataError` for a gap."""
    given = [not (value is None or value != value or value == "") for value in values]  # NaN: a table's empty cell
    count = sum(given)
    if not all(given[:count]):
        letters = ", ".join(letter for letter, filled in zip(ascii_uppercase, given, strict=False) if filled)
        raise DataError(f"choices: {letters} are given, with a gap; A, B, .. in order are needed")
    return values[:count]
