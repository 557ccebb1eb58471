"""The paper's tables 1 to 8 with its rows beside ours, as Markdown and CSV.

Percent where the paper prints percent. Cells without data are blank, and every figure of ours has its interval and n.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hart_lite.errors import HartError
from hart_lite.report.paper_tables import rows as table_rows
from hart_lite.report.paper_tables.published import NUMBERS, TRAINING_DATA, commands, paper_table, provenance
from hart_lite.report.paper_tables.rows import Cell, Column, Row, Source, Value
from hart_lite.utils.markdown import markdown_table, plain

ABOUT = (
    "Rows marked paper are the paper's own, as printed; rows marked ours are measured here: value (95 % interval by "
    "bootstrap over images; n). Figures of different prompts, pixel limits, decoding or graders cannot be compared."
)


@dataclass(frozen=True)
class Table:
    """`notes`: where the paper's figures come from; `settings`: how ours were made; `commands`: {system: shell}."""

    number: int
    caption: str  # as printed
    unit: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...]
    settings: tuple[str, ...]
    commands: dict[str, str]


def table(folders: Sequence[str | Path], number: int) -> Table:
    """One of the paper's tables. `folders` are evaluations and, for table 8, run directories; they may be none.

    Raises `HartError` for another number, and for a folder that is neither.
    """
    return _table([table_rows.source(Path(folder)) for folder in folders], number)


def write_tables(folders: Sequence[str | Path], numbers: Sequence[int] = NUMBERS, out: Path | None = None) -> str:
    """The tables as one Markdown text; with `out`, also as `table1.md`, `table1.csv`, .. in that folder."""
    sources = [table_rows.source(Path(folder)) for folder in folders]
    made = [_table(sources, number) for number in numbers]
    if out is not None:
        try:
            out.mkdir(parents=True, exist_ok=True)
        except FileExistsError:
            raise HartError(f"--out {out} is a file; name a folder for the tables") from None
        for one in made:
            (out / f"table{one.number}.md").write_text(markdown(one), encoding="utf-8")
            (out / f"table{one.number}.csv").write_text(csv_text(one), encoding="utf-8", newline="")
    return "\n".join(markdown(one) for one in made)


def markdown(table: Table) -> str:
    parts = [f"## Table {table.number}", f"{plain(table.caption)} Unit: {plain(table.unit)}.", ABOUT]
    rows = [[row.source, row.group, *(_text(row.cells.get(c.key)) for c in table.columns)] for row in table.rows]
    parts.append(markdown_table(["source", "group", *(column.title for column in table.columns)], rows, words=3))
    lists = [
        ("Provenance", table.notes),
        ("Settings of ours", table.settings),
        ("To run the systems of this table", [f"{plain(k)}: `{v}`" for k, v in table.commands.items()]),
    ]
    parts += [f"**{title}**\n\n" + "\n".join(f"- {item}" for item in items) for title, items in lists if items]
    return "\n\n".join(parts) + "\n"


def csv_text(table: Table) -> str:
    """The same rows for machines: a figure of ours also has its `_low`, `_high` and `_n`."""
    ranged = {c.key for c in table.columns for row in table.rows if isinstance(row.cells.get(c.key), Value)}
    head = ["source", "group"]
    for column in table.columns:
        head += [column.key, *(f"{column.key}_{end}" for end in ("low", "high", "n") if column.key in ranged)]
    text = io.StringIO()
    writer = csv.DictWriter(text, head, restval="", lineterminator="\n")
    writer.writeheader()
    for row in table.rows:
        line: dict[str, object] = {"source": row.source, "group": row.group}
        for column in table.columns:
            cell = row.cells.get(column.key)
            if isinstance(cell, Value):
                ends = {"low": cell.low, "high": cell.high, "n": cell.n}
                line |= {column.key: cell.value, **{f"{column.key}_{k}": v for k, v in ends.items() if v is not None}}
            elif cell is not None:
                line[column.key] = cell
        writer.writerow(line)
    return text.getvalue()


def _table(sources: Sequence[Source], number: int) -> Table:
    paper = paper_table(number)
    columns, rows, settings = table_rows.rows(number, paper, sources)
    notes = [plain(note) for note in provenance(number)]
    if not settings and not any(row.source == "ours" for row in rows):
        notes.insert(0, "None of the given folders has figures for this table.")
    if any("hart-lite train" in command for command in commands(number).values()):
        notes.append(TRAINING_DATA)
    return Table(
        number,
        paper["caption"],
        paper["unit"],
        tuple(columns),
        tuple(rows),
        tuple(notes),
        tuple(settings),
        commands(number),
    )


def _text(cell: Cell) -> str:
    if isinstance(cell, Value):
        inside = [] if cell.low is None else [f"{_text(cell.low)}-{_text(cell.high)}"]
        return f"{_text(cell.value)} ({'; '.join([*inside, f'n {cell.n:,}'])})"
    if isinstance(cell, bool):
        return "✓" if cell else "✗"
    if isinstance(cell, float):
        return f"{cell:,.1f}"
    if isinstance(cell, int):
        return f"{cell:,}"
    return cell or ""
