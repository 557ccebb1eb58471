"""MMStar: 1,500 questions that cannot be answered without the image, 250 in each of six categories. No boxes.

Layouts: parquet and TSV. The options stand in the question: "Options: A: .., B: .." or "Choices:" and "(A) .." lines.
"""

from __future__ import annotations

from collections.abc import Iterator

from hart_lite.data.options import from_question
from hart_lite.errors import DataError
from hart_lite.eval.benchmarks.base import BadRow, Benchmark
from hart_lite.eval.benchmarks.examples import examples, known, letter, text
from hart_lite.eval.benchmarks.official_scorers import mmstar_right
from hart_lite.eval.benchmarks.readers import Record, find_files, hub_records, is_hub_name, parquet_records
from hart_lite.eval.benchmarks.tsv import tsv_records
from hart_lite.types import Example
from hart_lite.utils.text import shown

CATEGORIES = (
    *("coarse perception", "fine-grained perception", "instance reasoning"),
    *("logical reasoning", "science & technology", "math"),
)
_NEEDED = ("index", "question", "answer", "category")
_SUFFIX = "\nAnswer with the option's letter from the given choices directly"


def read(source: str) -> Iterator[Example | BadRow]:
    if is_hub_name(source):
        records = hub_records(source, "val", _NEEDED)
    else:
        files = find_files(source, ("*.parquet", "*/*.parquet", "*.tsv"), (".parquet", ".tsv"))
        tsv = files[0].suffix == ".tsv"
        records = tsv_records(files[0], _NEEDED) if tsv else parquet_records(files, _NEEDED)
    return examples(records, lambda record: text(record, "index"), _example)


def _example(record: Record, id: str) -> Example:
    words = text(record, "question")
    question, choices = from_question(words)
    if not question:
        raise DataError(f"question: {shown(words)} holds options but no question")
    return Example(
        id=id,
        images=(record.image,),
        question=question,
        answer=letter(record, "answer", choices),
        choices=choices,
        category=known(text(record, "category"), CATEGORIES, "category"),
        wording=words,
    )


def prompt(example: Example) -> str:
    """The question with its options as the file has them, and lmms-eval's words after it."""
    options = ", ".join(f"{chr(65 + n)}: {choice}" for n, choice in enumerate(example.choices))
    return (example.wording or f"{example.question}\nOptions: {options}") + _SUFFIX


def official(response: str, example: Example) -> bool:
    return mmstar_right(response, example.answer)


BENCHMARK = Benchmark(
    name="mmstar",
    title="MMStar",
    questions=1_500,
    licence="none seen on the card",
    hub="Lin-Chen/MMStar",
    tables=(
        "table 4; with 6 x 250 questions micro and macro are the same. The base value 59.3 is low against numbers made "
        "with VLMEvalKit's pixel limits"
    ),
    overall="macro",
    read=read,
    prompt=prompt,
    official=official,
    faults=(
        "looks at the first character, or at the one behind '(', 'option ' or 'the answer is ': 'Because ..' is B and "
        "'A man ..' is A, while 'The answer is (C)', 'Answer: C' and any reasoning before the letter are wrong. Newer "
        "lmms-eval takes a lone letter at the beginning, else the last one, and averages 18 sub-categories. The script "
        "divides by 1,500 whatever is there; here rows that are missing are left out of the mean, and counted beside it"
    ),
)
