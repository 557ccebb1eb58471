"""TSV with images in base64: HR-Bench, TreeBench, and what VLMEvalKit ships.

A TSV of 8K frames is larger than most memories: one line is held at a time, and an image is read again where it stands.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from hart_lite.data.images import DECODED, content_key, decode
from hart_lite.data.tables import encoded
from hart_lite.errors import DataError, HartError
from hart_lite.eval.benchmarks.base import BadRow
from hart_lite.eval.benchmarks.readers import Record, check_columns, checked_image
from hart_lite.utils.text import shown

if TYPE_CHECKING:
    from PIL import Image

MAX_LINE = 2**28  # bytes: an uncompressed 8K frame in base64 has about 180 million
_REFERENCE = 64  # characters: VLMEvalKit writes the index of an earlier row instead of repeating its image


@dataclass(frozen=True)
class TsvImage:
    """A base64 image in a TSV, read again from its line when needed."""

    path: Path
    offset: int  # of the record's first byte
    column: int
    key: str
    dimensions: tuple[int, int]
    name: str

    def load(self) -> Image.Image:
        """RGB, upright, shared with other callers: do not draw on it. Raises `DataError` with the name."""
        return DECODED.get((self.key,), lambda: decode(io.BytesIO(self._data()), self.name))

    def size(self) -> tuple[int, int]:
        return self.dimensions

    def _data(self) -> bytes:
        with _open(self.path) as stream:
            stream.seek(self.offset)
            try:
                cells = _next_cells(_tsv_reader(_Lines(stream))) or []
            except (csv.Error, UnicodeDecodeError):
                cells = []
        data = encoded(cells[self.column]) if self.column < len(cells) else None
        if data is None or content_key(data) != self.key:
            raise DataError(f"{self.name}: the file has changed since it was read; start the evaluation anew")
        return data


def tsv_records(path: Path, needed: Sequence[str], image: str = "image") -> Iterator[Record | BadRow]:
    """The lines of a TSV with a header and images in base64, one held at a time.

    Raises `DataError` if there is no such file or it lacks a column.
    """
    with _open(path) as stream:
        lines = _Lines(stream)
        reader = _tsv_reader(lines)
        try:
            header = [name.removeprefix("\ufeff") for name in _next_cells(reader) or []]
        except (csv.Error, UnicodeDecodeError) as error:
            raise DataError(f"{path}: no TSV: {error}") from error
        check_columns(path.name, header, [*needed, image])
        if twice := [name for name in header if header.count(name) > 1]:
            raise DataError(f"{path.name}: two columns {shown(twice[0])}; which one counts cannot be told")
        column = header.index(image)
        images: dict[str, TsvImage] = {}  # by the index of their row
        sizes: dict[str, tuple[int, int]] = {}
        while True:
            where, offset = f"{path.name}:{lines.number + 1}", lines.offset
            try:
                cells = _next_cells(reader)
            except (csv.Error, UnicodeDecodeError) as error:
                yield BadRow(where, f"cannot be read as a line of a TSV: {error}")
                continue
            if cells is None:
                return
            if not cells:
                continue
            if len(cells) != len(header):
                yield BadRow(where, f"has {len(cells)} columns, the header {len(header)}")
                continue
            fields = dict(zip(header, cells, strict=True))
            cell = fields.pop(image)
            try:
                found = images.get(cell.strip()) if len(cell) <= _REFERENCE else None
                if found is None:
                    key, size = checked_image(cell, f"{where} image", sizes)
                    found = TsvImage(path, offset, column, key, size, f"{where} image")
            except HartError as error:
                yield BadRow(where, str(error))
                continue
            if "index" in fields:
                images.setdefault(fields["index"].strip(), found)
            yield Record(where, fields, found, found.dimensions)


class _Lines:
    """The decoded lines of a file, with the place where the next begins. No generator: a bad line does not end it."""

    def __init__(self, stream: BinaryIO) -> None:
        self.stream, self.offset, self.number = stream, 0, 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self.stream.readline(MAX_LINE)
        if not line:
            raise StopIteration
        if len(line) == MAX_LINE:
            raise DataError(f"Line {self.number + 1} has over {MAX_LINE:,} bytes; this is no TSV of images")
        self.offset += len(line)
        self.number += 1
        return line.decode()


def _tsv_reader(lines: Iterable[str]) -> Iterator[list[str]]:
    # Strict: quotes that do not match would join lines in silence.
    return csv.reader(lines, delimiter="\t", strict=True)


def _next_cells(reader: Iterator[list[str]]) -> list[str] | None:
    """The next record; None at the end. The limit is the whole process's, so it is raised for this record only."""
    before = csv.field_size_limit(MAX_LINE)
    try:
        return next(reader, None)
    finally:
        csv.field_size_limit(before)


def _open(path: Path) -> BinaryIO:
    try:
        return open(path, "rb")
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
