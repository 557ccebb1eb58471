"""Data set formats: JSON, CSV, parquet, Hub data sets and the MME-RealWorld JSON, all read as rows of the same fields.

A row that cannot be read is a `Row` with a `problem`, so that one bad line does not hide the next.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hart_lite.data.csv_files import CsvFile
from hart_lite.data.fields import FIELDS, FieldNames
from hart_lite.data.images import ImageBytes
from hart_lite.data.json_files import json_entries, read_json
from hart_lite.data.tables import Source, cell_images, image_bytes, open_table, table_rows, title
from hart_lite.data.values import literal
from hart_lite.errors import DataError
from hart_lite.utils.text import shown

FORMATS = ("auto", "jsonl", "parquet", "hub", "mme_realworld")

_HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
_TEXTS = (".jsonl", ".json", ".ndjson")
_CSV = (".csv", ".tsv")
_MME_FIELDS = {"id": "Question_id", "image": "Image", "question": "Text", "choices": "Answer choices",
               "answer": "Ground truth"}  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One row as found: `fields` by the names in `FIELDS`, unchecked; `folder` is where relative image paths start.

    `inside`: of a data set that somebody else wrote, the folders that image paths may lead into; empty: any.
    """

    where: str  # "train.jsonl:7" for a line, "shard.parquet[6]" for an index
    default_id: str
    folder: Path
    fields: Mapping[str, Any] = field(default_factory=dict)
    problem: str = ""
    inside: tuple[Path, ...] = ()


def read_rows(
    source: Source,
    *,
    format: str = "auto",
    columns: Mapping[str, str] | None = None,
    split: str | None = None,
    image_dir: str | Path | None = None,
    fields: Sequence[str] = FIELDS,
    others: bool = False,
) -> Iterator[Row]:
    """The rows of a data set (arguments as `data.load_examples`). Raises `DataError` if there is no such set.

    `fields` are the names that are read without `columns`: ours, or with `others` those of another tool's layout.
    """
    if format not in FORMATS:
        raise DataError(f"Unknown data format {format!r}; allowed: {', '.join(FORMATS)}")
    if format == "auto":
        format = _guess_format(source)
    names = FieldNames(title(source), fields, columns or {}, others)
    if format in ("parquet", "hub"):
        return _read_table(source, format, split, image_dir, names)
    if split:
        raise DataError(f"{source}: --split {split} (data.split) is for parquet and Hub data sets, not for {format}")
    path = Path(source)
    folder = Path(image_dir) if image_dir else path.parent
    if format == "mme_realworld":
        if columns:
            raise DataError(f"{source}: --column (data.columns) is for rows of your own, not for {format}")
        return read_mme_realworld(path, folder)
    return (read_csv if path.suffix.lower() in _CSV else _read_json)(path, folder, names)


def is_text_file(source: str) -> bool:
    """Whether a source is a JSON or CSV file, by its name."""
    return Path(source).suffix.lower() in (*_TEXTS, *_CSV)


def _guess_format(source: Source) -> str:
    if not isinstance(source, str | Path):
        return "parquet"
    path = Path(source)
    if path.suffix == ".parquet" or path.is_dir():
        return "parquet"
    if is_text_file(str(source)):
        return "jsonl"
    if not path.exists() and _HUB_NAME.fullmatch(str(source)):
        return "hub"
    if path.exists():
        raise DataError(f"{source}: the name does not tell the format; set format to one of {', '.join(FORMATS[1:])}")
    raise DataError(
        f"{source}: no such data set; give a .jsonl, .json or .csv file, a .parquet file or folder, or a Hub name "
        "(owner/name)"
    )


def _read_json(path: Path, folder: Path, names: FieldNames) -> Iterator[Row]:
    for entry in json_entries(path):
        row = (f"{path}{entry.place}", entry.number, folder)
        if entry.problem:
            yield Row(*row, problem=entry.problem)
        elif not isinstance(entry.value, dict):
            fields = "" if names.others else f"; a row is a JSON object with the fields {', '.join(names.known)}"
            yield Row(*row, problem=f"{shown(entry.value)}: an object is needed{fields}")
        else:
            yield _named(row, entry.value, names)
    names.warn()


def _named(row: tuple[str, str, Path], record: Mapping[str, Any], names: FieldNames) -> Row:
    try:
        return Row(*row, names.of(record).fields_of(record))
    except DataError as error:
        return Row(*row, problem=str(error))


def read_csv(path: Path, folder: Path, names: FieldNames) -> Iterator[Row]:
    """Cells are texts: choices are divided by |, lists are spelled as in JSON, images are paths or base64."""
    file = CsvFile(path)
    if not file.columns:
        raise DataError(f"{path}: no columns; its first line has: nothing")
    names.check(file.columns)
    for line, cells in file.rows():
        row = (f"{path}:{line}", str(line), folder)
        if len(cells) > len(file.columns):
            yield Row(*row, problem="more cells than columns; a text with commas needs quotes")
            continue
        record = {name: cell for name, cell in zip(file.columns, cells, strict=False) if cell.strip()}
        found = _named(row, dict.fromkeys(file.columns) | record, names)
        yield Row(*row, _csv_fields(found), found.problem)
    names.warn()


def _csv_fields(row: Row) -> dict[str, Any]:
    fields = {name: value for name, value in row.fields.items() if value is not None}
    choices = fields.get("choices")
    if isinstance(choices, str) and "|" in choices and not choices.lstrip().startswith("["):
        fields["choices"] = choices.split("|")
    for name in ("images", "boxes"):
        if isinstance(value := fields.get(name), str) and isinstance(listed := literal(value), list):
            fields[name] = listed
    for name in ("image", "images"):
        if name in fields:
            fields[name] = in_memory(fields[name], row.where, row.folder)
    return fields


def in_memory(value: Any, where: str, folder: Path) -> Any:
    """Images in base64, a data URI or the Hub's struct as `ImageBytes`; paths, and what is no image, are left for the
    check of the row."""
    if isinstance(value, list):
        return [in_memory(item, where, folder) for item in value]
    if isinstance(value, dict):  # the Hub's image in the turns of a table
        return ImageBytes(value["bytes"], f"{where} image") if value.get("bytes") else value.get("path")
    data = image_bytes(value, folder) if isinstance(value, str) else None
    return value if data is None else ImageBytes(data, f"{where} image")


def read_mme_realworld(path: Path, folder: Path) -> Iterator[Row]:
    """The official JSON of MME-RealWorld, full or Lite. The category is Task/Subtask, as scores are reported."""
    rows = read_json(path)
    if not isinstance(rows, list):
        raise DataError(f"{path}: MME-RealWorld is a JSON list of questions, not {type(rows).__name__}")
    wanted = (*_MME_FIELDS.values(), "Task", "Subtask")
    for index, row in enumerate(rows):
        place = (f"{path}[{index}]", str(index), folder)
        missing = [name for name in wanted if name not in row] if isinstance(row, dict) else wanted
        if missing:
            yield Row(*place, problem=f"not an MME-RealWorld question: no {', '.join(missing)}")
            continue
        fields = {ours: row[theirs] for ours, theirs in _MME_FIELDS.items()}
        yield Row(*place, fields | {"category": f"{row['Task']}/{row['Subtask']}"}, inside=(folder,))


def is_mme_realworld(path: Path) -> bool:
    """Whether a .json file holds MME-RealWorld's questions rather than rows of one's own."""
    if path.suffix != ".json" or not path.is_file():
        return False
    first = next(iter(json_entries(path)), None)
    return first is not None and isinstance(first.value, dict) and {*_MME_FIELDS.values()} <= {*first.value}


def _read_table(
    source: Source, format: str, split: str | None, image_dir: str | Path | None, names: FieldNames
) -> Iterator[Row]:
    table = open_table(source, format, split)
    single, name = isinstance(source, str | Path), title(source)
    names.check(table.column_names)
    known = names.of(table.column_names)
    table = table.select_columns(known.read()).with_format("arrow")  # arrow: images stay encoded
    if image_dir is None and format == "parquet":
        first = Path(source if single else source[0])
        image_dir = first if first.is_dir() else first.parent
    folder = Path(image_dir or ".")
    inside = _hub_folders(str(source), image_dir) if format == "hub" else ()
    for index, values in table_rows(table):
        row = (f"{name}[{index}]", str(index), folder)
        try:
            found = known.fields_of(values)
        except DataError as error:
            yield Row(*row, problem=str(error), inside=inside)
            continue
        for ours in ("image", "images"):
            if found.get(ours) is not None:
                found[ours] = cell_images(found[ours], (table, index, known.fields[ours]), row[0], folder)
        if isinstance(boxes := found.get("boxes"), str) and isinstance(listed := literal(boxes), list):
            found["boxes"] = listed
        yield Row(*row, found, inside=inside)
    names.warn()


def _hub_folders(name: str, image_dir: str | Path | None) -> tuple[Path, ...]:
    """Where the images of a Hub data set lie that has them as files: what was downloaded of it, and `image_dir`."""
    import datasets
    from huggingface_hub.constants import HF_HUB_CACHE

    downloaded = Path(HF_HUB_CACHE, f"datasets--{name.replace('/', '--')}")
    given = (Path(image_dir),) if image_dir else ()
    return (*given, downloaded, Path(datasets.config.DOWNLOADED_DATASETS_PATH))
