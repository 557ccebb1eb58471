"""The folder of an evaluation: settings that may not change, predictions that stream, rows that could not be asked.

EVAL/eval.json           every setting, and what the rows and the model were
EVAL/predictions.jsonl   one row for each benchmark, mode and question, as soon as it is answered
EVAL/bad_rows.jsonl      rows that could not be asked, and why
EVAL/summary.json, .md   the metrics
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hart_lite.errors import DataError
from hart_lite.eval.benchmarks.base import BadRow
from hart_lite.eval.prediction import Key, Prediction, read_prediction
from hart_lite.utils.files import LOCK, FolderLock, write_whole
from hart_lite.utils.jsonl import append_jsonl, read_jsonl, read_object, write_jsonl
from hart_lite.utils.text import shown

SETTINGS = "eval.json"
PREDICTIONS = "predictions.jsonl"
BAD_ROWS = "bad_rows.jsonl"
SUMMARY = "summary.json"
_BEGUN = {LOCK, f"{SETTINGS}.part", PREDICTIONS}  # all that a kill leaves before the settings are written


@dataclass(frozen=True)
class Evaluation:
    """`bad_rows` are the rows of the benchmarks' files that could not be asked."""

    folder: Path
    settings: dict[str, Any]
    rows: list[Prediction]
    bad_rows: list[dict[str, Any]]

    @property
    def model(self) -> str:
        return str(self.settings["model"])

    @property
    def label(self) -> str:
        """The model, and the folder, since one model may be evaluated in several ways."""
        return f"{self.model} ({self.folder})"

    def parts(self) -> dict[str, dict[str, list[Prediction]]]:
        """{benchmark: {mode: rows}}, in the order in which they were asked."""
        out: dict[str, dict[str, list[Prediction]]] = {}
        for row in self.rows:
            out.setdefault(row.benchmark, {}).setdefault(row.mode, []).append(row)
        return out


def is_evaluation(folder: Path) -> bool:
    return (folder / SETTINGS).is_file()


def is_finished(folder: Path) -> bool:
    """Whether every question was asked and the summary is written."""
    return (folder / SUMMARY).is_file()


def read_evaluation(folder: str | Path) -> Evaluation:
    """Raises `DataError` naming file and line for what is missing, broken off, twice there or of another kind."""
    folder = Path(folder)
    if not is_evaluation(folder):
        raise DataError(f"{folder} holds no evaluation (no {SETTINGS}); `hart-lite eval` makes one")
    settings = read_object(folder / SETTINGS)
    if "model" not in settings:
        raise DataError(f"{folder / SETTINGS} does not say which model was evaluated (no 'model')")
    for key in ("benchmarks", "modes"):
        names = settings.get(key, [])
        if not (isinstance(names, dict | list) and all(isinstance(name, str) for name in names)):
            raise DataError(f"{folder / SETTINGS}: {key} is {shown(names)}; it should be a list of names")
    if not (folder / PREDICTIONS).is_file():
        raise DataError(f"{folder} holds no {PREDICTIONS}; `hart-lite eval` with the same arguments writes it")
    rows = [read_prediction(row, f"{folder / PREDICTIONS}:{n}") for n, row in read_jsonl(folder / PREDICTIONS)]
    if not rows:
        raise DataError(f"{folder / PREDICTIONS} is empty; `hart-lite eval` with the same arguments goes on")
    (again, times), *_ = Counter(row.key for row in rows).most_common(1)
    if times > 1:
        raise DataError(f"{folder / PREDICTIONS}: {times} rows for {' '.join(map(shown, again))}; there should be one")
    rows.sort(key=_place(settings))
    bad = [row for _, row in read_jsonl(folder / BAD_ROWS)] if (folder / BAD_ROWS).is_file() else []
    return Evaluation(folder, settings, rows, bad)


def _place(settings: dict) -> Callable[[Prediction], tuple]:
    """Rows in the order of the settings, whatever order they were answered in: what is drawn at random over them is
    then the same after an interruption."""
    benchmarks, modes = ({name: n for n, name in enumerate(settings.get(key, ()))} for key in ("benchmarks", "modes"))
    last = len(benchmarks) + len(modes)
    return lambda row: (benchmarks.get(row.benchmark, last), modes.get(row.mode, last), row.id)


class EvalFolder:
    """Held by one process at a time, as long as it is open: two that write would ask everything twice."""

    def __init__(self, folder: Path, settings: dict) -> None:
        """Begin an evaluation, or go on with the one in `folder`. Raises `DataError` where that has other settings, or
        another process is writing there.

        Versions of libraries may differ: they are as the evaluation began.
        """
        self.folder, self.settings = folder, settings
        self.predictions = folder / PREDICTIONS
        if not is_evaluation(folder) and folder.exists() and not _is_free(folder):
            raise DataError(f"{folder} is not empty and holds no evaluation; choose another place with --out")
        folder.mkdir(parents=True, exist_ok=True)
        self._held = FolderLock(folder, "evaluating", "wait for it, stop it, or choose another place with --out")
        try:
            self.predictions.touch()
            if is_evaluation(folder):
                _check_same(folder / SETTINGS, settings)
            else:
                write_whole(folder / SETTINGS, json.dumps(settings, indent=2) + "\n")
        except BaseException:
            self._held.close()
            raise

    def __enter__(self) -> EvalFolder:
        return self

    def __exit__(self, *error: object) -> None:
        self._held.close()

    def rows(self) -> list[Prediction]:
        """What is answered already. A last line that a kill tore off is dropped from the file: it will be redone."""
        data = self.predictions.read_bytes()
        whole = data.rfind(b"\n") + 1
        if whole < len(data):
            os.truncate(self.predictions, whole)
        out: dict[Key, Prediction] = {}
        try:
            for number, row in read_jsonl(self.predictions):
                prediction = read_prediction(row, f"{self.predictions}:{number}")
                if prediction.key in out:
                    raise DataError(f"{self.predictions}:{number}: answers a question that a line before it answers")
                out[prediction.key] = prediction
        except DataError as error:
            raise DataError(f"{error}. Take the line out and run again to redo it") from error
        return list(out.values())

    def append(self, row: Prediction) -> None:
        """One line, handed to the system before the next question is asked."""
        append_jsonl(self.predictions, row.to_dict())

    def write_bad(self, bad: Sequence[tuple[str, BadRow]]) -> None:
        rows = ({"benchmark": name, "where": row.where, "problem": row.problem} for name, row in bad)
        write_jsonl(self.folder / BAD_ROWS, rows)

    def write_summary(self, summary: dict, text: str) -> None:
        """The JSON last: with it the evaluation is finished."""
        write_whole(self.folder / "summary.md", text)
        write_whole(self.folder / SUMMARY, json.dumps(summary, indent=2) + "\n")


def _is_free(folder: Path) -> bool:
    """Whether a folder holds nothing, or no more than an evaluation that was killed before it began."""
    if not folder.is_dir():
        return False
    found = list(folder.iterdir())
    return {path.name for path in found} <= _BEGUN and not any(
        p.name == PREDICTIONS and p.stat().st_size for p in found
    )


def _check_same(saved: Path, settings: dict) -> None:
    before, now = read_object(saved), json.loads(json.dumps(settings))  # tuples become lists
    names = [name for name in {**before, **now} if name != "versions" and before.get(name) != now.get(name)]
    if names:
        changes = [f"  {name}: {shown(before.get(name))} there, {shown(now.get(name))} now" for name in names]
        raise DataError(
            "\n".join([f"{saved.parent} holds an evaluation with other settings:", *changes])
            + "\nRun with the same settings, or choose another place with --out"
        )
