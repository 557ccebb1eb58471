"""An evaluation, read back from its folder: `eval.json` says how it was made, `predictions.jsonl` holds its rows.

One row for each benchmark, mode and question; boxes are original pixels, [x1, y1, x2, y2, image].
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from hart_lite.errors import HartError
from hart_lite.types import Box
from hart_lite.utils.text import shown

SETTINGS = "eval.json"
ROWS = "predictions.jsonl"
BAD_ROWS = "bad_rows.jsonl"
_FIELDS = {  # what everything that reads rows relies on
    "benchmark": str,
    "mode": str,
    "id": str,
    "cluster": str,
    "category": str,
    "question": str,
    "truth": str,
    "choices": list,
    "text": str,
    "strict": bool,
    "official": bool,
    "boxes": list,
}
_GROUNDING = ("grounded", "grounded_targets", "targets", "iou", "coverage")


@dataclass(frozen=True)
class Evaluation:
    """`bad_rows` are the rows of the benchmarks' files that could not be asked."""

    folder: Path
    settings: dict[str, Any]
    rows: list[dict[str, Any]]
    bad_rows: list[dict[str, Any]]

    @property
    def model(self) -> str:
        return str(self.settings["model"])

    @property
    def label(self) -> str:
        """The model, and the folder, since one model may be evaluated in several ways."""
        return f"{self.model} ({self.folder})"

    def parts(self) -> dict[str, dict[str, list[dict]]]:
        """{benchmark: {mode: rows}}, in the order in which they were asked."""
        out: dict[str, dict[str, list[dict]]] = {}
        for row in self.rows:
            out.setdefault(row["benchmark"], {}).setdefault(row["mode"], []).append(row)
        return out


def is_evaluation(folder: Path) -> bool:
    return (folder / SETTINGS).is_file()


def read_evaluation(folder: str | Path) -> Evaluation:
    """Raises `HartError` naming file and line for what is missing, broken off, twice there or of another kind."""
    folder = Path(folder)
    if not is_evaluation(folder):
        raise HartError(f"{folder} holds no evaluation (no {SETTINGS}); `hart-lite eval` makes one")
    settings = _json((folder / SETTINGS).read_bytes(), f"{folder / SETTINGS}")
    if "model" not in settings:
        raise HartError(f"{folder / SETTINGS} does not say which model was evaluated (no 'model')")
    for key in ("benchmarks", "modes"):
        names = settings.get(key, [])
        if not (isinstance(names, dict | list) and all(isinstance(name, str) for name in names)):
            raise HartError(f"{folder / SETTINGS}: {key} is {shown(names)}; it should be a list of names")
    if not (folder / ROWS).is_file():
        raise HartError(f"{folder} holds no {ROWS}; `hart-lite eval` with the same arguments writes it")
    rows = [read_row(line, f"{folder / ROWS}:{number}") for number, line in _lines(folder / ROWS)]
    if not rows:
        raise HartError(f"{folder / ROWS} is empty; `hart-lite eval` with the same arguments goes on")
    (again, times), *_ = Counter((r["benchmark"], r["mode"], r["id"]) for r in rows).most_common(1)
    if times > 1:
        raise HartError(f"{folder / ROWS}: {times} rows for {' '.join(map(shown, again))}; there should be one")
    rows.sort(key=_place(settings))
    bad = json_lines(folder / BAD_ROWS) if (folder / BAD_ROWS).is_file() else []
    return Evaluation(folder, settings, rows, bad)


def _place(settings: dict) -> Callable[[dict], tuple]:
    """Rows in the order of the settings, whatever order they were answered in: what is drawn at random over them is
    then the same after an interruption."""
    benchmarks, modes = ({name: n for n, name in enumerate(settings.get(key, ()))} for key in ("benchmarks", "modes"))
    last = len(benchmarks) + len(modes)
    return lambda row: (benchmarks.get(row["benchmark"], last), modes.get(row["mode"], last), row["id"])


def boxes_of(row: dict, key: str = "boxes") -> list[Box]:
    """The row's `boxes` or `truth_boxes`."""
    return [Box(*corners[:4], int(corners[4])) for corners in row.get(key) or []]


def json_lines(path: Path) -> list[dict]:
    """The objects of a JSONL file. Raises `HartError` naming the line that is none."""
    return [_json(line, f"{path}:{number}") for number, line in _lines(path)]


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Numbered from 1, as bytes: text would also break at U+2028, which a model may write."""
    return enumerate(path.read_bytes().splitlines(), 1)


def _json(data: bytes, where: str) -> dict:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise HartError(
            f"{where}: not JSON ({error}). A last line that breaks off was interrupted: the command that wrote it goes "
            "on from there"
        ) from error
    if not isinstance(value, dict):
        raise HartError(f"{where}: should be a JSON object, and is {shown(value)}")
    return value


def read_row(line: bytes, where: str) -> dict:
    """One line of `predictions.jsonl`. Raises `HartError` for what is no row: all that is made of rows relies on it."""
    row = _json(line, where)

    def refuse(name: str, needed: str) -> NoReturn:
        found = shown(row[name]) if name in row else "missing"
        raise HartError(f"{where}: {name} is {found}; it should be {needed}")

    for field, kind in _FIELDS.items():
        if not isinstance(row.get(field), kind):
            refuse(field, f"a {kind.__name__}")
    if not isinstance(row.get("answer", 0), str | None):
        refuse("answer", "a str, or null where none could be read")
    if not all(isinstance(choice, str) for choice in row["choices"]):
        refuse("choices", "a list of str")
    if not (isinstance(row.get("counts", {}), dict) and all(map(_is_number, row.get("counts", {}).values()))):
        refuse("counts", "numbers by name")
    turns = row.get("turns", [])
    if not (isinstance(turns, list) and all(map(_is_turn, turns))):
        refuse("turns", "a list of objects, each with a text and numbers of tokens")
    if not isinstance(row.get("truth_boxes") or [], list):
        refuse("truth_boxes", "a list")
    for key in ("boxes", "truth_boxes"):
        for corners in row.get(key) or []:
            if not (isinstance(corners, list) and len(corners) == 5 and all(map(_is_number, corners))):
                raise HartError(f"{where}: {key} holds {shown(corners)}; it should be [x1, y1, x2, y2, image]")
            if not (corners[0] < corners[2] and corners[1] < corners[3]):
                raise HartError(f"{where}: {key} holds {shown(corners)}; x1 should be below x2, and y1 below y2")
    if "grounding" in row:
        found = row["grounding"]
        missing = [name for name in _GROUNDING if not (isinstance(found, dict) and _is_number(found.get(name)))]
        if missing:
            raise HartError(f"{where}: grounding has no number for {', '.join(missing)}: {shown(found)}")
    return row


def _is_turn(turn: object) -> bool:
    if not isinstance(turn, dict) or not isinstance(turn.get("text"), str):
        return False
    return all(turn.get(name) is None or _is_number(turn[name]) for name in ("prompt_tokens", "response_tokens"))


def _is_number(value: object) -> bool:
    """Of a size that can be counted with: JSON has integers that no float holds."""
    return isinstance(value, int | float) and abs(value) < 1e15
