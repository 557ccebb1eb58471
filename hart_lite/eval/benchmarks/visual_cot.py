"""Visual-CoT: open questions with the one region that answers them, 13 files of 9,937 rows.

`benchmark_det/NAME.jsonl` has the boxes, xyxy in original pixels; `benchmark/NAME.json` the answers (its own boxes are
in another frame and not used). Our filter, stated with every number: questions answered by yes or no are left out, as
HART leaves them out; all 13 files are kept, each as one sub-task, since HART's choice of files is not known.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from hart_lite.errors import DataError
from hart_lite.eval.benchmarks.base import BadRow, Benchmark
from hart_lite.eval.benchmarks.examples import boxes_inside, examples, text
from hart_lite.eval.benchmarks.official_scorers import visual_cot_form
from hart_lite.eval.benchmarks.readers import ImageFolder, Record, find_files, is_hub_name, json_records
from hart_lite.types import Example
from hart_lite.utils.text import shown

CATEGORIES = (
    *("cub", "docvqa", "dude", "emotic", "flickr30k", "gqa", "infographicsvqa"),
    *("openimages", "sroie", "textcap", "textvqa", "visual7w", "vsr"),
)
_DET = ("img_path", "expression", "bbox", "height", "width", "question_id")
_ASK = " Please provide the bounding box"
_LEFT_OUT = ("yes", "no")
_FOLDERS = (".", "..", "images", "../images", "../playground/data")  # seen from the folder of `benchmark_det`


def read(source: str) -> Iterator[Example | BadRow]:
    if is_hub_name(source):
        raise DataError(
            f"{source}: the Hub has the images in parts and not the questions; unpack them, and give the folder that "
            "holds benchmark/ and benchmark_det/ of github.com/deepcs233/Visual-CoT, with the images' folder cot/ in it"
        )
    files = find_files(source, ("benchmark_det/*.jsonl", "viscot_benchmark/benchmark_det/*.jsonl"), (".jsonl",))
    return _read_files(files)


def _read_files(files: list[Path]) -> Iterator[Example | BadRow]:
    folder = files[0].resolve().parent.parent
    images = ImageFolder((folder / name).resolve() for name in _FOLDERS)
    for file in files:
        if file.stem not in CATEGORIES:
            yield BadRow(file.name, f"unknown sub-task; known: {', '.join(CATEGORIES)}")
            continue
        told: dict[str, Record] = {}
        for record in json_records(folder / "benchmark" / f"{file.stem}.json", ("question_id", "conversations")):
            if isinstance(record, BadRow):
                yield record
            else:
                told[str(record.fields["question_id"])] = record
        yield from examples(
            json_records(file, _DET),
            lambda record, name=file.stem: f"{name}/{text(record, 'question_id')}",
            _make(file.stem, told, images),
        )


def _make(name: str, told: dict[str, Record], images: ImageFolder) -> Callable[[Record, str], Example | None]:
    """`told` are the records of `benchmark/NAME.json` by question id."""

    def make(record: Record, id: str) -> Example | None:
        question, number = text(record, "expression"), text(record, "question_id")
        if number not in told:
            raise DataError(f"question_id: {number} is not in benchmark/{name}.json, which has the answers")
        asked, answer = _question_and_answer(told[number])
        if asked.split() != question.split():
            raise DataError(f"question_id: {number} asks {shown(question)} here and {shown(asked)} in {name}.json")
        if visual_cot_form(answer) in _LEFT_OUT:
            return None
        others = told[number].fields.get("image")
        # The two files name the images of visual7w differently.
        image, size = images.find(record.fields["img_path"], *(others[:1] if isinstance(others, list) else ()))
        stated = record.fields["width"], record.fields["height"]
        if stated != size:
            raise DataError(f"the image has {size[0]} x {size[1]} pixels, the row says {stated[0]} x {stated[1]}")
        boxes = boxes_inside([record.fields["bbox"]], size)
        return Example(id=id, images=(image,), question=question, answer=answer, boxes=boxes, category=name)

    return make


def _question_and_answer(record: Record) -> tuple[str, str]:
    turns = record.fields["conversations"]
    if not isinstance(turns, list) or len(turns) < 2:
        raise DataError(f"{record.where}: conversations: {shown(turns)} given; a list of turns is needed")
    values = [turn.get("value") if isinstance(turn, dict) else None for turn in (turns[0], turns[-1])]
    if not all(isinstance(value, str) and value.strip() for value in values):
        raise DataError(f"{record.where}: conversations: {shown(turns)} given; no question, or no answer")
    return values[0].removeprefix("<image>\n").partition(_ASK)[0].strip(), values[1].strip()


def prompt(example: Example) -> str:
    """The question alone, as the repository's runs without a box ask it."""
    return example.question


def official(response: str, example: Example) -> bool:
    """The official score is a language model's; what repeats the answer would get its full mark."""
    return visual_cot_form(response) == visual_cot_form(example.answer)


BENCHMARK = Benchmark(
    name="visual-cot",
    title="Visual-CoT (grounding)",
    questions=9_937,
    licence="apache-2.0",
    hub="deepcs233/Visual-CoT",
    tables=(
        "tables 1 and 6, on 4,042 questions that cannot be identified: several choices of files give that number by "
        "chance. The two tables disagree on the untrained models (62.3 against 66.0 %). Ours: all 13 files without the "
        "yes/no answers, which therefore count as missing against 9,937"
    ),
    overall="micro",
    read=read,
    prompt=prompt,
    official=official,
    faults=(
        "answers are scored 0 to 1 by GPT-3.5, which is never asked here: `official` is right only where the response "
        "is the answer, so it is a lower bound. The box metric is IoU > 0.5; HART's IoGT > 0.3 is its own"
    ),
)
