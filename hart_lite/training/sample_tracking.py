"""The same few questions, answered greedily at fixed points of a run, so that a reader sees the boxes move.

RUN/progress/questions.json              what was asked, with ground truth where there is one
RUN/progress/0.jpg                       the (first) image of question 0, scaled down
RUN/progress/during-1-rl-00025.json      where the model looked then and what it answered from the crops alone
RUN/progress/during-1-rl-00025-0-1.jpg   its second crop of question 0

Looking changes nothing of what is trained: it draws from no generator and leaves the policy as it was.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

from accelerate import PartialState
from PIL import Image

from hart_lite.data.images import jpeg, view_pixels
from hart_lite.errors import HartError
from hart_lite.eval.grounding import grounding
from hart_lite.inference.rollout import Runner
from hart_lite.runs.reader import PROGRESS, QUESTIONS
from hart_lite.types import Example, ImageView, Trajectory
from hart_lite.utils.files import write_whole
from hart_lite.utils.phase import begin_phase

SIDE = 960  # pixels of the longer side of a kept image
CROP_SIDE = 280
CROPS = 4  # kept of each answer


def quarters(steps: int) -> set[int]:
    """The steps at which a stage of so many is a quarter, a half and three quarters done."""
    return {steps * n // 4 for n in (1, 2, 3)} - {0}


def watched(examples: Sequence[Example], count: int, missed: Collection[str] = ()) -> list[Example]:
    """At most `count`, on different images, from all over the data set; half of them, and first, those whose ids are
    in `missed`, as far as there are any."""
    distinct = list({example.images[0].key: example for example in reversed(examples)}.values())[::-1]
    hard = [example for example in distinct if example.id in missed]
    easy = [example for example in distinct if example.id not in missed]
    few = max(count - len(easy), min(len(hard), -(-count // 2)))
    return _spread(hard, few) + _spread(easy, count - few)


def _spread(examples: Sequence[Example], count: int) -> list[Example]:
    count = min(count, len(examples))
    return [examples[n * len(examples) // count] for n in range(count)]


def missed_before(run: Path) -> set[str]:
    """Ids of the held-out questions that went wrong before training: the box where there is ground truth, else the
    answer in every mode. Empty where nothing was measured."""
    file = run / "evaluation" / "before.jsonl"
    lines = file.read_bytes().splitlines() if file.exists() else ()  # bytes: text would break at U+2028 as well
    rows = map(json.loads, lines)
    return {
        row["id"]
        for row in rows
        if not (row["grounding"]["grounded"] if "grounding" in row else any(row["right"].values()))
    }


class Progress:
    """`held_out`: no stage trains on the questions."""

    def __init__(self, run: Path, runner: Runner, examples: Sequence[Example], held_out: bool) -> None:
        self.folder, self.runner, self.examples, self.held_out = run / PROGRESS, runner, examples, held_out

    def record(self, name: str) -> None:
        """Once per name; a resumed run keeps what was seen."""
        if not self.examples:
            return
        begin_phase("tracking")
        target = self.folder / f"{name}.json"
        with PartialState().main_process_first():  # the others find the file and go on
            if not target.exists():
                self._record(target)

    def _record(self, target: Path) -> None:
        if not (self.folder / QUESTIONS).exists():
            self._keep_questions()
        policy = self.runner.policy
        training = policy.model.training
        answers = self.runner.run(self.examples, "hart", temperature=0, seed=0)
        policy.forget_images()
        policy.model.train(training)
        rows = []
        for n, (example, answer) in enumerate(zip(self.examples, answers, strict=True)):
            crops = [slot.view for slot in answer.turns[-1].prompt.slots if slot.view.box][:CROPS]
            names = [f"{target.stem}-{n}-{number}.jpg" for number in range(len(crops))]
            for name, view in zip(names, crops, strict=True):
                _save(view_pixels(replace(view, size=_within(view.size, CROP_SIDE))), self.folder / name)
            rows.append(_row(example, answer) | {"crops": names})
        write_whole(target, json.dumps(rows, ensure_ascii=False, indent=1) + "\n")

    def _keep_questions(self) -> None:
        self.folder.mkdir(exist_ok=True)
        questions = []
        for n, example in enumerate(self.examples):
            source = example.images[0]
            size = source.size()
            _save(view_pixels(ImageView(source, _within(size, SIDE))), self.folder / f"{n}.jpg")
            questions.append(
                {
                    "id": example.id,
                    "question": example.question,
                    "choices": list(example.choices),
                    "answer": example.answer,
                    "picture": f"{n}.jpg",
                    "size": list(size),
                    "boxes": [[*box.xyxy, box.image] for box in example.boxes],
                }
            )
        text = json.dumps({"held_out": self.held_out, "questions": questions}, ensure_ascii=False, indent=1)
        write_whole(self.folder / QUESTIONS, text + "\n")


def _row(example: Example, answer: Trajectory) -> dict:
    row = {
        "id": example.id,
        "boxes": [[*box.xyxy, box.image] for box in answer.boxes],
        "located": answer.turns[0].text,
        "answer": answer.answer,
        "right": answer.reward == 1,
    }
    if example.boxes:
        row["grounding"] = grounding(answer.boxes, example.boxes, [image.size() for image in example.images])
    return row


def _within(size: tuple[int, int], side: int) -> tuple[int, int]:
    """The size with its longer side no longer than this."""
    scale = min(1.0, side / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _save(image: Image.Image, path: Path) -> None:
    try:
        write_whole(path, jpeg(image, quality=85))
    except OSError as error:
        raise HartError(f"{path} cannot be written: {error}. Free some space, then go on with --resume") from error
