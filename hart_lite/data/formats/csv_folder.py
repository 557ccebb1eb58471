"""A folder of images with a CSV beside them."""

from __future__ import annotations

import csv
import io
import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from hart_lite.data.formats.base import ImageDir
from hart_lite.data.rows import Row, read_bytes
from hart_lite.errors import DataError
from hart_lite.utils.text import cut

COLUMNS = ("id", "image", "question", "choices", "answer", "category")
NEEDED = ("image", "question", "answer")

log = logging.getLogger(__name__)


def read_csv_folder(source: str, image_dir: ImageDir) -> Iterator[Row]:
    """A CSV (UTF-8, commas), or a folder that holds one: columns `image` (a path from the CSV's folder), `question` and
    `answer`; `choices`, divided by |, `id` and `category` where there are any. Other columns are not read."""
    path = _csv_in(Path(source))
    try:
        text = read_bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 at byte {error.start}; save it as 'CSV UTF-8'") from error
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        _check_columns(path, reader.fieldnames or [])
        for cells in reader:
            row = Row(f"{path}:{reader.line_num}", str(reader.line_num), Path(image_dir or path.parent))
            if None in cells:
                yield replace(row, problem="more cells than columns; a text with commas needs quotes")
            else:
                fields = {name: cells[name] for name in COLUMNS if cells.get(name)}
                choices = {"choices": fields["choices"].split("|")} if "choices" in fields else {}
                yield replace(row, fields=fields | choices)
    except csv.Error as error:
        raise DataError(f"{path}: not CSV after line {reader.line_num}: {error}") from error


def _csv_in(path: Path) -> Path:
    if not path.is_dir():
        return path
    found = sorted(file for file in path.iterdir() if file.suffix.lower() == ".csv")
    if not found:
        raise DataError(f"{path}: no .csv file in the folder; one with the columns {', '.join(NEEDED)} is needed")
    if len(found) > 1:
        raise DataError(f"{path}: holds {cut(', '.join(file.name for file in found))}; name the one to read")
    return found[0]


def _check_columns(path: Path, columns: list[str]) -> None:
    missing = [name for name in NEEDED if name not in columns]
    if missing:
        raise DataError(
            f"{path}: no column {', '.join(missing)}; its first line has: {cut(', '.join(columns)) or 'nothing'}. "
            f"Columns are divided by commas; {', '.join(COLUMNS)} are read"
        )
    repeated = sorted({name for name in columns if columns.count(name) > 1})
    if repeated:
        raise DataError(f"{path}: column {cut(', '.join(repeated))} is there twice")
    others = [name for name in columns if name not in COLUMNS]
    if others:
        log.warning("%s: columns that are not read: %s", path, cut(", ".join(others)))
