"""Which numbers does a base write for a box? It is asked where the drawn things are, in its family's own words, and its
answers are read under every known format and held against the truth.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hart_lite.box_formats import FORMATS, BoxFormat
from hart_lite.eval.box_format_probe import FITS, HIT, SURE, Answer, ask, sign_test
from hart_lite.eval.grounding import grounding
from hart_lite.inference.rollout import Runner
from hart_lite.types import Example


@dataclass(frozen=True)
class Reading:
    """Of all answers under one format: mean IoU with the truth, and how many boxes are on it (IoU of at least 0.5)."""

    iou: float
    hits: int


@dataclass(frozen=True)
class Boxes:
    """`named`: questions answered with a box. `best` is the format with the largest mean IoU, the family's `own` one
    where they are equal; `sure`: too many questions have a larger IoU under it than under `own` for chance."""

    questions: int
    named: int
    own: BoxFormat
    best: BoxFormat
    readings: dict[BoxFormat, Reading]
    sure: bool

    @property
    def fits(self) -> bool:
        """Boxes put anywhere do not come so near."""
        return self.readings[self.best].iou >= FITS


def probe(runner: Runner, examples: Sequence[Example]) -> Boxes:
    """Asks greedily. Raises `NotFiniteError`."""
    return read(ask(runner, examples), runner.policy.family.box_format)


def read(answers: Sequence[Answer], own: BoxFormat) -> Boxes:
    scores = {frame: [grounding(a.boxes(frame), a.truth, a.original).iou for a in answers] for frame in FORMATS}
    readings = {
        frame: Reading(sum(ious) / len(ious), sum(iou >= HIT for iou in ious)) for frame, ious in scores.items()
    }
    best = max(FORMATS, key=lambda frame: (readings[frame].iou, frame == own))
    pairs = list(zip(scores[best], scores[own], strict=True))
    chance = sign_test(sum(a > b for a, b in pairs), sum(a < b for a, b in pairs))
    named = sum(bool(answer.written) for answer in answers)
    return Boxes(len(answers), named, own, best, readings, best != own and chance < SURE)
