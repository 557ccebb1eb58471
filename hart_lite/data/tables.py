"""Tables of images that stay encoded: parquet files, folders of them, and data sets of the Hub."""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hart_lite.data.image_kinds import is_image
from hart_lite.data.images import ImageBytes, content_key
from hart_lite.errors import DataError

if TYPE_CHECKING:
    import datasets
    from PIL import Image

Source = str | Path | Sequence[str | Path]

MAX_PATH = 4096  # longer text is no path: base64, then
_BATCH = 16  # rows held at once while a table is read: their images are in them


@dataclass(frozen=True)
class ImageCell:
    """An encoded image in a memory-mapped table, read from it when needed: a set may be larger than memory."""

    table: datasets.Dataset = field(repr=False, compare=False)
    row: int
    column: str
    item: int | None  # position in a column of lists
    key: str
    name: str
    length: int = 0  # bytes

    def load(self) -> Image.Image:
        return self._image().load()

    def size(self) -> tuple[int, int]:
        return self._image().size()

    def checked_size(self) -> tuple[int, int]:
        return self._image().checked_size()

    def encoded(self) -> bytes:
        return self._image().data

    def _image(self) -> ImageBytes:
        value = self.table[self.row].column(self.column)[0].as_py()
        return ImageBytes(encoded(value if self.item is None else value[self.item]), self.name)


def open_table(source: Source, format: str, split: str | None, config: str | None = None) -> datasets.Dataset:
    """A table of images that stay encoded on disk. `config` names one of several tables of a Hub data set."""
    import datasets

    datasets.logging.set_verbosity(datasets.logging.CRITICAL)  # it would print the error that it raises
    if format == "hub":
        arguments: dict[str, Any] = {"path": str(source)} | ({"name": config} if config else {})
    elif isinstance(source, str | Path) and Path(source).is_dir():
        if not any(Path(source).rglob("*.parquet")):
            raise DataError(f"{source}: the folder holds no .parquet file; for JSONL, name the .jsonl file itself")
        arguments = {"path": "parquet", "data_dir": str(source)}
    else:
        files = [source] if isinstance(source, str | Path) else source
        if not files:
            raise DataError("An empty list of parquet files was given; at least one is needed")
        for file in files:
            if not Path(file).is_file():
                raise DataError(f"{file}: no such parquet file")
        arguments = {"path": "parquet", "data_files": [str(file) for file in files]}
    try:
        found = datasets.load_dataset(**arguments, split=split)
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        raise DataError(f"{title(source)}: the data set cannot be opened: {error.__cause__ or error}") from error
    if isinstance(found, datasets.Dataset):
        return found
    if len(found) > 1:
        raise DataError(f"{title(source)}: has several splits; set split to one of {', '.join(found)}")
    return next(iter(found.values()))


def title(source: Source) -> str:
    """For messages."""
    if isinstance(source, str | Path):
        return str(source)
    return f"{source[0]} and {len(source) - 1} more" if len(source) > 1 else str(source[0])


def table_rows(table: datasets.Dataset) -> Iterator[tuple[int, dict[str, Any]]]:
    """Index and values of each row, a few rows in memory at a time. `table` is in the format "arrow", which leaves
    images encoded. Numbers of 32 bits have the digits that they were written with."""
    import pyarrow

    short = [c.name for c in table.features.arrow_schema if c.type in (pyarrow.float32(), pyarrow.float16())]
    for start in range(0, len(table), _BATCH):
        batch = table[start : start + _BATCH]
        for index, values in enumerate(batch.to_pylist(), start):
            yield index, values | {name: _short(values[name]) for name in short}


def _short(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.7g}")


def cell_images(value: Any, cell: tuple, where: str, folder: Path) -> Any:
    """Encoded images as `ImageCell` (`cell`: table, row, column); paths, and what is no image, are left for the check
    of the row."""
    if isinstance(value, list):
        return [_cell_image(item, (*cell, i), where, folder) for i, item in enumerate(value)]
    return _cell_image(value, (*cell, None), where, folder)


def _cell_image(value: Any, cell: tuple, where: str, folder: Path) -> Any:
    if isinstance(value, dict) and not value.get("bytes"):
        return value.get("path")
    data = image_bytes(value, folder)
    return value if data is None else ImageCell(*cell, content_key(data), f"{where} image", len(data))


def image_bytes(value: Any, folder: Path) -> bytes | None:
    """The bytes of an image cell, or None for a path or what is neither.

    Base64 of an image is known by its first bytes. Only a short text that is none is looked for as a file: file systems
    refuse long names, which a small picture in base64 is.
    """
    data = encoded(value)
    if not isinstance(value, str) or data is None or is_image(data) or value.startswith("data:"):
        return data
    known = len(value) < MAX_PATH and os.path.isfile(folder / value)  # no error for any name
    return None if known else data


def encoded(value: Any) -> bytes | None:
    """The bytes of an image cell: the Hub's image struct, raw bytes, or base64 text (also as a data URI)."""
    if isinstance(value, dict):
        value = value["bytes"]
    if isinstance(value, str):
        try:
            return base64.b64decode("".join(value.rpartition("base64,")[2].split()), validate=True)
        except (binascii.Error, ValueError):
            return None
    return value if isinstance(value, bytes) else None
