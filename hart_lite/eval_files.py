"""The folder of an evaluation: settings that may not change, predictions that stream, rows that could not be asked.

EVAL/eval.json           every setting, and what the rows and the model were
EVAL/predictions.jsonl   one row for each benchmark, mode and question, as soon as it is answered
EVAL/bad_rows.jsonl      rows that could not be asked, and why
EVAL/summary.json, .md   the figures
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from hart_lite.benchmarks.base import BadRow
from hart_lite.files import write_whole
from hart_lite.types import HartError, shown

Key = tuple[str, str, str]  # benchmark, mode, id


def key_of(row: dict) -> Key:
    return row["benchmark"], row["mode"], row["id"]


class EvalFolder:
    def __init__(self, folder: Path, settings: dict) -> None:
        """Begin an evaluation, or go on with the one in `folder`. Raises `HartError` where that has other settings.

        Versions of libraries may differ: they are as the evaluation began.
        """
        self.folder, self.settings = folder, settings
        self.predictions = folder / "predictions.jsonl"
        saved = folder / "eval.json"
        if saved.is_file():
            _check_same(saved, settings)
        elif folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise HartError(f"{folder} is not empty and holds no evaluation; choose another place with --out")
        else:
            folder.mkdir(parents=True, exist_ok=True)
            write_whole(saved, json.dumps(settings, indent=2) + "\n")

    def rows(self) -> list[dict]:
        """What is answered already. A last line that a kill tore off is dropped from the file: it will be redone."""
        if not self.predictions.exists():
            return []
        data = self.predictions.read_bytes()
        whole = data.rfind(b"\n") + 1
        if whole < len(data):
            with self.predictions.open("r+b") as file:
                file.truncate(whole)
        out: dict[Key, dict] = {}
        for number, line in enumerate(data[:whole].splitlines(), start=1):
            try:
                row = json.loads(line)
                out[key_of(row)] = row
            except (ValueError, RecursionError, KeyError, TypeError) as error:
                raise HartError(
                    f"{self.predictions}:{number} is damaged; take the line out and run again to redo it"
                ) from error
        return list(out.values())

    def append(self, row: dict) -> None:
        """One line, on its way to the disk before the next question is asked."""
        with self.predictions.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")

    def write_bad(self, bad: Sequence[tuple[str, BadRow]]) -> None:
        rows = ({"benchmark": name, "where": row.where, "problem": row.problem} for name, row in bad)
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        write_whole(self.folder / "bad_rows.jsonl", lines)

    def write_summary(self, summary: dict, text: str) -> None:
        write_whole(self.folder / "summary.json", json.dumps(summary, indent=2) + "\n")
        write_whole(self.folder / "summary.md", text)


def _check_same(saved: Path, settings: dict) -> None:
    try:
        before = json.loads(saved.read_text(encoding="utf-8"))
    except ValueError as error:
        raise HartError(f"{saved} is damaged: {error}; choose another place with --out") from error
    now = json.loads(json.dumps(settings))  # tuples become lists
    names = [name for name in {**before, **now} if name != "versions" and before.get(name) != now.get(name)]
    if names:
        changes = [f"  {name}: {shown(before.get(name))} there, {shown(now.get(name))} now" for name in names]
        raise HartError(
            "\n".join([f"{saved.parent} holds an evaluation with other settings:", *changes])
            + "\nRun with the same settings, or choose another place with --out"
        )
