"""JSON Lines: one object a line, read as bytes, since text would also break at U+2028, which a model may write."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from hart_lite.errors import DataError
from hart_lite.utils.files import write_whole
from hart_lite.utils.text import shown


def read_jsonl(path: Path, skip_broken: bool = False) -> Iterator[tuple[int, dict[str, Any]]]:
    """(number of the line from 1, its object). Raises `DataError` naming file and line for what is no JSON object;
    `skip_broken` passes such lines by: in a file that grows, a kill breaks the last one off."""
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        try:
            yield number, parse_object(line, f"{path}:{number}")
        except DataError:
            if not skip_broken:
                raise


def parse_object(data: bytes | str, where: str) -> dict[str, Any]:
    """A JSON object. Raises `DataError` that begins with `where`."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"{where}: not JSON ({error}). A last line that breaks off was interrupted: the command that wrote it goes "
            "on from there"
        ) from error
    if not isinstance(value, dict):
        raise DataError(f"{where}: should be a JSON object, and is {shown(value)}")
    return value


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object that a whole file holds. Raises `DataError` naming the file."""
    try:
        return parse_object(path.read_bytes(), str(path))
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}") from error


def to_line(row: Mapping[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """The file appears whole or not at all."""
    write_whole(path, "".join(map(to_line, rows)))


def append_jsonl(path: Path, row: Mapping[str, Any]) -> None:
    """One line, handed to the system before this returns."""
    with path.open("a", encoding="utf-8") as file:
        file.write(to_line(row))
