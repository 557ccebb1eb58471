"""The layouts that benchmarks are published in, read as records: JSON, JSONL, parquet, the Hub. (TSV: see `tsv`.)

A record that cannot be read is a `BadRow`, so that one bad line does not hide the next. Images stay in their files.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hart_lite.data.image_kinds import why_missing
from hart_lite.data.images import ImageFile, checked_size, content_key
from hart_lite.data.json_files import json_entries
from hart_lite.data.tables import ImageCell, encoded, open_table, table_rows
from hart_lite.errors import DataError, HartError
from hart_lite.eval.benchmarks.base import BadRow
from hart_lite.types import ImageSource
from hart_lite.utils.text import cut, shown

if TYPE_CHECKING:
    import datasets

_FILES = (".tsv", ".json", ".jsonl", ".parquet")
_HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


@dataclass(frozen=True)
class Record:
    """One record as found, unchecked. A table's record brings its image, checked, and its size (width, height)."""

    where: str  # "TreeBench.tsv:17" for a line, "questions.json[16]" for an index
    fields: Mapping[str, Any]
    image: ImageSource | None = None
    size: tuple[int, int] = (0, 0)


class ImageFolder:
    """Images named by relative paths under the first of several folders that has them."""

    def __init__(self, folders: Iterable[Path]) -> None:
        self.folders = tuple(folders)
        self._sizes: dict[str, tuple[int, int]] = {}

    def find(self, *names: Any) -> tuple[ImageFile, tuple[int, int]]:
        """The image that has one of these names, and its (width, height). Raises `DataError` where there is none, where
        it breaks off, and for a name that leaves the folders: a benchmark's file must not pick images from elsewhere,
        least of all for a model behind an API."""
        for name in names:
            if not isinstance(name, str) or not name.strip():
                raise DataError(f"image: {shown(name)} given; a path is needed")
            if os.path.isabs(name) or os.path.normpath(name).split(os.sep)[0] == os.pardir:
                raise DataError(f"image: {shown(name)} leads out of the folder of the images")
        paths = [folder / name for name in names for folder in self.folders]
        path = next((path for path in paths if os.path.isfile(path)), None)  # no error for any name
        if path is None:
            raise DataError(
                f"no image {shown(names[0])} under {', '.join(map(str, self.folders))}{why_missing(names[0])}"
            )
        image = ImageFile(path)
        if image.key not in self._sizes:
            self._sizes[image.key] = image.checked_size()
        return image, self._sizes[image.key]


def is_hub_name(source: str) -> bool:
    """Whether it has the form owner/name, is no path that exists, and does not end as a file does: a mistyped path is
    not asked for on the Hub."""
    named = _HUB_NAME.fullmatch(source) is not None and not source.endswith(_FILES)
    return named and not os.path.exists(source)


def hub_folder(name: str, patterns: Sequence[str]) -> Path:
    """Those files of a Hub data set that match, downloaded once. Raises `DataError` if they cannot be had."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    try:
        return Path(snapshot_download(name, repo_type="dataset", allow_patterns=list(patterns)))
    except (OSError, ValueError, HfHubHTTPError) as error:
        raise DataError(f"{name}: cannot be fetched from the Hub: {error}") from error


def find_files(source: str, patterns: Sequence[str], suffixes: Sequence[str]) -> list[Path]:
    """The official files of a local source: the file itself, or what the first pattern with a match gives in a folder.

    Raises `DataError` saying what was looked for.
    """
    path = Path(source)
    if os.path.isdir(path):  # no error for any name
        for pattern in patterns:
            if found := sorted(path.glob(pattern)):
                return found
        raise DataError(f"{source}: the folder holds none of {', '.join(patterns)}; give the file, or its folder")
    if not os.path.isfile(path):
        raise DataError(f"{cut(source)}: no such file or folder, and no Hub name (owner/name)")
    if path.suffix not in suffixes:
        raise DataError(f"{source}: a {path.suffix or 'nameless'} file; readable are {', '.join(suffixes)}")
    return [path]


def json_records(path: Path, needed: Sequence[str]) -> Iterator[Record | BadRow]:
    """The objects of a JSON list, or of a file that has one on each line. Raises `DataError` for another file, or if a
    needed field is in none of them."""
    entries = list(json_entries(path))
    objects = [entry.value for entry in entries if isinstance(entry.value, dict)]
    if objects:
        check_columns(path.name, dict.fromkeys(key for row in objects for key in row), needed)
    for entry in entries:
        where = f"{path.name}{entry.place}"
        if entry.problem:
            yield BadRow(where, entry.problem)
        elif not isinstance(entry.value, dict):
            yield BadRow(where, f"{shown(entry.value)} given; an object with {', '.join(needed)} is needed")
        elif missing := [key for key in needed if key not in entry.value]:
            yield BadRow(where, f"no {', '.join(missing)}")
        else:
            yield Record(where, entry.value)


def table_records(
    title: str, table: datasets.Dataset, needed: Sequence[str], images: Sequence[str] = ("image", "bytes")
) -> Iterator[Record | BadRow]:
    """The rows of a table; `images` are the names its image column may have.

    Raises `DataError` for a missing column.
    """
    check_columns(title, table.column_names, needed)
    column = next((name for name in images if name in table.column_names), None)
    if column is None:
        check_columns(title, table.column_names, [*needed, images[0]])
    table = table.with_format("arrow")  # arrow: images stay encoded
    sizes: dict[str, tuple[int, int]] = {}
    for index, fields in table_rows(table):
        where = f"{title}[{index}]"
        try:
            key, size = checked_image(fields.pop(column), f"{where} image", sizes)
        except HartError as error:
            yield BadRow(where, str(error))
            continue
        yield Record(where, fields, ImageCell(table, index, column, None, key, f"{where} image"), size)


def parquet_records(files: Sequence[Path], needed: Sequence[str]) -> Iterator[Record | BadRow]:
    title = files[0].name if len(files) == 1 else f"{files[0].name} and {len(files) - 1} more"
    return table_records(title, open_table(files, "parquet", "train"), needed)


def hub_records(name: str, split: str, needed: Sequence[str], config: str | None = None) -> Iterator[Record | BadRow]:
    return table_records(name, open_table(name, "hub", split, config), needed)


def check_columns(title: str, found: Iterable[str], needed: Iterable[str]) -> None:
    """Raises `DataError` naming what is missing, what was found and what is needed."""
    found, needed = list(found), list(needed)
    missing = [name for name in needed if name not in found]
    if missing:
        raise DataError(
            f"{title}: no column {', '.join(missing)}; found: {shown(', '.join(found))}; needed: {', '.join(needed)}"
        )


def checked_image(cell: Any, name: str, sizes: dict[str, tuple[int, int]]) -> tuple[str, tuple[int, int]]:
    """Key and size of an image cell; images whose key is in `sizes` are not looked at again.

    Raises `DataError` for a cell that holds no whole image.
    """
    if cell is None or cell == "" or (isinstance(cell, dict) and not cell.get("bytes")):
        raise DataError("image: the cell is empty")
    data = encoded(cell)
    if not data:
        raise DataError(f"image: {shown(cell)} is not base64; a cell that was cut off ends like this")
    key = content_key(data)
    if key not in sizes:
        sizes[key] = checked_size(io.BytesIO(data), name)
    return key, sizes[key]
