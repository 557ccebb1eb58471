"""Rows of one's own as a benchmark: `rows=my/rows.jsonl`, in any format that training reads (data/rows.py)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from hart_lite.data.dataset import checked
from hart_lite.data.rows import read_rows
from hart_lite.errors import DataError, HartError
from hart_lite.eval.benchmarks.base import BadRow, Benchmark
from hart_lite.grading import grade
from hart_lite.types import Example


def read(source: str) -> Iterator[Example | BadRow]:
    if not source:
        raise DataError("rows needs a source, such as rows=my/rows.jsonl")
    format = "mme_realworld" if Path(source).suffix == ".json" else "auto"
    for where, result in checked(read_rows(source, format=format)):
        yield BadRow(where, str(result)) if isinstance(result, HartError) else result


BENCHMARK = Benchmark(
    name="rows",
    title="Own rows",
    questions=0,
    licence="yours",
    hub="",
    tables="none",
    overall="micro",
    read=read,
    prompt=None,
    official=lambda text, example: grade(text, example.answer, example.choices),
    faults="none: official is strict",
)
