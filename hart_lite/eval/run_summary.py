"""Evaluations side by side, as a Markdown table."""

from __future__ import annotations

from collections.abc import Callable

Row = tuple[str, Callable[[dict], float | None]]


def figures_of(summary: dict[str, dict]) -> list[Row]:
    """(name, how to read it from an evaluation) of each figure that one of them has."""
    modes = list(dict.fromkeys(mode for figures in summary.values() for mode in figures["accuracy"]))
    rows: list[Row] = [(f"answers right, {mode}", lambda f, m=mode: f["accuracy"].get(m)) for mode in modes]
    rows.append(("valid box", lambda f: f["valid_box"]))
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


def summary_table(summary: dict[str, dict]) -> str:
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
