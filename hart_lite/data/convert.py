"""From other people's layouts to a data set of our rows. Every row that is dropped is counted and named."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from hart_lite.data.dataset import SHOWN, checked, image_source, without_lite
from hart_lite.data.fields import nearest
from hart_lite.data.formats.base import Columns, ImageDir
from hart_lite.data.formats.coco import read_coco
from hart_lite.data.formats.conversations import read_conversations
from hart_lite.data.formats.csv_folder import read_csv_folder
from hart_lite.data.formats.mgpo import read_mgpo
from hart_lite.data.row_box_formats import GIVEN, row_in_pixels
from hart_lite.data.rows import Row, read_rows
from hart_lite.data.writer import ROWS, data_folder
from hart_lite.errors import DataError, HartError
from hart_lite.types import Example
from hart_lite.utils.progress import progress
from hart_lite.utils.text import shown

FORMATS = ("rows", "llava", "sharegpt", "mgpo", "coco", "csv", "mme_realworld")
DROPPED = "dropped.txt"
LONG = 10  # words of an answer that a model will hardly give to the letter

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Conversion:
    source: str
    rows: Path  # the file written
    count: int
    images: int  # distinct ones
    dropped: tuple[str, ...]  # one for each dropped row, starting with where it stood


def convert(
    source: str | Path,
    out: str | Path,
    format: str,
    *,
    image_dir: ImageDir = None,
    split: str | None = None,
    question: str | None = None,
    category_answer: bool = False,
    lite: str | Path | None = None,
    boxes: str | None = None,
    copy_images: bool = False,
    columns: Columns = None,
) -> Conversion:
    """Writes `out`/rows.jsonl, in the README's row format, and `out`/dropped.txt, if there is anything to say in it.

    Layouts by `format`: see `FORMATS`; `rows` are our own, in a JSON list or a table say. `image_dir`: where relative
    image paths start, else beside the file. `split` is of a Hub data set (rows, llava, sharegpt, mgpo), `columns` gives
    a layout's names where they differ, `question` and `category_answer` are of coco (see `read_coco`), `lite` of
    mme_realworld: the Lite benchmark, which is left out. `boxes` of rows, csv and coco: the format of their boxes, one
    of `row_box_formats.GIVEN`; they are written in pixels. Image files are named relative to `out`, with `copy_images`
    copied into it; encoded ones are written there. A row whose image path leaves the folder is dropped.
    Raises `DataError`, and writes nothing, if the source cannot be read or no row of it can be used.
    """
    rows = _rows(str(source), format, image_dir, split, question, category_answer, lite, boxes, columns)
    dropped: list[str] = []
    long_answers = 0
    with data_folder(out, copy_images) as folder:
        for where, result in progress(checked(map(_kept_inside, rows)), desc="converting", unit=" rows", disable=None):
            if isinstance(result, HartError):
                dropped.append(f"{where}: {result}")
            else:
                folder.add(result)
                long_answers += _is_long(result)
        if not folder.count:
            reasons = f"none of {len(dropped)} rows can be used:" + _first(dropped) if dropped else "no rows"
            raise DataError(f"{source}: {reasons}")
        if dropped:
            text = "".join(f"{line}\n" for line in dropped)
            (folder.path / DROPPED).write_text(text, encoding="utf-8")
    if long_answers:
        log.warning(
            "%d of %d answers have no choices and more than %d words: a free answer is right only word for word, so "
            "these questions will hardly ever be rewarded", long_answers, folder.count, LONG
        )  # fmt: skip
    return Conversion(str(source), Path(out, ROWS), folder.count, folder.images, tuple(dropped))


def format_conversion(conversion: Conversion) -> str:
    """What the command prints: what was written, and the first of the dropped rows."""
    rows, dropped = conversion.rows, conversion.dropped
    lines = [f"{rows}: {conversion.count} rows, {conversion.images} images, from {conversion.source}"]
    if dropped:
        lines.append(f"{len(dropped)} dropped, all named in {rows.with_name(DROPPED)}:" + _first(dropped))
    return "\n".join(lines)


def _first(problems: Sequence[str]) -> str:
    more = f"\n  ... and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
    return "".join(f"\n  {problem}" for problem in problems[:SHOWN]) + more


def _kept_inside(row: Row) -> Row:
    """Other people's rows name images of their own folder."""
    return row if row.inside else replace(row, inside=(row.folder,))


def _is_long(example: Example) -> bool:
    return not example.choices and len(example.answer.split()) > LONG


def _rows(
    source: str,
    format: str,
    image_dir: ImageDir,
    split: str | None,
    question: str | None,
    category_answer: bool,
    lite: str | Path | None,
    boxes: str | None,
    columns: Columns,
) -> Iterator[Row]:
    """The rows of a layout, unchecked. Raises `DataError` for an option that is another layout's."""
    if format not in FORMATS:
        raise DataError(f"Unknown layout {format!r}; allowed: {', '.join(FORMATS)}")
    for given, name, formats in (
        (question, "--question", ("coco",)),
        (category_answer, "--category-answer", ("coco",)),
        (lite, "--lite", ("mme_realworld",)),
        (split, "--split", ("rows", "llava", "sharegpt", "mgpo")),
        (columns, "--column", ("rows", "llava", "sharegpt", "mgpo", "csv")),
        (boxes, "--boxes", ("rows", "csv", "coco")),
    ):
        if given and format not in formats:
            raise DataError(f"{name} is for {', '.join(formats)}, not for {format}")
    if boxes is not None and boxes not in GIVEN:
        raise DataError(f"--boxes {shown(boxes)}{nearest(boxes, GIVEN)}; allowed: {', '.join(GIVEN)}")
    if format == "coco":
        return read_coco(source, image_dir, question, category_answer, boxes)
    if format in ("rows", "csv"):
        options = {"image_dir": image_dir, "columns": columns}
        rows = read_csv_folder(source, **options) if format == "csv" else read_rows(source, split=split, **options)
        return rows if boxes is None else (_in_pixels(row, boxes) for row in rows)
    if format == "mme_realworld":
        return _mme_realworld(source, lite, image_dir)
    return (read_mgpo if format == "mgpo" else read_conversations)(source, split, image_dir, columns)


def _in_pixels(row: Row, boxes: str) -> Row:
    """A row whose images cannot be read is left as it is: the check of rows says why."""
    fields = row.fields
    values = [fields["image"]] if fields.get("image") is not None else fields.get("images")
    try:
        images = [image_source(value, row.folder, row.inside or (row.folder,)) for value in values or ()]
        return row_in_pixels(row, boxes, images)
    except HartError:
        return row


def _mme_realworld(source: str, lite: str | Path | None, image_dir: ImageDir) -> Iterator[Row]:
    """The paper's training set; what Lite holds is dropped as any row that cannot be used."""
    if lite is None:
        raise DataError("mme_realworld needs --lite: the JSON of the Lite benchmark, which must not be trained on")
    kept, left_out = without_lite(source, lite, image_dir or Path(source).parent)
    yield from kept
    for row in left_out:
        yield replace(row, problem="in the Lite benchmark, or on one of its images")
