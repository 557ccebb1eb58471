"""Grounding, measured so that it cannot be faked by one number (method.md, section 5).

IoGT alone is won by predicting the whole image; so every summary carries mean IoU and box coverage beside it, and the
joint table of answer (R) and grounding (L) with what they tell about each other.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from hart_lite.boxes import coverage, iogt, iou
from hart_lite.eval.prediction import Grounding
from hart_lite.types import Box

IOGT_THRESHOLD = 0.3  # paper: a box covering more of the ground truth than this is right
IOU_THRESHOLDS = tuple(i / 20 for i in range(20))  # 0.0 .. 0.95, the paper's figure 3


def grounding(boxes: Sequence[Box], truth: Sequence[Box], sizes: Sequence[tuple[int, int]]) -> Grounding:
    """One question's grounding. Boxes in original pixels; `sizes` are the (width, height) of its images."""
    best_iogt = [max((iogt(box, target) for box in boxes), default=0.0) for target in truth]
    hits = sum(value > IOGT_THRESHOLD for value in best_iogt)
    covered = [coverage([box for box in boxes if box.image == n], size) for n, size in enumerate(sizes)]
    return Grounding(
        grounded=hits > 0,
        grounded_targets=hits,
        targets=len(truth),
        iogt=max(best_iogt),
        iou=recall_iou(boxes, truth),
        coverage=sum(covered) / len(covered),
    )


def recall_iou(boxes: Sequence[Box], truth: Sequence[Box]) -> float:
    """The best IoU over boxes, averaged over targets; 0 without a box. Its mean over questions is TreeBench's own mIoU.

    TreeBench's script takes the numbers of the response for original pixels; these boxes are already mapped there.
    Boxes that hit nothing cost nothing: that is what coverage is printed for.
    """
    return sum(max((iou(box, target) for box in boxes), default=0.0) for target in truth) / len(truth)


def joint_table(answers_right: Iterable[bool], grounded: Iterable[bool]) -> list[list[int]]:
    """Counts [[L0R0, L0R1], [L1R0, L1R1]]: rows grounded no/yes, columns answer wrong/right."""
    table = [[0, 0], [0, 0]]
    for right, found in zip(answers_right, grounded, strict=True):
        table[int(found)][int(right)] += 1
    return table


def mutual_information(table: Sequence[Sequence[float]]) -> float:
    """I(L;R) in bits of a 2 x 2 table of counts; 0 for an empty one."""
    total = sum(map(sum, table))
    if not total:
        return 0.0
    rows = [sum(row) for row in table]
    columns = [sum(column) for column in zip(*table, strict=True)]
    return sum(
        cell / total * math.log2(cell * total / (rows[i] * columns[j]))
        for i, row in enumerate(table)
        for j, cell in enumerate(row)
        if cell
    )


def wrong_box_given_right(table: Sequence[Sequence[float]]) -> float | None:
    """P(wrong box | right answer); None when no answer is right."""
    right = table[0][1] + table[1][1]
    return table[0][1] / right if right else None


def summarise_grounding(rows: Sequence[Grounding]) -> dict:
    """Means over questions, the share per target, and the IoU curve."""
    n = len(rows)
    return {
        "wrong_grounding": sum(not row.grounded for row in rows) / n,
        "grounded_per_target": sum(row.grounded_targets for row in rows) / sum(row.targets for row in rows),
        "mean_iou": sum(row.iou for row in rows) / n,
        "coverage": sum(row.coverage for row in rows) / n,
        "iou_curve": [sum(row.iou > t for row in rows) / n for t in IOU_THRESHOLDS],
    }
