"""metrics.jsonl, one row for each step of a run: after a resume it goes on where training does."""

from __future__ import annotations

import json
from pathlib import Path

from hart_lite.utils.files import write_whole
from hart_lite.utils.jsonl import read_jsonl


def rewind_metrics(path: Path, stage: str, step: int) -> None:
    """Drop the rows after a step of a stage, which will be written again, and what is no row: the last line of a run
    that was killed, or what a disk made of one."""
    if not path.exists():
        return
    rows = [row for _, row in read_jsonl(path, skip_broken=True) if "stage" in row and isinstance(row.get("step"), int)]
    kept = [row for row in rows if row["stage"] != stage or row["step"] <= step]
    write_whole(path, "".join(json.dumps(row) + "\n" for row in kept))
