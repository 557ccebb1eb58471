"""What the layouts of other people share. Each is read as `Row`s with our fields; what cannot be one is a `Row` that
says so as its `problem`, so that it can be counted and named."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hart_lite.data.rows import Row, parse_json, read_bytes, read_rows
from hart_lite.errors import DataError
from hart_lite.utils.text import shown

ImageDir = str | Path | None


def read_json(path: Path) -> Any:
    """Raises `DataError` naming the file."""
    try:
        return parse_json(read_bytes(path).removeprefix(b"\xef\xbb\xbf"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not JSON: {error}. A file of one object on each line ends in .jsonl") from error


def read_records(source: str, columns: Sequence[str], split: str | None, image_dir: ImageDir) -> Iterator[Row]:
    """The objects of a JSON list or .jsonl file as found, or the rows of a table (.parquet, a folder of it, a Hub name)
    with those of `columns` that it has. Raises `DataError` if there is no such set."""
    if Path(source).suffix != ".json":
        yield from read_rows(source, split=split, image_dir=image_dir, fields=columns)
        return
    if split:
        raise DataError(f"{source}: --split {split} is for parquet and Hub data sets")
    records = read_json(Path(source))
    if not isinstance(records, list):
        raise DataError(f"{source}: a JSON list of objects is needed, not {type(records).__name__}")
    for index, record in enumerate(records):
        row = Row(f"{source}[{index}]", str(index), Path(image_dir or Path(source).parent))
        known = isinstance(record, dict)
        yield replace(row, fields=record) if known else replace(row, problem=f"{shown(record)}: an object is needed")


def images_of(fields: Mapping[str, Any], *names: str) -> list[Any]:
    """The first of these fields that is there, as a list. Raises `DataError` if none is."""
    value = next((fields[name] for name in names if fields.get(name) not in (None, [], "")), None)
    if value is None:
        raise DataError("no image")
    return value if isinstance(value, list) else [value]


def id_of(record: Row) -> str:
    """Its id, or else where it stands."""
    found = record.fields.get("id")
    return str(found) if isinstance(found, str | int) and str(found).strip() else record.default_id
