"""The same questions over time: where the model looked, what it saw there and what it answered, so that one sees the
boxes tighten. And pictures of what was sampled in training.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from hart_lite.data.images import ImageFile
from hart_lite.errors import HartError
from hart_lite.eval.prediction import Prediction
from hart_lite.report.html import Pictures
from hart_lite.report.looks import CROP_SIDE, SIDE, Crop, Frame, Look, frames_of, with_choice
from hart_lite.report.reader import Moment, Run
from hart_lite.runs.layout import ROLLOUTS, STAGES, TRACKED
from hart_lite.types import Box
from hart_lite.utils.jsonl import read_jsonl
from hart_lite.utils.text import cut

_NAME = re.compile(r"[\w.-]{1,200}\.jpg")  # of a picture beside the records: a name, not a path
_STEP = re.compile(r"step-(\d{1,9})\.jsonl")


@dataclass(frozen=True)
class Tracked:
    """A question and the looks at it, in the order of the run; they share the `photo` under the id."""

    id: str
    text: str
    right: str
    photo: str
    size: tuple[int, int]
    looks: list[Look]


@dataclass(frozen=True)
class Sample:
    text: str
    right: str
    look: Look


def tracked(run: Run, pictures: Pictures) -> list[Tracked]:
    return [found for n, question in enumerate(run.questions) if (found := _tracked(run, n, question, pictures))]


def _tracked(run: Run, number: int, question: dict, pictures: Pictures) -> Tracked | None:
    seen = [(moment, row) for moment, rows in run.tracked.items() for row in rows if row.id == question["id"]]
    if not seen:
        return None
    folder, first = run.folder / TRACKED, seen[0][1]
    photo = _url(folder, question["picture"], SIDE, pictures)
    size = (int(question["size"][0]), int(question["size"][1]))
    looks = []
    for moment, row in seen:
        names = [f"{moment.name}-{number}-{n}.jpg" for n in range(len(row.boxes))]
        crops = _crops(folder, names, list(range(1, len(names) + 1)), pictures)
        if moment in (seen[0][0], seen[-1][0]):  # where they are seen side by side
            truth = [f"{number}-truth-{n}.jpg" for n in range(len(row.truth_boxes))]
            crops += _crops(folder, truth, [0] * len(truth), pictures)
        look = Look(f"#photo-{number}" if photo else "", size, frames_of(row.boxes, row.truth_boxes), crops)
        looks.append(look.saying(*_caption(moment, row)))
    return Tracked(f"photo-{number}", cut(first.question), with_choice(first.truth, first.choices), photo, size, looks)


def _caption(moment: Moment, row: Prediction) -> tuple[str, list[tuple[str, bool | None]], str]:
    answer = [(cut(row.text), row.strict)] if row.boxes else [("no box", None)]
    return moment.title, answer, f"IoU {100 * row.grounding.iou:.0f}\N{NO-BREAK SPACE}%" if row.grounding else ""


def samples(run: Run, pictures: Pictures) -> list[Sample]:
    """Of the first and the last step that each RL stage logged."""
    out = []
    for stage, _ in run.rl:
        folder = run.folder / STAGES / stage.name / ROLLOUTS
        steps = {int(m[1]): path for path in folder.glob("step-*.jsonl") if (m := _STEP.fullmatch(path.name))}
        for step in dict.fromkeys([min(steps), max(steps)]) if steps else ():
            rows = [row for _, row in read_jsonl(steps[step], skip_broken=True) if _is_transcript(row)]
            for _, group in groupby(rows, key=lambda row: row["photo"]):
                out.append(_sample(folder, f"{stage.name}, step {step + 1:,}", list(group), pictures))
    return out


def _is_transcript(row: dict) -> bool:
    match row:
        case {"question": str(), "answer": str(), "choices": list(), "photo": str(),
              "size": [int(), int()], "crops": list(), "boxes": list(),
              "turns": [*_, {"kind": str(), "text": str()}], "reward": int() | float()}:  # fmt: skip
            return all(isinstance(b, list) and len(b) == 5 and all(isinstance(v, int | float) for v in b)
                       for b in row["boxes"])  # fmt: skip
    return False


def _sample(folder: Path, when: str, rows: list[dict[str, Any]], pictures: Pictures) -> Sample:
    """All samples of a question in one look: each has its number and colour."""
    frames: list[Frame] = []
    crops: list[Crop] = []
    answers: list[tuple[str, bool | None]] = []
    for n, row in enumerate(rows, 1):
        frames += [Frame(Box.from_list(box), n) for box in row["boxes"] if box[4] == 0]
        crops += _crops(folder, row["crops"], [n] * len(row["crops"]), pictures)
        last = row["turns"][-1]
        answered = last["kind"] != "locate"
        answers.append(
            (f"{n}: {cut(last['text'])}" if answered else f"{n}: no box", row["reward"] > 0.5 if answered else None)
        )
    photo = _url(folder, rows[0]["photo"], SIDE, pictures)
    look = Look(photo, tuple(rows[0]["size"]), frames, crops).saying(when, answers)
    right = with_choice(rows[0]["answer"], rows[0]["choices"])
    return Sample(cut(rows[0]["question"]), right, look)


def _crops(folder: Path, names: list[Any], numbers: list[int], pictures: Pictures) -> list[Crop]:
    out = []
    for name, number in zip(names, numbers, strict=False):
        if (image := _read(folder, name)) and (url := pictures.url(image, CROP_SIDE)):
            out.append(Crop(url, *image.size, number))
    return out


def _url(folder: Path, name: object, side: int, pictures: Pictures) -> str:
    """Empty for a picture that cannot be read, or has no room: the words stand without it."""
    image = _read(folder, name)
    return (pictures.url(image, side) or "") if image else ""


def _read(folder: Path, name: object):
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        return None
    try:
        return ImageFile(folder / name).load()
    except HartError:
        return None
