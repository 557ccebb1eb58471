"""HR-Bench: 200 questions on 4K or 8K images, each asked four times with its options rotated: 800 rows.

Layouts: the official TSV with base64 images, and its parquet. No boxes.
"""

from __future__ import annotations

from collections.abc import Iterator

from hart_lite.data.options import dotted
from hart_lite.eval.benchmarks.base import BadRow, Benchmark
from hart_lite.eval.benchmarks.examples import examples, known, letter, text
from hart_lite.eval.benchmarks.official_scorers import hrbench_letter
from hart_lite.eval.benchmarks.readers import Record, find_files, hub_records, is_hub_name, parquet_records
from hart_lite.eval.benchmarks.tsv import tsv_records
from hart_lite.types import Example

CATEGORIES = ("single", "cross")
_LETTERS = ("A", "B", "C", "D")
_NEEDED = ("index", "question", "answer", "category", *_LETTERS, "cycle_category")


def cycle(id: str) -> str:
    """Which of the four rotations a question is, from its id."""
    return id.rpartition("@")[2]


def benchmark(size: str) -> Benchmark:
    """`size` is "4k" or "8k", as in the names of the files and of the Hub's splits."""

    def read(source: str) -> Iterator[Example | BadRow]:
        if is_hub_name(source):
            records = hub_records(source, f"hrbench_{size}", _NEEDED, config="hrbench_version_split")
        else:
            patterns = (f"*{size}*.tsv", f"*{size}*.parquet", f"*/*{size}*.parquet")
            files = find_files(source, patterns, (".tsv", ".parquet"))
            tsv = files[0].suffix == ".tsv"
            records = tsv_records(files[0], _NEEDED) if tsv else parquet_records(files, _NEEDED)
        return examples(records, _id, _example)

    return Benchmark(
        name=f"hrbench{size}",
        title=f"HR-Bench {size.upper()}",
        questions=800,
        licence="stated as 'other'; its LICENSE file is empty",
        hub="DreamMr/HR-Bench",
        tables=(
            "table 4, mean over the 800 rows (computed: the values fit k/800, at 4K not k/200). DeepEyes' own script "
            "cuts its crops at the wrong scale here; HAT's cuts off options that contain a comma"
        ),
        overall="micro",
        read=read,
        prompt=prompt,
        official=official,
        faults=(
            "the benchmark asks a language model for yes or no; `official` is lmms-eval's rule, and where that goes on "
            "to a judge the response counts as wrong. One lone letter anywhere decides ('A dog at B' names two, "
            "'A dog' is A), else one option's text. VLMEvalKit's newer rule also minds where the letter stands and how "
            "long the response is"
        ),
    )


def _id(record: Record) -> str:
    return f"{text(record, 'index')}@{text(record, 'cycle_category')}"


def _example(record: Record, id: str) -> Example:
    choices = tuple(text(record, name) for name in _LETTERS)
    return Example(
        id=id,
        images=(record.image,),
        question=text(record, "question"),
        answer=letter(record, "answer", choices),
        choices=choices,
        category=known(text(record, "category").strip('"'), CATEGORIES, "category"),  # copies of the TSV quote it
    )


def prompt(example: Example) -> str:
    """The words of `hrbench/vlmeval/dataset/image_mcq.py`."""
    lines = f"Question: {example.question}\nOptions:\n{dotted(example.choices)}\n"
    return f"{lines}Please select the correct answer from the options above. \n"


def official(response: str, example: Example) -> bool:
    return hrbench_letter(response, example.choices) == example.answer
