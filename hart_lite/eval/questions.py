"""The questions of an evaluation: rows of its benchmarks, each checked, in batches by image."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from hart_lite.errors import HartError
from hart_lite.eval.benchmarks import custom, held_out, registry
from hart_lite.eval.benchmarks.base import BadRow, Benchmark
from hart_lite.eval.prediction import Prediction
from hart_lite.eval.results import Evaluation
from hart_lite.grading import answer_letter
from hart_lite.runs.layout import is_run
from hart_lite.types import Example, ImageSource
from hart_lite.utils.text import shown

log = logging.getLogger(__name__)
HELD_OUT, OWN_ROWS = held_out.BENCHMARK.name, custom.BENCHMARK.name
SHOWN = 5  # bad rows quoted


@dataclass(frozen=True)
class Question:
    benchmark: Benchmark
    example: Example


def read_questions(
    benchmarks: Mapping[str, str], limit: int | None, strict: bool, columns: Mapping[str, str] | None = None
) -> tuple[list[Question], list[tuple[str, BadRow]]]:
    """The questions of all benchmarks (name -> source), at most the first `limit` of each, and the rows that cannot be
    asked, each with its benchmark's name. `columns` are those of one's own rows.

    Raises `HartError` for a benchmark without questions and, if `strict`, for the first bad row.
    """
    if columns and OWN_ROWS not in benchmarks:
        raise HartError(f"--column is for rows of your own: --benchmark {OWN_ROWS}=FILE")
    questions: list[Question] = []
    bad: list[tuple[str, BadRow]] = []
    for name, source in benchmarks.items():
        benchmark, seen = registry.find(name), set()
        own = {"columns": columns} if columns and name == OWN_ROWS else {}
        for row in benchmark.read(source or benchmark.hub, **own):
            problem = row if isinstance(row, BadRow) else _problem(row, seen)
            if problem is None:
                questions.append(Question(benchmark, row))
                seen.add(row.id)
                if len(seen) == limit:
                    break
            elif strict:
                raise HartError(f"{name}: {problem.where}: {problem.problem}")
            else:
                bad.append((name, problem))
        if not seen:
            raise HartError(f"{name}: no row can be asked" + "".join(f"; {b.where}: {b.problem}" for _, b in bad[-1:]))
    for name, row in bad[:SHOWN]:
        log.warning("%s: %s: %s", name, row.where, row.problem)
    if bad:
        log.warning("%d bad rows are left out; bad_rows.jsonl lists them", len(bad))
    return questions, bad


def images_of(evaluation: Evaluation) -> Callable[[Prediction], ImageSource]:
    """From a prediction row to its (first) image, read where the evaluation read it; the held-out questions of a run
    are found from the evaluation's place in the run."""
    benchmarks, settings = dict(evaluation.settings["benchmarks"]), evaluation.settings
    run = evaluation.folder.absolute().parent.parent
    if HELD_OUT in benchmarks and is_run(run):
        benchmarks[HELD_OUT] = str(run)
    questions, _ = read_questions(benchmarks, settings["limit"], False, settings.get("columns"))
    images = {(q.benchmark.name, q.example.id): q.example.images[0] for q in questions}

    def image_of(row: Prediction) -> ImageSource:
        try:
            return images[row.benchmark, row.id]
        except KeyError:
            raise HartError(f"{row.benchmark} has no question {shown(row.id)} any more") from None

    return image_of


def _problem(example: Example, seen: set[str]) -> BadRow | None:
    if example.id in seen:
        return BadRow(example.id, "its id is taken by an earlier row")
    try:
        if example.choices:
            answer_letter(example.answer, example.choices)
    except HartError as error:
        return BadRow(example.id, str(error))
    return None


def batches_by_image(questions: Sequence[Question], size: int) -> Iterator[list[Question]]:
    """Batches of at most `size` questions; those on one image of a benchmark stand together, in one batch if it holds
    them."""
    groups: dict[tuple, list[Question]] = {}
    for question in questions:
        key = (question.benchmark.name, *(image.key for image in question.example.images))
        groups.setdefault(key, []).append(question)
    batch: list[Question] = []
    for group in groups.values():
        if len(batch) + len(group) > size and batch:
            yield batch
            batch = []
        batch += group
        while len(batch) >= size:
            yield batch[:size]
            batch = batch[size:]
    if batch:
        yield batch


def digest(examples: Iterable[Example]) -> str:
    """Tells a file of rows that was replaced from the one that an evaluation began with."""
    found = hashlib.sha256()
    for e in examples:
        boxes = [box.to_list() for box in e.boxes]
        found.update(json.dumps([e.id, e.question, e.answer, e.choices, e.category, boxes]).encode())
    return f"sha256:{found.hexdigest()}"
