"""What an evaluation comes to: for every benchmark and mode the answers, where the model looked, and what the one says
of the other. Shares carry a 95 % interval over images; `None` where one image says nothing of the spread.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from hart_lite.eval.grounding import joint_table, mutual_information, summarise_grounding
from hart_lite.eval.prediction import Grounding, Prediction
from hart_lite.eval.results import Evaluation
from hart_lite.eval.statistics import bootstrap_interval, permutation_test
from hart_lite.grading import normalise
from hart_lite.inference.protocols.registry import ARMS
from hart_lite.utils.text import cut

SCORES = ("strict", "official")


def metrics(evaluation: Evaluation) -> dict[str, dict[str, dict]]:
    """{benchmark: {mode: figures}}, fit for JSON."""
    out: dict[str, dict[str, dict]] = {}
    for benchmark, modes in evaluation.parts().items():
        found = {mode: mode_metrics(rows, grounding_rows(mode, modes)) for mode, rows in modes.items()}
        for arm in (arm for arm in ARMS if arm in modes and "crops" in modes):
            found[arm]["crops_worth"] = crops_worth(modes["crops"], modes[arm])
        out[benchmark] = found
    return out


def crops_worth(crops: Sequence[Prediction], arm: Sequence[Prediction]) -> dict | None:
    """Right with the crops minus right with what an arm showed in their place, question by question. Questions whose
    boxes left no room for a control elsewhere are left out; None where no other is there."""
    instead = {row.id: row for row in arm if not row.counts.get("control_unplaced")}
    both = [row for row in crops if row.id in instead]
    if not both:
        return None
    return mean([int(row.strict) - int(instead[row.id].strict) for row in both], _clusters(both))


def grounding_rows(mode: str, modes: dict[str, list[Prediction]]) -> dict[str, Prediction]:
    """{id: the row that says where the model looked}, of questions with ground truth.

    Mode `full` answers without looking; its answers are held against the boxes that the same model named for the same
    question in a mode that looks, where there is one.
    """
    with_truth = {m: [row for row in rows if row.grounding] for m, rows in modes.items()}
    if mode == "full" and not any(row.boxes for row in with_truth[mode]):
        mode = next((m for m in ("crops", "full+crops") if m in modes), "")
    return {row.id: row for row in with_truth.get(mode, [])}


def mode_metrics(rows: Sequence[Prediction], looked: dict[str, Prediction]) -> dict:
    """The figures of the rows of one benchmark in one mode. `looked` as `grounding_rows` gives it."""
    out: dict = {
        "questions": len(rows),
        "images": len({row.cluster for row in rows}),
        "answers": {score: answers(rows, score) for score in SCORES},
        "habit": habit(rows),
        "tokens": sum(turn.response_tokens or 0 for row in rows for turn in row.turns) / len(rows),
        "counts": dict(sum((Counter(row.counts) for row in rows), Counter())),
    }
    if any(row.mode != "full" or row.boxes for row in rows):
        out["valid_box"] = mean([bool(row.boxes) for row in rows], _clusters(rows))
    pairs = [(row, looked[row.id]) for row in rows if row.id in looked]
    if pairs:
        out["grounding"] = grounding_metrics([found for _, found in pairs])
        out["joint"] = joint_metrics([row.strict for row, _ in pairs], [found for _, found in pairs])
    return out


def answers(rows: Sequence[Prediction], score: str) -> dict:
    """{"micro": over questions, "macro": over categories, "tasks", "categories": {name: share}}; a task is what stands
    before the slash of `Task/Subtask`."""
    categories = [row.category for row in rows]
    tasks = [category.partition("/")[0] if "/" in category else "" for category in categories]
    values, clusters = [getattr(row, score) for row in rows], _clusters(rows)
    return {
        "micro": mean(values, clusters),
        "macro": mean(values, clusters, categories),
        "tasks": _by(tasks, values, clusters),
        "categories": _by(categories, values, clusters),
    }


def habit(rows: Sequence[Prediction]) -> dict:
    """The answer given most often, how often it is given and how often it is right; and how many could not be read."""
    given = Counter(_plain(row, row.answer) for row in rows if row.answer is not None)
    truth = Counter(_plain(row, row.truth) for row in rows)
    answer, times = given.most_common(1)[0] if given else (None, 0)
    usual, usual_times = truth.most_common(1)[0]
    return {
        "answer": answer,
        "share": times / len(rows),
        "right_share": truth[answer] / len(rows),
        "usual_truth": usual,
        "usual_truth_share": usual_times / len(rows),
        "unread": sum(row.answer is None for row in rows) / len(rows),
    }


def grounding_metrics(looked: Sequence[Prediction]) -> dict:
    """Both readings of IoGT > 0.3, TreeBench's recall-style mIoU, coverage, and the curve over IoU thresholds."""
    found, clusters = [row.grounding for row in looked], _clusters(looked)
    boxes = [(hit, c) for f, c in zip(found, clusters, strict=True) for hit in _hits(f)]
    return {
        "grounded": mean([f.grounded for f in found], clusters),
        "grounded_per_target": mean([hit for hit, _ in boxes], [c for _, c in boxes]),
        "mean_iou": mean([f.iou for f in found], clusters),
        "coverage": mean([f.coverage for f in found], clusters),
        "iou_curve": summarise_grounding(found)["iou_curve"],
        "mode": looked[0].mode,
    }


def joint_metrics(right: Sequence[bool], looked: Sequence[Prediction]) -> dict:
    """The joint table of boxes (L) and answers (R): rows wrong/right box, columns wrong/right answer."""
    grounded, clusters = [bool(row.grounding.grounded) for row in looked], _clusters(looked)
    table = joint_table(right, grounded)
    of_right = [(not g, c) for r, g, c in zip(right, grounded, clusters, strict=True) if r]
    return {
        "counts": table,
        "wrong_box_given_right": mean([w for w, _ in of_right], [c for _, c in of_right]) if of_right else None,
        "mutual_information": mutual_information(table),
        "p": permutation_test(right, grounded, clusters=clusters),
    }


def mean(values: Sequence[float], clusters: Sequence[str], groups: Sequence[str] | None = None) -> dict:
    """{"value", "low", "high", "n"}; with `groups`, the mean of their means."""
    low, high = bootstrap_interval(values, clusters, groups=groups)
    known = not math.isnan(low)
    parts = _by_group(values, groups) if groups else [values]
    value = sum(sum(part) / len(part) for part in parts) / len(parts)
    return {"value": value, "low": low if known else None, "high": high if known else None, "n": len(values)}


def _by(names: Sequence[str], values: Sequence[float], clusters: Sequence[str]) -> dict[str, dict]:
    """{name: share} over the names that are not empty, in the order of the alphabet."""
    out = {}
    for name in sorted(set(names) - {""}):
        members = [i for i, other in enumerate(names) if other == name]
        out[name] = mean([values[i] for i in members], [clusters[i] for i in members])
    return out


def _by_group(values: Sequence[float], groups: Sequence[str]) -> list[list[float]]:
    parts: dict[str, list[float]] = {}
    for value, group in zip(values, groups, strict=True):
        parts.setdefault(group, []).append(value)
    return list(parts.values())


def _hits(found: Grounding) -> list[bool]:
    """One entry for each target."""
    return [n < found.grounded_targets for n in range(found.targets)]


def _clusters(rows: Sequence[Prediction]) -> list[str]:
    return [row.cluster for row in rows]


def _plain(row: Prediction, answer: str) -> str:
    return answer if row.choices else cut(normalise(answer))
