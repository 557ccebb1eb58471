"""The evaluations of a training run side by side: few figures of each, as a Markdown table."""

from __future__ import annotations

from collections.abc import Callable

from hart_lite.eval.metrics import metrics
from hart_lite.eval.results import Evaluation

Row = tuple[str, Callable[[dict], float | None]]


def run_metrics(evaluation: Evaluation) -> dict:
    """What a run's summary.json holds of an evaluation of its held-out questions: accuracy in each mode, the share of
    questions with a usable box, grounding, and what answers and boxes say of each other in each mode."""
    [modes] = metrics(evaluation).values()
    first = next(iter(modes.values()))
    figures: dict = {
        "questions": first["questions"],
        "accuracy": {mode: found["answers"]["strict"]["micro"]["value"] for mode, found in modes.items()},
    }
    for found in modes.values():
        if "valid_box" in found:
            figures["valid_box"] = found["valid_box"]["value"]
        if "grounding" in found:
            grounding = found["grounding"]
            values = {key: grounding[key]["value"] for key in ("grounded_per_target", "mean_iou", "coverage")}
            wrong = 1 - grounding["grounded"]["value"]
            figures["grounding"] = {"wrong_grounding": wrong, **values, "iou_curve": grounding["iou_curve"]}
    worth = {arm: found["crops_worth"]["value"] for arm, found in modes.items() if found.get("crops_worth")}
    if worth:
        figures["crops_worth"] = worth
    joint = {mode: found["joint"] for mode, found in modes.items() if "joint" in found}
    if joint:
        figures["joint"] = {
            mode: {
                "counts": table["counts"],
                "wrong_box_given_right": (table["wrong_box_given_right"] or {}).get("value"),
                "mutual_information": table["mutual_information"],
            }
            for mode, table in joint.items()
        }
    return figures


def figures_of(summary: dict[str, dict]) -> list[Row]:
    """(name, how to read it from an evaluation) of each figure that one of them has."""
    modes = list(dict.fromkeys(mode for figures in summary.values() for mode in figures["accuracy"]))
    rows: list[Row] = [(f"answers right, {mode}", lambda f, m=mode: f["accuracy"].get(m)) for mode in modes]
    if any("valid_box" in figures for figures in summary.values()):
        rows.append(("valid box", lambda f: f.get("valid_box")))
    for arm in dict.fromkeys(arm for figures in summary.values() for arm in figures.get("crops_worth", {})):
        rows.append((f"what the crops are worth, crops - {arm}", lambda f, a=arm: f.get("crops_worth", {}).get(a)))
    if any("grounding" in figures for figures in summary.values()):
        grounding = {
            "wrong grounding (IoGT <= 0.3)": "wrong_grounding",
            "mean IoU": "mean_iou",
            "box coverage": "coverage",
        }
        rows += [(title, lambda f, k=key: f.get("grounding", {}).get(k)) for title, key in grounding.items()]
        if "crops" in modes:
            joint = {
                "P(wrong box given right), crops": "wrong_box_given_right",
                "I(L;R) in bits, crops": "mutual_information",
            }
            rows += [
                (title, lambda f, k=key: f.get("joint", {}).get("crops", {}).get(k)) for title, key in joint.items()
            ]
    return rows


def run_summary_table(summary: dict[str, dict]) -> str:
    """One column for each evaluation, in order. Figures that one lacks are left blank."""
    if not summary:
        return "No held-out questions (data.eval), so nothing was measured."
    names = list(summary)
    questions = ", ".join(str(figures["questions"]) for figures in summary.values())
    lines = [f"| held-out questions: {questions} | " + " | ".join(names) + " |", "| --- |" + " ---: |" * len(names)]
    for title, get in figures_of(summary):
        values = [get(figures) for figures in summary.values()]
        lines.append(f"| {title} | " + " | ".join("" if v is None else f"{v:.3f}" for v in values) + " |")
    return "\n".join(lines)
