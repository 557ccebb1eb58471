"""The held-out questions of a training run: `held-out=RUN`. Training evaluates on them before, during and after."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from hart_lite.errors import DataError
from hart_lite.eval.benchmarks.base import BadRow, own
from hart_lite.runs.layout import read_recipe
from hart_lite.runs.splits import held_out_examples
from hart_lite.types import Example


def read(source: str) -> Iterator[Example | BadRow]:
    if not source:
        raise DataError("held-out needs the directory of a run, such as held-out=runs/tiny_cpu")
    yield from held_out_examples(read_recipe(Path(source)))


BENCHMARK = own("held-out", "Held-out questions of a run", "that of the data", read)
