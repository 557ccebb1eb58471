"""Which convention a checkpoint's boxes follow, measured on questions whose boxes are known.

The model is asked where to look, in the words that training uses, and says it once, greedily. What it wrote is then
read under every convention of `hart_lite.box_formats` and held against the truth.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hart_lite.box_formats import FORMATS, MEANING, BoxFormat, Size, to_original
from hart_lite.boxes import valid_boxes
from hart_lite.config.sections import ModelSection, PixelBudgets, Rollout
from hart_lite.data.dataset import load_examples
from hart_lite.errors import HartError
from hart_lite.eval.grounding import grounding
from hart_lite.eval.prediction import Grounding
from hart_lite.inference.load import OpenModel
from hart_lite.inference.local_engine import LocalEngine
from hart_lite.inference.protocols import hart
from hart_lite.inference.rollout import Runner
from hart_lite.models.families.box_parsing import WrittenBox
from hart_lite.models.loading import load_policy
from hart_lite.types import Box, Example
from hart_lite.utils.progress import progress

HIT = 0.5  # IoU from which a box is on its target, as referring expressions are scored
FITS = 0.1  # mean IoU below which no convention is said to fit: boxes put anywhere come near it
FEWEST_PIXELS = 28 * 28  # a budget of a recipe is not smaller
SURE = 0.01  # chance of so uneven a count between two equal conventions, below which the best one is clear


@dataclass(frozen=True)
class Answer:
    """What was written about one question: numbers as they stand there. Sizes of its images are in pixels."""

    written: tuple[WrittenBox, ...]
    truth: tuple[Box, ...]
    seen: tuple[Size, ...]
    original: tuple[Size, ...]

    def boxes(self, box_format: BoxFormat) -> tuple[Box, ...]:
        out: tuple[Box, ...] = ()
        for *numbers, image in self.written:
            corners = to_original(box_format, numbers, self.seen[image], self.original[image])
            out += valid_boxes([corners], self.original[image], 1, image=image)[0]
        return out


def measure(
    section: ModelSection,
    rows: str,
    limit: int = 200,
    pixels: int | None = None,
    batch_size: int = 8,
    columns: Mapping[str, str] | None = None,
) -> dict[str, object]:
    """The report of `compare` on at most `limit` rows (drawn with a seed) that have boxes.

    `rows` is any data set that `hart-lite data check` reads, with its `columns`; `pixels` the budget of the image,
    null: the default one.
    """
    if limit < 1 or (pixels is not None and pixels < FEWEST_PIXELS):
        raise HartError(f"limit {limit}, pixels {pixels}: at least 1 row is asked and {FEWEST_PIXELS} pixels are shown")
    examples = [example for example in load_examples(rows, columns=columns) if example.boxes]
    if not examples:
        raise HartError(f"{rows}: no row has boxes, and a box_format is measured against them; give rows with boxes")
    examples = random.Random(0).sample(examples, min(limit, len(examples)))
    budgets = PixelBudgets() if pixels is None else PixelBudgets(full=pixels, crop=pixels, min=min(pixels, 4 * 784))
    policy = load_policy(section)
    engine = LocalEngine(policy, Rollout().tokens_per_batch, batch_size)
    model = OpenModel(section.base, engine, policy.family.name, {}, budgets, Rollout(max_boxes=1))
    answers = []
    for start in progress(range(0, len(examples), batch_size), desc="locate", unit="batch", leave=False):
        answers += ask(Runner(model), examples[start : start + batch_size])
        engine.forget_images()
    return {"model": section.base, "own": policy.family.box_format, **compare(answers)}


def ask(runner: Runner, examples: Sequence[Example]) -> list[Answer]:
    """Where the model looks, greedily."""
    answers = []
    for example, located in zip(examples, runner.run(examples, hart.locate), strict=True):
        turn = located.turns[0]
        written = runner.policy.family.written_boxes(turn.text, len(example.images))
        seen = tuple(slot.view.size for slot in turn.prompt.slots)
        original = tuple(image.size() for image in example.images)
        answers.append(Answer(tuple(written), example.boxes, seen, original))
    return answers


def compare(answers: Sequence[Answer]) -> dict[str, object]:
    """Each format's figures over all questions, the best one by mean IoU, and how clear that is.

    `better` and `worse` count questions on which the best one's IoU is above and below the `second` one's, `chance` is
    the exact two-sided sign test of the two counts. Questions that name no box count with an IoU of 0 everywhere.
    """
    scores = {
        box_format: [grounding(a.boxes(box_format), a.truth, a.original) for a in answers] for box_format in FORMATS
    }
    formats = {box_format: _figures(rows) for box_format, rows in scores.items()}
    best, second = sorted(FORMATS, key=lambda box_format: -formats[box_format]["iou"])[:2]
    pairs = [(a.iou, b.iou) for a, b in zip(scores[best], scores[second], strict=True)]
    better, worse = sum(a > b for a, b in pairs), sum(a < b for a, b in pairs)
    chance = sign_test(better, worse)
    return {
        "questions": len(answers),
        "named": sum(bool(answer.written) for answer in answers),
        "square": sum(all(width == height for width, height in answer.original) for answer in answers),
        "formats": formats,
        "best": best,
        "second": second,
        "better": better,
        "worse": worse,
        "chance": chance,
        "fits": formats[best]["iou"] >= FITS,
        "clear": formats[best]["iou"] >= FITS and better > worse and chance < SURE,
    }


def _figures(rows: Sequence[Grounding]) -> dict[str, float]:
    n = len(rows)
    return {
        "iou": sum(row.iou for row in rows) / n,
        "iogt": sum(row.iogt for row in rows) / n,
        "hits": sum(row.iou >= HIT for row in rows),
    }


def sign_test(better: int, worse: int) -> float:
    """Chance of counts at least so uneven where either side is as likely; 1 where there is nothing to count."""
    n, fewer = better + worse, min(better, worse)
    return min(1.0, 2 * sum(math.comb(n, k) for k in range(fewer + 1)) / 2**n)


def text(report: dict) -> str:
    lines = [
        f"{report['model']}: {report['questions']} questions with boxes, {report['named']} answered with one; "
        f"the images of {report['square']} are square",
        "",
        f"{'box_format':14}{'mean IoU':>10}{'mean IoGT':>11}{f'IoU >= {HIT}':>11}  what a number is",
    ]
    for box_format, row in sorted(report["formats"].items(), key=lambda item: -item[1]["iou"]):
        lines.append(f"{box_format:14}{row['iou']:10.3f}{row['iogt']:11.3f}{row['hits']:11}  {MEANING[box_format]}")
    return "\n".join([*lines, "", _verdict(report)])


def _verdict(report: dict) -> str:
    best, second = report["best"], report["second"]
    if not report["named"]:
        return (
            "Not measured: no answer names a box. The checkpoint does not ground in these words, or not these images."
        )
    if not report["fits"]:
        return f"None fits: a mean IoU under {FITS} is what boxes put anywhere reach. More rows will not help."
    against = f"IoU above that of {second} on {report['better']} questions, below on {report['worse']}"
    if not report["clear"]:
        more = "more rows, and not of square images" if {best, second} == {"unit", "unit-padded"} else "more rows"
        return f"Not clear: {best} is ahead, {against} (chance {report['chance']:.2g}); give {more}"
    used = "which this family uses" if best == report["own"] else f"model.box_format={best}"
    return f"Clear: {best}, {used}; {against} (chance {report['chance']:.2g})."
