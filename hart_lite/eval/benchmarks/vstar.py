"""V* Bench: 191 questions on small things in large photos, with boxes of what they ask about.

The questions and the order of their options are those of `test_questions.jsonl`. The JSON beside each image brings the
boxes, xywh; the options in it begin with the right one, so where nothing else is given they are shuffled.
"""

from __future__ import annotations

import glob
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from string import ascii_uppercase

from hart_lite.data.images import ImageFile
from hart_lite.data.json_files import parse_json, read_bytes
from hart_lite.data.options import bracketed, from_text
from hart_lite.errors import DataError, HartError
from hart_lite.eval.benchmarks.base import BadRow, Benchmark
from hart_lite.eval.benchmarks.examples import boxes_inside, examples, known, letter, text
from hart_lite.eval.benchmarks.official_scorers import vstar_letter
from hart_lite.eval.benchmarks.readers import (
    ImageFolder,
    Record,
    check_columns,
    find_files,
    hub_folder,
    is_hub_name,
    json_records,
    parquet_records,
)
from hart_lite.types import Box, Example, ImageSource
from hart_lite.utils.text import shown

CATEGORIES = ("direct_attributes", "relative_position")
_FILE = "test_questions.jsonl"
_TABLE = ("text", "category", "label", "question_id")
_BESIDE = ("question", "options", "bbox")
LARGEST = 1e9  # no coordinate is larger, and integers too large for a float cannot be added to one
_SUFFIX = "\nAnswer with the option's letter from the given choices directly."


def read(source: str) -> Iterator[Example | BadRow]:
    if is_hub_name(source):
        source = str(hub_folder(source, [_FILE, *(f"{category}/*" for category in CATEGORIES)]))
    patterns = (_FILE, "*.parquet", "data/*.parquet", *(f"{category}/*.json" for category in CATEGORIES))
    files = find_files(source, patterns, (".jsonl", ".parquet"))
    if files[0].suffix == ".parquet":
        return examples(parquet_records(files, _TABLE), _question_id, _from_table)
    if files[0].suffix == ".jsonl":
        images = ImageFolder([files[0].parent])
        return examples(json_records(files[0], (*_TABLE, "image")), _question_id, _from_questions(images))
    folder = files[0].parent.parent
    beside = (path for category in CATEGORIES for path in sorted((folder / category).glob("*.json")))
    return examples(_beside_records(beside), lambda record: record.fields["id"], _shuffled)


def _question_id(record: Record) -> str:
    return text(record, "question_id")


def _from_questions(images: ImageFolder) -> Callable[[Record, str], Example]:
    def make(record: Record, id: str) -> Example:
        image, size = images.find(record.fields["image"])
        beside = image.path.with_suffix(".json")
        boxes = _boxes(_beside(beside), size) if beside.is_file() else ()
        return _example(record, id, image, boxes)

    return make


def _from_table(record: Record, id: str) -> Example:
    return _example(record, id, record.image, ())


def _example(record: Record, id: str, image: ImageSource, boxes: tuple[Box, ...]) -> Example:
    words = text(record, "text").removesuffix(_SUFFIX.strip()).strip()
    question, choices = from_text(words)
    if not question:
        raise DataError(f"text: {shown(words)} holds choices but no question")
    return Example(
        id=id,
        images=(image,),
        question=question,
        answer=letter(record, "label", choices),
        choices=choices,
        boxes=boxes,
        category=known(text(record, "category"), CATEGORIES, "category"),
        wording="" if words == _words(question, choices) else words,
    )


def _beside_records(paths: Iterator[Path]) -> Iterator[Record | BadRow]:
    for path in paths:
        where = f"{path.parent.name}/{path.name}"
        try:
            fields = _beside(path)
        except HartError as error:
            yield BadRow(where, str(error))
            continue
        # The id says that the order of the options is ours: these runs are not paired with runs in the official order.
        yield Record(where, fields | {"id": f"shuffled/{path.parent.name}/{path.stem}", "path": path})


def _shuffled(record: Record, id: str) -> Example:
    path: Path = record.fields["path"]
    files = (file for file in sorted(path.parent.glob(f"{glob.escape(path.stem)}.*")) if file != path)
    image = ImageFile(next(files, path.with_suffix(".jpg")))
    size = image.checked_size()
    options = record.fields["options"]
    if not isinstance(options, list) or not all(isinstance(option, str) and option.strip() for option in options):
        raise DataError(f"options: {shown(options)} given; a list of texts is needed")
    if not 2 <= len(options) <= len(ascii_uppercase):
        raise DataError(f"options: {len(options)} given; 2 to {len(ascii_uppercase)} are allowed")
    order = list(range(len(options)))
    random.Random(id).shuffle(order)
    return Example(
        id=id,
        images=(image,),
        question=text(record, "question"),
        answer=ascii_uppercase[order.index(0)],  # the first option is the right one
        choices=tuple(options[n].strip() for n in order),
        boxes=_boxes(record.fields, size),
        category=path.parent.name,
    )


def _beside(path: Path) -> dict:
    """The JSON beside an image. Raises `DataError` naming it."""
    try:
        fields = parse_json(read_bytes(path))
    except ValueError as error:
        raise DataError(f"{path.name}: not JSON: {error}") from error
    if not isinstance(fields, dict):
        raise DataError(f"{path.name}: an object with {', '.join(_BESIDE)} is needed")
    check_columns(path.name, fields, _BESIDE)
    return fields


def _boxes(fields: dict, size: tuple[int, int]) -> tuple[Box, ...]:
    """`bbox` is a list of [x, y, width, height] in original pixels."""
    boxes = fields["bbox"]
    if not isinstance(boxes, list) or not all(
        isinstance(box, list) and len(box) == 4 and all(type(v) in (int, float) and abs(v) < LARGEST for v in box)
        for box in boxes
    ):
        raise DataError(f"bbox: {shown(boxes)} given; a list of [x, y, width, height] is needed")
    return boxes_inside([[x, y, x + width, y + height] for x, y, width, height in boxes], size)


def _words(question: str, choices: Sequence[str]) -> str:
    return f"{question}\n{bracketed(choices)}"


def prompt(example: Example) -> str:
    """The text of `test_questions.jsonl`."""
    return (example.wording or _words(example.question, example.choices)) + _SUFFIX


def official(response: str, example: Example) -> bool:
    return vstar_letter(response) == example.answer


BENCHMARK = Benchmark(
    name="vstar",
    title="V* Bench",
    questions=191,
    licence="none on the data's card (the code's repository is MIT)",
    hub="craigwu/vstar_bench",
    tables=(
        "table 4, micro over 191 (computed). The untrained Qwen2.5-VL-7B is printed at 78.5 here and at 58.6 to 78.5 "
        "elsewhere: prompt, pixel limits and the order of options explain more than most training. With the right "
        "option always first DeepEyes gets 89.0/91.6, in the official order 84.3/85.9"
    ),
    overall="micro",
    read=read,
    prompt=prompt,
    official=official,
    faults=(
        "the benchmark's own script compares likelihoods of the options and reads no response; `official` is "
        "lmms-eval's reading: a response that begins with A to D is that letter ('DIRECTLY ..' is D, 'Based on ..' is "
        "B), else 'the answer blue' is B, 'red.' is D. VLMEvalKit asks a judge where its rule does not decide"
    ),
)
