"""What the layouts of other people share. Each is read as `Row`s with our fields; what cannot be one is a `Row` that
says so as its `problem`, so that it can be counted and named."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hart_lite.data.rows import Row, read_rows
from hart_lite.errors import DataError

ImageDir = str | Path | None
Columns = Mapping[str, str] | None


def read_records(
    source: str, known: Sequence[str], split: str | None, image_dir: ImageDir, columns: Columns = None
) -> Iterator[Row]:
    """The objects of a JSON file, or the rows of a table (.parquet, a folder of it, a Hub name), with those of the
    `known` names that they have; `columns` gives their names where they differ. Other names are left out, and said.
    Raises `DataError` if there is no such set."""
    return read_rows(source, split=split, image_dir=image_dir, columns=columns, fields=known, others=True)


def first_of(fields: Mapping[str, Any], names: Sequence[str]) -> Any:
    """The first of these fields that holds something."""
    return next((fields[name] for name in names if fields.get(name) not in (None, [], "")), None)


def images_of(fields: Mapping[str, Any], *names: str) -> list[Any]:
    """The first of these fields that is there, as a list. Raises `DataError` if none is."""
    value = first_of(fields, names)
    if value is None:
        raise DataError("no image")
    return value if isinstance(value, list) else [value]


def id_of(record: Row) -> str:
    """Its id, or else where it stands."""
    found = record.fields.get("id")
    return str(found) if isinstance(found, str | int) and str(found).strip() else record.default_id
