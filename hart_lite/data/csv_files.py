"""CSV files of rows: divided by commas, semicolons or tabs; UTF-8, or UTF-16 as spreadsheets export it."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

from hart_lite.data.json_files import read_utf8
from hart_lite.errors import DataError
from hart_lite.utils.text import cut

MAX_CELL = 2**28  # characters: an uncompressed 8K frame in base64 has about 180 million
_DELIMITERS = ",;\t"


class CsvFile:
    """The header of a CSV, and its rows as (line, cells by column). Raises `DataError` naming the file for what is not
    UTF-8 or no CSV, and for a column that stands twice."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            text = read_utf8(path).decode()
        except UnicodeDecodeError as error:
            raise DataError(f"{path}: not UTF-8 at byte {error.start}; save it as 'CSV UTF-8'") from error
        first, _, rest = text.partition("\n")
        announced = first.strip().lower().removeprefix("sep=")  # what Excel writes, and shows nobody
        self._skipped = len(announced) == 1 and announced in _DELIMITERS and first.lower().startswith("sep=")
        self._text = rest if self._skipped else text
        self.delimiter = announced if self._skipped else _delimiter(self._text)
        self._reader = csv.reader(io.StringIO(self._text, newline=""), delimiter=self.delimiter, strict=True)
        self.columns = [name.strip() for name in self._next() or []]
        repeated = sorted({name for name in self.columns if self.columns.count(name) > 1})
        if repeated:
            raise DataError(f"{path}: column {cut(', '.join(repeated))} is there twice")

    def rows(self) -> Iterator[tuple[int, Sequence[str]]]:
        """The line a row ends on, from 1, and its cells; empty rows are left out."""
        while (cells := self._next()) is not None:
            if cells:
                yield self._reader.line_num + self._skipped, cells

    def _next(self) -> list[str] | None:
        """The next row; None at the end. The limit is the whole process's, so it is raised for this row only."""
        before = csv.field_size_limit(MAX_CELL)
        try:
            return next(self._reader, None)
        except csv.Error as error:
            line = max(self._reader.line_num - 1, 0) + self._skipped
            raise DataError(f"{self.path}: not CSV after line {line}: {error}") from error
        finally:
            csv.field_size_limit(before)


def _delimiter(text: str) -> str:
    """The sign that divides the first row into the most columns; a comma where none does."""

    def columns(delimiter: str) -> int:
        try:
            return len(next(csv.reader(io.StringIO(text[:10_000], newline=""), delimiter=delimiter), []))
        except csv.Error:
            return 0

    return max(_DELIMITERS, key=columns)
