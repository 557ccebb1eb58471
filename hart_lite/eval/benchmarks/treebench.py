"""TreeBench: 405 questions with the boxes of what they are about.

One TSV: base64 images, choices as one text, `target_instances` as the text of a list of xyxy boxes in original pixels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from string import ascii_uppercase

from hart_lite.data.options import dotted, from_question
from hart_lite.errors import DataError, HartError
from hart_lite.eval.benchmarks.base import BadRow, Benchmark
from hart_lite.eval.benchmarks.examples import boxes_inside, examples, known, letter, listed, text
from hart_lite.eval.benchmarks.official_scorers import treebench_right
from hart_lite.eval.benchmarks.readers import Record, find_files, hub_folder, is_hub_name
from hart_lite.eval.benchmarks.tsv import tsv_records
from hart_lite.types import Example

CATEGORIES = (
    *("Perception/Attributes", "Perception/OCR", "Perception/Material", "Perception/Object Retrieval"),
    *("Perception/Physical State", "Reasoning/Comparison", "Reasoning/Ordering", "Reasoning/Contact and Occlusion"),
    *("Reasoning/Spatial Containment", "Reasoning/Perspective Transform"),
)
_FILE = "TreeBench.tsv"
_OPTIONS = "multi-choice options"
_NEEDED = ("index", "question", "answer", _OPTIONS, "category", "target_instances")
_SUFFIX = (
    "\nSelect the best answer to the above multiple-choice question based on the image. After the reasoning process, "
    "respond with only the letter of the correct option between <answer> and </answer>."
)


def read(source: str) -> Iterator[Example | BadRow]:
    if is_hub_name(source):
        source = str(hub_folder(source, [_FILE]))
    (file,) = find_files(source, (_FILE,), (".tsv",))
    return examples(tsv_records(file, _NEEDED), lambda record: text(record, "index"), _example)


def _example(record: Record, id: str) -> Example:
    question, options = text(record, "question"), record.fields[_OPTIONS].strip()
    stem, choices = _choices(record, question, options)
    boxes = listed(text(record, "target_instances"), "target_instances")
    if isinstance(boxes, list) and boxes and not isinstance(boxes[0], list):
        boxes = [boxes]
    words = f"{question} Options:\n{options}" if options else question
    return Example(
        id=id,
        images=(record.image,),
        question=stem,
        answer=letter(record, "answer", choices),
        choices=choices,
        boxes=boxes_inside(boxes, record.size),
        category=known(text(record, "category"), CATEGORIES, "category"),
        wording="" if words == _words(stem, choices) else words,
    )


def _choices(record: Record, question: str, options: str) -> tuple[str, tuple[str, ...]]:
    """(question without choices, choices). OCR questions carry their choices inside them, beside the column or in place
    of it; a copy of the file has them in columns A, B, .. as well."""
    columns = [record.fields.get(name, "").strip() for name in ascii_uppercase]
    columns = columns[: next((n for n, value in enumerate(columns) if not value), len(columns))]
    try:
        stem, inside = from_question(question)
    except HartError:
        stem, inside = question, ()
    if options:
        before, choices = from_question(options)
        if before:
            raise DataError(f"{_OPTIONS}: {before!r} stands before the choices; they cannot be told apart")
    elif len(columns) > 1:
        choices = tuple(columns)
    elif inside:
        choices = inside
    else:
        raise DataError(f"choices: none in {_OPTIONS}, in columns A, B, .. or in the question")
    return (stem if stem and inside == choices else question), choices


def _words(question: str, choices: Sequence[str]) -> str:
    return f"{question} Options:\n{dotted(choices)}"


def prompt(example: Example) -> str:
    """The user's words of `inference_treebench.py`. OCR questions show their choices twice: its test for them, "OCR"
    against "Perception/OCR", never holds."""
    return (example.wording or _words(example.question, example.choices)) + _SUFFIX


def official(response: str, example: Example) -> bool:
    return treebench_right(response, example.answer)


BENCHMARK = Benchmark(
    name="treebench",
    title="TreeBench",
    questions=405,
    licence="apache-2.0",
    hub="HaochenWang/TreeBench",
    tables=(
        "tables 3, 5, 6 and 7. Overall is micro (computed; DeepEyes prints 37.5, its sub-tasks give 39.77). Table 6 "
        "fits 833 boxes and not 405 questions, so it is most likely per box; its metric is intersection over ground "
        "truth > 0.3, not the benchmark's mIoU. Table 7's GRPO row is another model than table 3's"
    ),
    overall="micro",
    read=read,
    prompt=prompt,
    official=official,
    faults=(
        "exact match of the first <answer>..</answer>, else of the whole response: 'C. red' and 'The answer is C' are "
        "wrong. Its own runs keep the end token, so there a bare letter is wrong too. mIoU compares the raw numbers of "
        "<box>[x1,y1,x2,y2]</box> with original pixels and counts no superfluous box; targets are clipped to "
        "their image here and not there. VLMEvalKit takes <answer>, else the first capital A to E anywhere, so that a "
        "right answer beyond E never counts, and prints the mIoU"
    ),
)
