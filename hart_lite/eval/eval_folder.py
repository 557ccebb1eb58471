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

from hart_lite.errors import HartError
from hart_lite.eval.benchmarks.base import BadRow
from hart_lite.eval.results import read_row
from hart_lite.utils.files import write_whole
from hart_lite.utils.locks import LOCK, FolderLock
from hart_lite.utils.text import shown

_BEGUN = {LOCK, "eval.json.part", "predictions.jsonl"}  # all that a kill leaves before the settings are written
Key = tuple[str, str, str]  # benchmark, mode, id


def key_of(row: dict) -> Key:
    return row["benchmark"], row["mode"], row["id"]


class EvalFolder:
    """Held by one process at a time, as long as it is open: two that write would ask everything twice."""

    def __init__(self, folder: Path, settings: dict) -> None:
        """Begin an evaluation, or go on with the one in `folder`. Raises `HartError` where that has other settings, or
        another process is writing there.

        Versions of libraries may differ: they are as the evaluation began.
        """
        self.folder, self.settings = folder, settings
        self.predictions = folder / "predictions.jsonl"
        saved = folder / "eval.json"
        if not saved.is_file() and folder.exists() and not _is_free(folder):
            raise HartError(f"{folder} is not empty and holds no evaluation; choose another place with --out")
        folder.mkdir(parents=True, exist_ok=True)
        self._held = FolderLock(folder, "evaluating", "wait for it, stop it, or choose another place with --out")
        try:
            self.predictions.touch()
            if saved.is_file():
                _check_same(saved, settings)
            else:
                write_whole(saved, json.dumps(settings, indent=2) + "\n")
        except BaseException:
            self._held.close()
            raise

    def __enter__(self) -> EvalFolder:
        return self

    def __exit__(self, *error: object) -> None:
        self._held.close()

    def rows(self) -> list[dict]:
        """What is answered already. A last line that a kill tore off is dropped from the file: it will be redone."""
        data = self.predictions.read_bytes()
        whole = data.rfind(b"\n") + 1
        if whole < len(data):
            with self.predictions.open("r+b") as file:
                file.truncate(whole)
        out: dict[Key, dict] = {}
        for number, line in enumerate(data[:whole].splitlines(), start=1):
            where = f"{self.predictions}:{number}"
            try:
                row = read_row(line, where)
            except HartError as error:
                raise HartError(f"{where} is damaged; take the line out and run again to redo it ({error})") from error
            if key_of(row) in out:
                raise HartError(f"{where} answers a question that a line before it answers; take one of the two out")
            out[key_of(row)] = row
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


def _is_free(folder: Path) -> bool:
    """Whether a folder holds nothing, or no more than an evaluation that was killed before it began."""
    if not folder.is_dir():
        return False
    found = list(folder.iterdir())
    return {path.name for path in found} <= _BEGUN and not any(
        p.name == "predictions.jsonl" and p.stat().st_size for p in found
    )


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
