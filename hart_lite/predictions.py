"""An evaluation, read back from its folder: `eval.json` says how it was made, `predictions.jsonl` holds its rows.

One row for each benchmark, mode and question; boxes are original pixels, [x1, y1, x2, y2, image].
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hart_lite.types import Box, HartError, shown

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
    if not (folder / ROWS).is_file():
        raise HartError(f"{folder} holds no {ROWS}; `hart-lite eval` with the same arguments writes it")
    rows = json_lines(folder / ROWS)
    for number, row in enumerate(rows, 1):
        _check(row, f"{folder / ROWS}:{number}")
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
    benchmarks, modes = ({name: n for n, name in enumerate(settings.get(key) or ())} for key in ("benchmarks", "modes"))
    last = len(benchmarks) + len(modes)
    return lambda row: (benchmarks.get(row["benchmark"], last), modes.get(row["mode"], last), row["id"])


def boxes_of(row: dict, key: str = "boxes") -> list[Box]:
    """The row's `boxes` or `truth_boxes`."""
    return [Box(*corners[:4], int(corners[4])) for corners in row.get(key) or []]


def json_lines(path: Path) -> list[dict]:
    """The objects of a JSONL file. Raises `HartError` naming the line that is none."""
    lines = path.read_bytes().splitlines()  # bytes: text would also break at U+2028, which a model may write
    return [_json(line, f"{path}:{number}") for number, line in enumerate(lines, 1)]


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


def _check(row: dict, where: str) -> None:
    for field, kind in _FIELDS.items():
        if not isinstance(row.get(field), kind):
            raise HartError(f"{where}: {field} is {shown(row.get(field))}; it should be a {kind.__name__}")
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


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
