"""JSON files of rows, whatever wrote them: an object on each line, one list, or objects over several lines.

Text may be UTF-8 or UTF-16, which PowerShell writes. A key that stands twice is refused: JSON would keep the last one.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hart_lite.errors import DataError
from hart_lite.utils.text import shown

_BLANK = b" \t\r\n"


@dataclass(frozen=True)
class JsonEntry:
    """One value of a file and its place, or the `problem` that keeps it from being read."""

    place: str  # ":7" for a line, "[6]" for an item of a list
    number: str  # the line from 1, or the index from 0
    value: Any = None
    problem: str = ""


def read_bytes(path: Path) -> bytes:
    """Raises `DataError` naming the file."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error


def read_utf8(path: Path) -> bytes:
    """A text file as UTF-8 without a byte order mark, decoded only where it was UTF-16 or UTF-32 (damage in UTF-8 is
    told line by line). Raises `DataError` naming the file."""
    data = read_bytes(path)
    encoding = json.detect_encoding(data)
    if encoding.startswith("utf-8"):
        return data.removeprefix(b"\xef\xbb\xbf")
    try:
        return data.decode(encoding).removeprefix("\ufeff").encode()
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: neither UTF-8 nor whole {encoding.upper()}; save it as UTF-8") from error


def parse_json(data: bytes) -> Any:
    """One JSON value in UTF-8. Raises `ValueError` for what is none, for a key that stands twice in an object, and for
    half a surrogate pair, which JSON can spell and no file name or tokenizer can hold."""
    (value,) = _values(data.decode(), 1)
    return value


def read_json(path: Path) -> Any:
    """The one value of a file. Raises `DataError` naming the file."""
    try:
        return parse_json(read_utf8(path))
    except ValueError as error:
        raise DataError(f"{path}: not JSON: {error}. A file of one object on each line ends in .jsonl") from error


def json_entries(path: Path) -> Iterator[JsonEntry]:
    """The values of a file: the lines, or the items of its one list, or what stands over several lines.

    A line that cannot be read is an entry with a problem. Raises `DataError` where the file as a whole cannot be read.
    """
    data = read_utf8(path)
    lines = data.split(b"\n")
    if path.suffix == ".json" and not data.strip(_BLANK):
        raise DataError(f"{path}: not JSON: the file is empty")
    first = next((line.strip(_BLANK) for line in lines if line.strip(_BLANK)), b"")
    several = data.strip(_BLANK) != first
    if first.startswith((b"[", b"{")) and not (several and _is_json(first)):
        try:
            values = _values(data.decode())
        except ValueError as error:
            if path.suffix == ".json" or (several and first in (b"[", b"{") and _goes_on(data)):
                raise DataError(f"{path}: not JSON: {error}") from error
        else:
            listed = len(values) == 1 and isinstance(values[0], list)
            if listed or several:
                for index, value in enumerate(values[0] if listed else values):
                    yield JsonEntry(f"[{index}]", str(index), value)
                return
    for number, line in enumerate(lines, start=1):
        if line.strip(_BLANK):
            yield _line(f":{number}", str(number), line)


def _line(place: str, number: str, line: bytes) -> JsonEntry:
    try:
        return JsonEntry(place, number, parse_json(line))
    except ValueError as error:  # bad UTF-8 is a ValueError, too
        return JsonEntry(place, number, problem=f"not JSON: {error}")


def _is_json(line: bytes) -> bool:
    try:
        parse_json(line)
    except ValueError:
        return False
    return True


def _goes_on(data: bytes) -> bool:
    """Whether the second line continues an object or a list, rather than being a row of its own."""
    second = data.strip(_BLANK).split(b"\n", 1)[1].lstrip(_BLANK)
    opened = data.lstrip(_BLANK)[:1]
    return second.startswith(b'"') if opened == b"{" else second.startswith((b"{", b"["))


def _values(text: str, most: int | None = None) -> list[Any]:
    """The values that stand one after another in a text, at least one and at most `most`. Raises `ValueError`."""
    decoder = json.JSONDecoder(object_pairs_hook=_object)
    values: list[Any] = []
    at = 0
    try:
        while (at := _after_blanks(text, at)) < len(text) or not values:
            value, at = decoder.raw_decode(text, at)
            values.append(value)
            if most is not None and len(values) == most and (rest := _after_blanks(text, at)) < len(text):
                raise json.JSONDecodeError("Extra data", text, rest)
        json.dumps(values, ensure_ascii=False).encode()
    except RecursionError:
        raise ValueError("nested too deeply") from None
    return values


def _after_blanks(text: str, at: int) -> int:
    while at < len(text) and text[at] in " \t\r\n":
        at += 1
    return at


def _object(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice, _ = Counter(name for name, _ in pairs).most_common(1)[0]
        raise ValueError(f"the key {shown(twice)} stands twice, and which one counts cannot be told")
    return found
