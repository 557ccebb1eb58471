"""Data set formats: JSONL, parquet, Hub data sets and the MME-RealWorld JSON, all read as rows with the same fields.

A row that cannot be read is a `Row` with a `problem`, so that one bad line does not hide the next.
"""

from __future__ import annotations

import base64
import binascii
import difflib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hart_lite.data.images import ImageBytes, content_key
from hart_lite.errors import DataError

if TYPE_CHECKING:
    import datasets
    from PIL import Image

FIELDS = ("id", "image", "images", "question", "choices", "answer", "boxes", "category")
FORMATS = ("auto", "jsonl", "parquet", "hub", "mme_realworld")

Source = str | Path | Sequence[str | Path]

_HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
MAX_PATH = 4096  # longer text is no path: base64, then
_BATCH = 16  # rows held at once while a table is read: their images are in them
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


@dataclass(frozen=True)
class ImageCell:
    """An encoded image in a memory-mapped table, read from it when needed: a set may be larger than memory."""

    table: datasets.Dataset = field(repr=False, compare=False)
    row: int
    column: str
    item: int | None  # position in a column of lists
    key: str
    name: str

    def load(self) -> Image.Image:
        return self._image().load()

    def size(self) -> tuple[int, int]:
        return self._image().size()

    def checked_size(self) -> tuple[int, int]:
        return self._image().checked_size()

    def encoded(self) -> bytes:
        return self._image().data

    def _image(self) -> ImageBytes:
        value = self.table[self.row].column(self.column)[0].as_py()
        return ImageBytes(encoded(value if self.item is None else value[self.item]), self.name)


def read_rows(
    source: Source,
    *,
    format: str = "auto",
    columns: Mapping[str, str] | None = None,
    split: str | None = None,
    image_dir: str | Path | None = None,
    fields: Sequence[str] = FIELDS,
) -> Iterator[Row]:
    """The rows of a data set (arguments as `data.load_examples`). Raises `DataError` if there is no such set.

    `fields` are the columns that are read of a table without `columns`: ours, or those of another layout.
    """
    if format not in FORMATS:
        raise DataError(f"Unknown data format {format!r}; allowed: {', '.join(FORMATS)}")
    if format == "auto":
        format = _guess_format(source)
    if format in ("jsonl", "mme_realworld"):
        if columns or split:
            raise DataError(f"{source}: `columns` and `split` are for parquet and Hub data sets, not for {format}")
        path = Path(source)
        read = _read_jsonl if format == "jsonl" else read_mme_realworld
        return read(path, Path(image_dir) if image_dir else path.parent)
    return _read_table(source, format, columns or {}, split, image_dir, fields)


def _guess_format(source: Source) -> str:
    if not isinstance(source, str | Path):
        return "parquet"
    path = Path(source)
    if path.suffix in (".jsonl", ".parquet"):
        return path.suffix[1:]
    if path.is_dir():
        return "parquet"
    if not path.exists() and _HUB_NAME.fullmatch(str(source)):
        return "hub"
    if path.exists():
        raise DataError(f"{source}: the name does not tell the format; set format to one of {', '.join(FORMATS[1:])}")
    raise DataError(
        f"{source}: no such data set; give a .jsonl file, a .parquet file or folder, or a Hub name (owner/name)"
    )


def read_bytes(path: Path) -> bytes:
    """Raises `DataError` naming the file."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error


def _read_jsonl(path: Path, folder: Path) -> Iterator[Row]:
    for number, line in enumerate(read_bytes(path).removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        if not line.strip():
            continue
        row = (f"{path}:{number}", str(number), folder)
        try:
            fields = parse_json(line)
        except (ValueError, RecursionError) as error:  # bad UTF-8 is a ValueError too
            yield Row(*row, problem=f"not JSON: {error}")
            continue
        if isinstance(fields, dict):
            yield Row(*row, fields)
        else:
            yield Row(*row, problem=f"a row is a JSON object with the fields {', '.join(FIELDS)}, not {line[:40]!r}")


def parse_json(data: bytes) -> Any:
    """JSON in UTF-8. Half a surrogate pair, which JSON can spell and no file name or tokenizer can hold, is refused."""
    value = json.loads(data.decode())
    json.dumps(value, ensure_ascii=False).encode()
    return value


def read_mme_realworld(path: Path, folder: Path) -> Iterator[Row]:
    """The official JSON of MME-RealWorld, full or Lite. The category is Task/Subtask, as scores are reported."""
    try:
        rows = parse_json(read_bytes(path))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not JSON: {error}") from error
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


def _read_table(
    source: Source,
    format: str,
    columns: Mapping[str, str],
    split: str | None,
    image_dir: str | Path | None,
    fields: Sequence[str],
) -> Iterator[Row]:
    table = open_table(source, format, split)
    single, title = isinstance(source, str | Path), _title(source)
    names = _column_names(title, columns, table.column_names, fields)
    table = table.select_columns(sorted(set(names.values()))).with_format("arrow")  # arrow: images stay encoded
    if image_dir is None and format == "parquet":
        first = Path(source if single else source[0])
        image_dir = first if first.is_dir() else first.parent
    folder = Path(image_dir or ".")
    inside = _hub_folders(str(source), image_dir) if format == "hub" else ()
    for start in range(0, len(table), _BATCH):
        for index, values in enumerate(table[start : start + _BATCH].to_pylist(), start):
            where = f"{title}[{index}]"
            found = {ours: values[theirs] for ours, theirs in names.items()}
            for ours in ("image", "images"):
                if found.get(ours) is not None:
                    found[ours] = _cell_images(found[ours], (table, index, names[ours]), where, folder)
            yield Row(where, str(index), folder, found, inside=inside)


def _hub_folders(name: str, image_dir: str | Path | None) -> tuple[Path, ...]:
    """Where the images of a Hub data set lie that has them as files: what was downloaded of it, and `image_dir`."""
    import datasets
    from huggingface_hub.constants import HF_HUB_CACHE

    downloaded = Path(HF_HUB_CACHE, f"datasets--{name.replace('/', '--')}")
    given = (Path(image_dir),) if image_dir else ()
    return (*given, downloaded, Path(datasets.config.DOWNLOADED_DATASETS_PATH))


def open_table(source: Source, format: str, split: str | None, config: str | None = None) -> datasets.Dataset:
    """A table of images that stay encoded on disk. `config` names one of several tables of a Hub data set."""
    import datasets

    datasets.logging.set_verbosity(datasets.logging.CRITICAL)  # it would print the error that it raises
    if format == "hub":
        arguments: dict[str, Any] = {"path": str(source)} | ({"name": config} if config else {})
    elif isinstance(source, str | Path) and Path(source).is_dir():
        if not any(Path(source).rglob("*.parquet")):
            raise DataError(f"{source}: the folder holds no .parquet file; for JSONL, name the .jsonl file itself")
        arguments = {"path": "parquet", "data_dir": str(source)}
    else:
        files = [source] if isinstance(source, str | Path) else source
        if not files:
            raise DataError("An empty list of parquet files was given; at least one is needed")
        for file in files:
            if not Path(file).is_file():
                raise DataError(f"{file}: no such parquet file")
        arguments = {"path": "parquet", "data_files": [str(file) for file in files]}
    try:
        found = datasets.load_dataset(**arguments, split=split)
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        raise DataError(f"{_title(source)}: the data set cannot be opened: {error.__cause__ or error}") from error
    if isinstance(found, datasets.Dataset):
        return found
    if len(found) > 1:
        raise DataError(f"{_title(source)}: has several splits; set split to one of {', '.join(found)}")
    return next(iter(found.values()))


def _title(source: Source) -> str:
    if isinstance(source, str | Path):
        return str(source)
    return f"{source[0]} and {len(source) - 1} more" if len(source) > 1 else str(source[0])


def _column_names(
    source: str, columns: Mapping[str, str], available: Sequence[str], fields: Sequence[str]
) -> dict[str, str]:
    """Our field -> their column: what `columns` says and no more; without it, the columns that bear `fields`' names."""
    if not columns:
        names = {name: name for name in fields if name in available}
        if not names:
            raise DataError(f"{source}: none of the columns {', '.join(fields)}; there are: {', '.join(available)}")
        return names
    for ours, theirs in columns.items():
        if ours not in FIELDS:
            raise DataError(f"columns: unknown field {ours!r}{nearest(ours, FIELDS)}; allowed: {', '.join(FIELDS)}")
        if theirs not in available:
            raise DataError(
                f"{source}: no column {theirs!r} (for {ours!r}){nearest(theirs, available)}; "
                f"there are: {', '.join(available)}"
            )
    return dict(columns)


def nearest(name: str, known: Sequence[str]) -> str:
    """' (did you mean ..?)' for a name close to a known one, else nothing."""
    close = difflib.get_close_matches(name, known, n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def _cell_images(value: Any, cell: tuple, where: str, folder: Path) -> Any:
    """Encoded images as `ImageCell`; paths, and what is no image, are left for the check of the row."""
    if isinstance(value, list):
        return [_cell_image(item, (*cell, i), where, folder) for i, item in enumerate(value)]
    return _cell_image(value, (*cell, None), where, folder)


def _cell_image(value: Any, cell: tuple, where: str, folder: Path) -> Any:
    if isinstance(value, dict) and not value.get("bytes"):
        return value.get("path")
    if isinstance(value, str) and len(value) < MAX_PATH and (folder / value).is_file():
        return value
    data = encoded(value)
    return value if data is None else ImageCell(*cell, content_key(data), f"{where} image")


def encoded(value: Any) -> bytes | None:
    """The bytes of an image cell: the Hub's image struct, raw bytes, or base64 text (also as a data URI)."""
    if isinstance(value, dict):
        value = value["bytes"]
    if isinstance(value, str):
        try:
            return base64.b64decode("".join(value.rpartition("base64,")[2].split()), validate=True)
        except (binascii.Error, ValueError):
            return None
    return value if isinstance(value, bytes) else None
