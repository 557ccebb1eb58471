"""Figures of an evaluation, for each benchmark and mode: both graders, and where the model looked."""

from __future__ import annotations

from collections.abc import Iterable

from hart_lite.analysis import summarise_grounding


def summarise_rows(rows: Iterable[dict]) -> dict[str, dict[str, dict]]:
    """{benchmark: {mode: figures}} of prediction rows; `grounding` where a benchmark has boxes and a mode looks."""
    groups: dict[str, dict[str, list[dict]]] = {}
    for row in rows:
        groups.setdefault(row["benchmark"], {}).setdefault(row["mode"], []).append(row)
    return {name: {mode: _figures(found) for mode, found in modes.items()} for name, modes in groups.items()}


def _figures(rows: list[dict]) -> dict:
    figures: dict = {"questions": len(rows)}
    figures |= {column: sum(row[column] for row in rows) / len(rows) for column in ("strict", "official")}
    grounded = [row["grounding"] for row in rows if "grounding" in row]
    return figures | ({"grounding": summarise_grounding(grounded)} if grounded else {})


def summary_lines(summary: dict[str, dict[str, dict]]) -> str:
    """The figures as a Markdown table."""
    lines = [
        "| benchmark | mode | questions | strict | official | wrong grounding | mean IoU | coverage |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, modes in summary.items():
        for mode, figures in modes.items():
            found = figures.get("grounding", {})
            shares = [figures["strict"], figures["official"]]
            shares += [found.get(figure) for figure in ("wrong_grounding", "mean_iou", "coverage")]
            cells = " | ".join("" if value is None else f"{value:.3f}" for value in shares)
            lines.append(f"| {name} | {mode} | {figures['questions']} | {cells} |")
    return "\n".join(lines)
