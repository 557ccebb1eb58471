"""The figures of one benchmark in one mode, from its prediction rows. Pure: rows in, numbers out.

Two columns beside each other: `strict` is our grader's word, `official` the official scorer's, faults included.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence

from hart_lite.boxes import iou
from hart_lite.data.options import bracketed, lines
from hart_lite.errors import HartError
from hart_lite.eval.benchmarks.base import Benchmark
from hart_lite.eval.benchmarks.hrbench import cycle
from hart_lite.eval.benchmarks.official_scorers import mme_realworld_letter, treebench_miou
from hart_lite.eval.prediction import Prediction
from hart_lite.utils.text import shown

COLUMNS = ("strict", "official")
_IOU = 0.5  # Visual-CoT, playground/data/eval/REC/calculation.py


def scores(rows: Sequence[Prediction], benchmark: Benchmark) -> dict:
    """Counts and accuracies (0..1; None where there is nothing to count).

    {"benchmark", "mode", "n", "missing", "letters", "unread", "strict": {..}, "official": {..}} where each column has
    n, right, micro, macro (the mean over sub-tasks), and n, right, accuracy for each task and sub-task. `missing` are
    rows of the official files that are not here: bad ones, unanswered ones, or what a filter left out. `letters` says
    how often the grader read each letter and how often it was the right one, `unread` how often it read nothing.
    Beside that: HR-Bench's single, cross, average and cycles; MME-RealWorld's `chose_e`; TreeBench's `miou`;
    Visual-CoT's `box_iou_over_half`.

    Raises `HartError` for rows of another benchmark, of several modes, or with an id that occurs twice.
    """
    _check(rows, benchmark)
    found: dict = {
        "benchmark": benchmark.name,
        "mode": rows[0].mode if rows else None,
        "n": len(rows),
        "missing": max(benchmark.questions - len(rows), 0),
        "letters": _letters(rows),
        "unread": sum(row.answer is None for row in rows),
        **{column: _column(rows, column) for column in COLUMNS},
    }
    if benchmark.name.startswith("hrbench"):
        for column in COLUMNS:
            found[column] |= _cycles(rows, column)
    elif benchmark.name.startswith("mme-realworld"):
        readers: dict[str, Callable[[Prediction], str | None]] = {
            "strict": _strict_letter,
            "official": _official_letter,
        }
        for column, read in readers.items():
            found[column]["chose_e"] = sum(read(row) == "E" for row in rows)
    elif benchmark.name == "treebench":
        found["strict"]["miou"] = _mean(_best_ious(row) for row in rows if row.truth_boxes)
        truths = [[box.xyxy for box in row.truth_boxes] for row in rows]
        found["official"]["miou"] = _mean(treebench_miou(_written(r), t) for r, t in zip(rows, truths, strict=True))
    elif benchmark.name == "visual-cot":
        found["box_iou_over_half"] = _mean(_first_iou(row) > _IOU for row in rows if row.truth_boxes)
    return found


def _check(rows: Sequence[Prediction], benchmark: Benchmark) -> None:
    names = {row.benchmark for row in rows} - {benchmark.name}
    modes = {row.mode for row in rows}
    if names or len(modes) > 1:
        mixed = f"benchmarks {sorted(names)}" if names else f"modes {sorted(modes)}"
        raise HartError(f"scores of {benchmark.name}: rows of {mixed} given; one benchmark in one mode is needed")
    twice = [id for id, count in Counter(row.id for row in rows).items() if count > 1]
    if twice:
        raise HartError(f"scores of {benchmark.name}: {len(twice)} ids occur twice, {shown(twice[0])} among them")


def _column(rows: Sequence[Prediction], column: str) -> dict:
    subtasks, tasks = defaultdict(list), defaultdict(list)
    for row in rows:
        subtasks[row.category].append(getattr(row, column))
        if "/" in row.category:
            tasks[row.category.partition("/")[0]].append(getattr(row, column))
    whole = _counts([getattr(row, column) for row in rows])
    return {
        "n": whole["n"],
        "right": whole["right"],
        "micro": whole["accuracy"],
        "macro": _mean(_mean(values) for values in subtasks.values()),
        "tasks": {name: _counts(values) for name, values in sorted(tasks.items())},
        "subtasks": {name: _counts(values) for name, values in sorted(subtasks.items())},
    }


def _cycles(rows: Sequence[Prediction], column: str) -> dict:
    """HR-Bench's own means: accuracy within each rotation, then the mean over rotations."""
    cycles: dict[str, dict[str, list[bool]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        for name in (row.category, "average"):
            cycles[cycle(row.id)][name].append(getattr(row, column))
    each = {
        number: {name: _mean(values[name]) for name in ("single", "cross", "average")}
        for number, values in sorted(cycles.items())
    }
    means = {
        name: _mean(figures[name] for figures in each.values() if figures[name] is not None)
        for name in ("single", "cross", "average")
    }
    return means | {"cycles": each}


def _letters(rows: Sequence[Prediction]) -> dict[str, dict[str, int]]:
    choosing = [row for row in rows if row.choices]
    read, truth = Counter(row.answer for row in choosing), Counter(row.truth for row in choosing)
    return {letter: {"read": read[letter], "truth": truth[letter]} for letter in sorted({*read, *truth} - {None})}


def _strict_letter(row: Prediction) -> str | None:
    return row.answer


def _official_letter(row: Prediction) -> str:
    return mme_realworld_letter(row.text, lines(bracketed(row.choices)))


def _written(row: Prediction) -> str:
    """All that the model wrote, turn after turn: where a mode asks for boxes first, they stand in its first turn."""
    return "\n".join(turn.text for turn in row.turns) or row.text


def _best_ious(row: Prediction) -> float:
    """The best IoU of each target over the boxes that were looked at, averaged over targets; original pixels."""
    return _mean(max((iou(box, truth) for box in row.boxes), default=0.0) for truth in row.truth_boxes)


def _first_iou(row: Prediction) -> float:
    """Of the first box: the benchmark has one region, and its models name one."""
    return iou(row.boxes[0], row.truth_boxes[0]) if row.boxes else 0.0


def _counts(values: Sequence[bool]) -> dict:
    return {"n": len(values), "right": sum(values), "accuracy": _mean(values)}


def _mean(values: Iterable[float]) -> float | None:
    values = list(values)
    return sum(values) / len(values) if values else None
