"""Rows of one's own as a benchmark: `rows=my/rows.jsonl`, in any format that training reads (data/rows.py)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from hart_lite.data.dataset import checked
from hart_lite.data.rows import is_mme_realworld, read_rows
from hart_lite.errors import DataError, HartError
from hart_lite.eval.benchmarks.base import BadRow, own
from hart_lite.types import Example


def read(source: str, columns: Mapping[str, str] | None = None) -> Iterator[Example | BadRow]:
    """`columns`: our field -> the name it has there, as training's `data.columns`."""
    if not source:
        raise DataError("rows needs a source, such as rows=my/rows.jsonl")
    format = "mme_realworld" if is_mme_realworld(Path(source)) else "auto"
    for where, result in checked(read_rows(source, format=format, columns=columns)):
        yield BadRow(where, str(result)) if isinstance(result, HartError) else result


BENCHMARK = own("rows", "Own rows", "yours", read)
