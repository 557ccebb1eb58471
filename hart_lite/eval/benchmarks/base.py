"""What a benchmark is: rows from its official files, its prompt, its scorer, and the paper's sub-tasks.

One module for each benchmark defines its `Benchmark`; `registry` lists them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from hart_lite.grading import grade
from hart_lite.types import Example


@dataclass(frozen=True)
class BadRow:
    """A row that cannot be asked: where it stands ("TreeBench.tsv:17"), and why."""

    where: str
    problem: str


@dataclass(frozen=True)
class Benchmark:
    """`read(source)` gives the rows of the official files (a local file or folder, or the Hub id when there is none).

    An `Example`'s `category` is the paper's sub-task as `Task/Subtask` ("Perception/OCR") or one name; its images' keys
    are the clusters of the bootstrap; its boxes are original pixels, xyxy.
    """

    name: str  # as on the command line: "vstar"
    title: str
    questions: int  # rows of the official files
    licence: str
    hub: str  # data set id
    tables: str  # where in the paper its figures stand, and what is known of where they come from
    overall: Literal["micro", "macro"]  # the aggregate that the benchmark itself reports
    read: Callable[..., Iterator[Example | BadRow]]  # (source); rows of one's own: (source, columns)
    prompt: Callable[[Example], str] | None  # the official words after the image, for one turn; None: the recipe's
    official: Callable[[str, Example], bool]  # the official scorer's word on a response, faults included
    faults: str  # in one line: where `official` is known to differ from what is right


def own(name: str, title: str, licence: str, read: Callable[..., Iterator[Example | BadRow]], **facts) -> Benchmark:
    """Questions without a published protocol: the recipe's prompt, and `official` is the one grader."""
    return Benchmark(
        name=name,
        title=title,
        licence=licence,
        read=read,
        hub="",
        overall="micro",
        prompt=None,
        official=lambda text, example: grade(text, example.answer, example.choices),
        faults="none: official is strict",
        **{"questions": 0, "tables": "none"} | facts,
    )
