"""A folder of images with a CSV beside them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from hart_lite.data.fields import FIELDS, FieldNames
from hart_lite.data.formats.base import Columns, ImageDir
from hart_lite.data.rows import Row, read_csv
from hart_lite.errors import DataError
from hart_lite.utils.text import cut


def read_csv_folder(source: str, image_dir: ImageDir, columns: Columns = None) -> Iterator[Row]:
    """A CSV, or a folder that holds one: columns `image` (a path from the CSV's folder), `question` and `answer`;
    `choices`, divided by |, or columns A, B, ..; `boxes`, `id` and `category` where there are any."""
    path = _csv_in(Path(source))
    return read_csv(path, Path(image_dir or path.parent), FieldNames(str(path), FIELDS, columns or {}, others=True))


def _csv_in(path: Path) -> Path:
    if not path.is_dir():
        return path
    found = sorted(file for file in path.iterdir() if file.suffix.lower() == ".csv")
    if not found:
        raise DataError(f"{path}: no .csv file in the folder; one with image, question and answer is needed")
    if len(found) > 1:
        raise DataError(f"{path}: holds {cut(', '.join(file.name for file in found))}; name the one to read")
    return found[0]
