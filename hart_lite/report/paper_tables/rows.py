"""The columns and rows of the paper's tables: theirs as printed, ours from evaluations and runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from hart_lite.errors import HartError
from hart_lite.eval.grounding import mutual_information
from hart_lite.eval.metrics import SCORES, answers, grounding_metrics, grounding_rows, joint_metrics, mean
from hart_lite.eval.prediction import Prediction
from hart_lite.eval.results import Evaluation, is_evaluation, read_evaluation
from hart_lite.eval.summary import flat
from hart_lite.report.paper_tables.published import BENCHMARKS, OF_TABLE
from hart_lite.runs.layout import METRICS, read_recipe
from hart_lite.runs.methods import stage_method, trained
from hart_lite.utils.jsonl import read_jsonl
from hart_lite.utils.markdown import plain

OURS = "Ours (hart-lite)"
MIB_IN_GIB = 1024
JOINT = (  # table 1's columns as a joint table: wrong and right box, each with wrong and right answer
    ("incorrect_answer_incorrect_grounding", "correct_answer_incorrect_grounding"),
    ("incorrect_answer_correct_grounding", "correct_answer_correct_grounding"),
)


@dataclass(frozen=True)
class Value:
    """A figure of ours in the unit of its table, with its interval where one can be given."""

    value: float
    n: int
    low: float | None = None
    high: float | None = None


Cell = Value | float | int | bool | str | None


@dataclass(frozen=True)
class Column:
    key: str
    title: str


@dataclass(frozen=True)
class Row:
    source: str  # "paper" or "ours"
    group: str
    cells: dict[str, Cell]


@dataclass(frozen=True)
class Source:
    """One folder that tables are made from: an evaluation, a run directory, or both."""

    folder: Path
    evaluation: Evaluation | None

    @property
    def label(self) -> str:
        return self.evaluation.label if self.evaluation else str(self.folder)


def source(folder: Path) -> Source:
    if is_evaluation(folder):
        return Source(folder, read_evaluation(folder))
    if (folder / METRICS).is_file():
        return Source(folder, None)
    raise HartError(f"{folder} is neither an evaluation (eval.json) nor a run directory ({METRICS})")


def rows(number: int, paper: dict, sources: Sequence[Source]) -> tuple[list[Column], list[Row], list[str]]:
    """(columns, the paper's rows and then ours, the settings of those evaluations that gave any)."""
    columns = [Column(c["key"], _title(c)) for c in paper["columns"]]
    theirs = [
        Row("paper", row.get("group") or "", {c.key: _k(row[c.key]) if c.key == "k" else row[c.key] for c in columns})
        for row in paper["rows"]
    ]
    if number == 4:
        columns, theirs, used = _other_benchmarks(columns, theirs, sources)
        return columns, theirs, used
    if number == 1:
        columns.append(Column("bits", "I(L;R) in bits (added)"))
        theirs = [Row(r.source, r.group, r.cells | {"bits": _bits(r.cells)}) for r in theirs]
    if number in (2, 3):
        columns.append(Column("macro", "Macro (added: mean of the sub-tasks)"))
        theirs = [Row(r.source, r.group, r.cells | {"macro": _macro(r.cells, columns)}) for r in theirs]
    make = {1: _joint, 2: _sub_tasks, 3: _sub_tasks, 5: _tasks, 6: _grounding, 7: _tasks, 8: _cost}[number]
    ours, used = [], []
    for one in sources:
        found = list(make(number, columns, one))
        ours += [Row("ours", OURS, cells) for cells in found]
        used += _settings(one) if found else []
    return columns, theirs + ours, used


def _title(column: dict) -> str:
    n = f" (n {column['n']:,})" if "n" in column else ""
    unit = f" ({column['unit']})" if "unit" in column else ""
    return " ".join(filter(None, [column.get("group"), column["label"]])) + n + unit


def _bits(cells: dict[str, Cell]) -> str:
    """Of the counts in a row of table 1."""
    return f"{mutual_information([[cells[key] for key in keys] for keys in JOINT]):.5f}"


def _macro(cells: dict[str, Cell], columns: Sequence[Column]) -> float:
    """Of a row as printed; computed, not the paper's own figure."""
    return round(fmean(cells[c.key] for c in columns if isinstance(cells.get(c.key), float) and c.key != "overall"), 2)


# -- ours ------------------------------------------------------------------------------------------------------


def _joint(number: int, columns: Sequence[Column], one: Source) -> Iterator[dict[str, Cell]]:
    """Of every benchmark with boxes; the paper's is Visual-CoT."""
    for name, mode, part, modes in _parts(one):
        looked = grounding_rows(mode, modes)
        pairs = [(row, looked[row.id]) for row in part if row.id in looked]
        if not pairs:
            continue
        found = joint_metrics([row.strict for row, _ in pairs], [other for _, other in pairs])
        how = trained(one.evaluation.model)
        cells: dict[str, Cell] = {"method": f"{one.label}, {mode}, {name}", "hart": how.hart if how else None}
        for keys, counts in zip(JOINT, found["counts"], strict=True):
            cells |= dict(zip(keys, counts, strict=True))
        cells["incorrect_grounding_given_correct_answer_pct"] = _percent(found["wrong_box_given_right"])
        yield cells | {"bits": _bits(cells)}


def _sub_tasks(number: int, columns: Sequence[Column], one: Source) -> Iterator[dict[str, Cell]]:
    keys = {column.key for column in columns}
    for _, mode, part, _ in _parts(one, *OF_TABLE[number]):
        for title, score in _verdicts(part):
            found = answers(part, score)
            cells: dict[str, Cell] = {"method": f"{one.label}, {mode}{title}"}
            for category, share in found["categories"].items():
                slugs = [_slug(category), _slug(category.rpartition("/")[2])]
                cells |= {slug: _percent(share) for slug in slugs if slug in keys}
            yield cells | {"overall": _percent(found["micro"]), "macro": _percent(found["macro"])}


def _tasks(number: int, columns: Sequence[Column], one: Source) -> Iterator[dict[str, Cell]]:
    """Perception and reasoning of both benchmarks, one row for each mode and scorer."""
    lines: dict[tuple[str, str], dict[str, Cell]] = {}
    how = trained(one.evaluation.model) if one.evaluation else None
    for benchmark in OF_TABLE[number]:
        for _, mode, part, _ in _parts(one, benchmark):
            for title, score in _verdicts(part):
                method = f"{one.label}, {mode}{title}"
                if number == 7 and how:
                    method = f"{how.method} ({method})"
                known = {"hart": how.hart, "k": _k(how.k)} if how else {}
                cells = lines.setdefault((mode, title), {"method": method, **known})
                found = answers(part, score)["tasks"]
                cells |= {f"{benchmark}_{_slug(task)}": _percent(share) for task, share in found.items()}
    yield from lines.values()


def _grounding(number: int, columns: list[Column], one: Source) -> Iterator[dict[str, Cell]]:
    """Both readings of the paper's metric, and beside it what a large box cannot win."""
    lines: dict[tuple[str, str], dict[str, Cell]] = {}
    for name, mode, part, _ in _parts(one):
        part = [row for row in part if row.grounding]
        if not part or (mode == "full" and not any(row.boxes for row in part)):
            continue
        key = next((key for key, other in BENCHMARKS.items() if other == name), _slug(name))
        for end, title in {
            "incorrect": "Incorrect (↓)",
            "correct": "Correct (↑)",
            "iou": "mean IoU",
            "coverage": "coverage",
        }.items():
            if f"{key}_{end}" not in {column.key for column in columns}:
                columns.append(Column(f"{key}_{end}", f"{name} {title} (added)"))
        found = grounding_metrics(part)
        for reading, share in (("per box", found["grounded_per_target"]), ("any target", found["grounded"])):
            cells = lines.setdefault((mode, reading), {"method": f"{one.label}, {mode}, {reading}"})
            cells |= {
                f"{key}_correct": _percent(share),
                f"{key}_incorrect": _percent(_complement(share)),
                f"{key}_iou": _percent(found["mean_iou"]),
                f"{key}_coverage": _percent(found["coverage"]),
            }
    yield from lines.values()


def _cost(number: int, columns: Sequence[Column], one: Source) -> Iterator[dict[str, Cell]]:
    """Peak memory and mean seconds of the steps of every RL stage; supervised stages do not measure them."""
    path = one.folder / METRICS
    if not path.is_file():
        return
    recipe = read_recipe(one.folder)
    steps: dict[str, list[dict]] = {}
    for _, step in read_jsonl(path):
        if "peak_memory_gib" in step:
            steps.setdefault(step["stage"], []).append(step)
    for stage, measured in steps.items():
        name = stage_method(recipe, recipe.stages[int(stage.partition("-")[0]) - 1])
        seconds = [sum(v for key, v in step.items() if key.startswith("seconds_")) for step in measured]
        time = mean(seconds, [str(n) for n in range(len(seconds))])
        peak = max(step["peak_memory_gib"] for step in measured) * MIB_IN_GIB
        where = "memory of the process on CPU" if recipe.model.device == "cpu" else recipe.model.device
        yield {
            "method": f"{name} ({one.folder}, {stage}; {recipe.model.base}, {where})",
            "gpu_mib": Value(round(peak), len(measured)),
            "time_s_per_step": Value(time["value"], time["n"], time["low"], time["high"]),
        }


def _other_benchmarks(
    columns: list[Column], theirs: list[Row], sources: Sequence[Source]
) -> tuple[list[Column], list[Row], list[str]]:
    """Table 4 has a column for each system: ours come behind the paper's."""
    columns = [*columns[:2], *(Column(c.key, f"{c.title} (paper)") for c in columns[2:])]
    used: list[str] = []
    for number, one in enumerate(sources):
        found: dict[str, dict[str, Cell]] = {}
        for row, benchmark in zip(theirs, OF_TABLE[4], strict=True):
            for _, mode, part, _ in _parts(one, benchmark):
                for title, score in _verdicts(part):
                    key = _slug(f"ours {number} {mode}{title}")
                    found.setdefault(key, {"title": f"{one.label}, {mode}{title} (ours)"})
                    row.cells[key] = _percent(answers(part, score)["micro"])
        columns += [Column(key, str(cells["title"])) for key, cells in found.items()]
        used += _settings(one) if found else []
    return columns, theirs, used


def _parts(one: Source, *benchmarks: str) -> Iterator[tuple[str, str, list[Prediction], dict[str, list[Prediction]]]]:
    """(benchmark, mode, its rows, the benchmark's rows in all modes), of these benchmarks or of all."""
    wanted = {BENCHMARKS[key] for key in benchmarks}
    for name, modes in one.evaluation.parts().items() if one.evaluation else ():
        if not wanted or name in wanted:
            for mode, part in modes.items():
                yield name, mode, part, modes


def _verdicts(part: Sequence[Prediction]) -> Iterator[tuple[str, str]]:
    """(what the row's title says, score): the strict one, and the official one where it judges otherwise."""
    yield "", SCORES[0]
    if any(row.strict != row.official for row in part):
        yield ", official scorer", SCORES[1]


def _k(k: float | None) -> str | None:
    """As the paper prints it; figures have one decimal."""
    return None if k is None else f"{k:.2f}"


def _percent(share: dict | None) -> Value | None:
    if share is None:
        return None
    ends = [None if share[end] is None else 100 * share[end] for end in ("low", "high")]
    return Value(100 * share["value"], share["n"], *ends)


def _complement(share: dict) -> dict:
    known = share["low"] is not None
    low, high = (1 - share["high"], 1 - share["low"]) if known else (None, None)
    return {"value": 1 - share["value"], "low": low, "high": high, "n": share["n"]}


def _slug(name: str) -> str:
    return "_".join("".join(c if c.isalnum() else " " for c in name.lower()).split())


def _settings(one: Source) -> list[str]:
    if one.evaluation is None:
        return []
    kept = {key: value for key, value in one.evaluation.settings.items() if key not in ("model", "modes")}
    return [f"{plain(one.label)}: " + ", ".join(f"{key} {plain(str(value))}" for key, value in flat(kept).items())]
