"""MME-RealWorld: real photos of some 2,000 x 1,500 pixels, five choices of which the last is a refusal.

Layouts: the official JSON beside its images, lmms-eval's parquet, and VLMEvalKit's TSV.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from hart_lite.data.options import bracketed, from_list, lines
from hart_lite.data.values import literal
from hart_lite.errors import DataError
from hart_lite.eval.benchmarks.base import BadRow, Benchmark
from hart_lite.eval.benchmarks.examples import examples, known, letter, text
from hart_lite.eval.benchmarks.official_scorers import mme_realworld_letter
from hart_lite.eval.benchmarks.readers import (
    ImageFolder,
    Record,
    find_files,
    hub_records,
    is_hub_name,
    json_records,
    parquet_records,
)
from hart_lite.eval.benchmarks.tsv import tsv_records
from hart_lite.types import Example, ImageSource
from hart_lite.utils.text import shown

# The paper's abbreviations of the sub-tasks; Remote Sensing has perception questions only.
_SHORT = {
    "Autonomous_Driving": "AD",
    "Monitoring": "MO",
    "OCR with Complex Context": "OCR",
    "Remote Sensing": "RS",
    "Diagram and Table": "DT",
}
_NAMES = {f"{task}/{name}": f"{task}/{short}" for task in ("Perception", "Reasoning") for name, short in _SHORT.items()}
del _NAMES["Reasoning/Remote Sensing"]
CATEGORIES = tuple(_NAMES.values())

_JSON = ("Question_id", "Image", "Text", "Answer choices", "Ground truth", "Task", "Subtask")
_TABLE = ("index", "question", "multi-choice options", "answer", "category")
_FOLDERS = (".", "imgs", "images", "data/imgs")
_HEADING = "The choices are listed below:\n"
_SUFFIX = (
    "\nSelect the best answer to the above multiple-choice question based on the image. "
    "Respond with only the letter (A, B, C, D, or E) of the correct option. \nThe best answer is:"
)


def reader(patterns: Sequence[str]) -> Callable[[str], Iterator[Example | BadRow]]:
    """Reads a folder by these patterns; questions that share an id, which the full set has, are numbered."""

    def read(source: str) -> Iterator[Example | BadRow]:
        if is_hub_name(source):
            records, make, id_field = hub_records(source, "train", _TABLE), _from_table, "index"
        else:
            files = find_files(source, patterns, (".json", ".tsv", ".parquet"))
            if files[0].suffix == ".json":
                images = ImageFolder(files[0].parent / folder for folder in _FOLDERS)
                records, make, id_field = json_records(files[0], _JSON), _from_json(images), "Question_id"
            elif files[0].suffix == ".tsv":
                records, make, id_field = tsv_records(files[0], _TABLE), _from_table, "index"
            else:
                records, make, id_field = parquet_records(files, _TABLE), _from_table, "index"
        return examples(records, lambda record: text(record, id_field), make, number_repeats=True)

    return read


def _from_json(images: ImageFolder) -> Callable[[Record, str], Example]:
    def make(record: Record, id: str) -> Example:
        image, _ = images.find(record.fields["Image"])
        choices = record.fields["Answer choices"]
        category = f"{text(record, 'Task')}/{text(record, 'Subtask')}"
        return _example(record, id, image, text(record, "Text"), choices, "Ground truth", category)

    return make


def _from_table(record: Record, id: str) -> Example:
    choices = record.fields["multi-choice options"]
    if isinstance(choices, str):  # VLMEvalKit writes a Python list, or joins it under its heading
        found = literal(choices.strip())
        joined = choices.strip().removeprefix(_HEADING.strip()).strip()
        choices = found if isinstance(found, list) else joined.split("\n")
    question, category = text(record, "question"), text(record, "category")
    return _example(record, id, record.image, question, choices, "answer", category)


def _example(
    record: Record, id: str, image: ImageSource, question: str, listed: object, answer: str, category: str
) -> Example:
    if not isinstance(listed, list) or not all(isinstance(line, str) for line in listed):
        raise DataError(f"choices: {shown(listed)} given; a list of texts such as '(A) ..' is needed")
    choices = from_list(listed)
    words = f"{question} {_HEADING}" + "\n".join(listed)
    known(category, _NAMES, "category")
    return Example(
        id=id,
        images=(image,),
        question=question,
        answer=letter(record, answer, choices),
        choices=choices,
        category=_NAMES[category],
        wording="" if words == _words(question, choices) else words,
    )


def _words(question: str, choices: Sequence[str]) -> str:
    return f"{question} {_HEADING}{bracketed(choices)}"


def prompt(example: Example) -> str:
    """The README's words."""
    return (example.wording or _words(example.question, example.choices)) + _SUFFIX


def official(response: str, example: Example) -> bool:
    labelled = example.wording.partition(_HEADING)[2] or bracketed(example.choices)
    return mme_realworld_letter(response, lines(labelled)) == example.answer


BENCHMARK = Benchmark(
    name="mme-realworld",
    title="MME-RealWorld (English)",
    questions=23_609,
    licence="academic research only, no redistribution (README; the card's tag says apache-2.0)",
    hub="yifanzhang114/MME-RealWorld-Lmms-eval",
    tables=(
        "not in the paper's tables under this name. There is no official training part: the paper's training data is "
        "taken to be this set without Lite (21,690 questions), so a model trained on it must not be scored on it. "
        "The private models' rows of table 2 were probably measured here and not on Lite (inferred)"
    ),
    overall="micro",
    read=reader(("MME_RealWorld.json", "data/MME_RealWorld.json", "*.tsv", "*.parquet", "data/*.parquet")),
    prompt=prompt,
    official=official,
    faults=(
        "takes the first capital A to E anywhere ('Based on ..' is B, 'A car' is A, 'Every ..' is E, 'Best answer: C' "
        "is B, its prefixes lacking commas), and reads an empty response as A. lmms-eval matches texts against bare "
        "labels and reads one letter, too; VLMEvalKit looks into <answer> first"
    ),
)
