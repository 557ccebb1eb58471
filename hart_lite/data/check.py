"""Reads a data set as training would, decodes every image once, and says what is wrong with which row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hart_lite.data.contact_sheet import contact_sheet
from hart_lite.data.dataset import checked
from hart_lite.data.rows import read_rows
from hart_lite.data.tables import Source
from hart_lite.errors import HartError
from hart_lite.types import Example
from hart_lite.utils.progress import progress
from hart_lite.utils.text import cut

SHOWN = 50  # categories in the report, the largest first


@dataclass(frozen=True)
class CheckReport:
    source: str
    good: int  # rows
    problems: tuple[str, ...]  # one per bad row, starting with where it stands
    images: int  # distinct ones, of good rows
    with_boxes: int  # good rows
    categories: Mapping[str, int]  # good rows by category; "" for none

    @property
    def ok(self) -> bool:
        return self.good > 0 and not self.problems


def check_dataset(
    source: Source,
    *,
    format: str = "auto",
    columns: Mapping[str, str] | None = None,
    split: str | None = None,
    image_dir: str | Path | None = None,
    preview: str | Path | None = None,
) -> CheckReport:
    """Checks every row (arguments as `load_examples`) and writes nothing but the contact sheet, if `preview` names one.

    Raises `DataError` when there is no such data set or the sheet cannot be drawn.
    """
    rows = read_rows(source, format=format, columns=columns, split=split, image_dir=image_dir)
    good: list[Example] = []
    problems: list[str] = []
    images: dict[str, str] = {}  # key -> what is wrong with it, "" for nothing
    for where, result in progress(checked(rows), desc="checking", unit=" rows", disable=None):
        problem = str(result) if isinstance(result, HartError) else _decode(result, images)
        if problem:
            problems.append(f"{where}: {problem}")
        else:
            good.append(result)
    if preview is not None and good:
        contact_sheet(good, preview)
    return CheckReport(
        source=str(source),
        good=len(good),
        problems=tuple(problems),
        images=len({image.key for example in good for image in example.images}),
        with_boxes=sum(bool(example.boxes) for example in good),
        categories=dict(Counter(example.category for example in good).most_common()),
    )


def _decode(example: Example, images: dict[str, str]) -> str:
    """Decodes the images not seen before; the first problem of the example, "" if there is none."""
    for image in example.images:
        if image.key not in images:
            try:
                image.load()
                images[image.key] = ""
            except HartError as error:
                images[image.key] = str(error)
        if images[image.key]:
            return images[image.key]
    return ""


def format_report(report: CheckReport) -> str:
    """The report as the command prints it: every bad row, then the counts."""
    lines = list(report.problems)
    total = report.good + len(report.problems)
    lines.append(f"{report.source}: {report.good} of {total} rows are good" if total else f"{report.source}: no rows")
    lines.append(f"images: {report.images}, rows with boxes: {report.with_boxes}")
    if any(report.categories):
        largest = list(report.categories.items())[:SHOWN]
        more = f", and {len(report.categories) - SHOWN} more" if len(report.categories) > SHOWN else ""
        lines.append("categories: " + ", ".join(f"{cut(name) or '(none)'} {n}" for name, n in largest) + more)
    return "\n".join(lines)
