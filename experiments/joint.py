"""The paper's table 1 before and after each method: `python -m experiments.joint`, on the runs of `methods`.

Whether the answers rest on the boxes: with the image in sight (mode `full+crops`) and from the crops alone. Runs that
are there are read, those that are missing are trained; give both commands the same overrides.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from experiments.methods import METHODS, evaluations, in_words, made_by, measure, parser, write
from experiments.paired import Asked, interval, right, share, wrong
from hart_lite.eval.grounding import joint_table, mutual_information
from hart_lite.report.paper_tables.published import paper_table
from hart_lite.report.paper_tables.rows import JOINT
from hart_lite.runs.layout import BEFORE
from hart_lite.utils.markdown import markdown_table

MODES = {"image in sight": "full+crops", "crops alone": "crops"}
HEAD = ["P(wrong box)", "P(right given wrong box)", "P(right given right box)", "P(wrong box given right)", "I(L;R)"]


def given(event: np.ndarray, condition: np.ndarray) -> float:
    """P(event given condition) of two tables of 0 and 1; not a number where the condition is never met."""
    return float((event * condition).sum() / condition.sum()) if condition.any() else float("nan")


def bits(wrong_S_Q: np.ndarray, right_S_Q: np.ndarray) -> float:
    """I(L;R), averaged over seeds: questions of several policies in one table would mix what each of them does."""
    tables = (joint_table(r.astype(bool), ~w.astype(bool)) for w, r in zip(wrong_S_Q, right_S_Q, strict=True))
    return float(np.mean([mutual_information(table) for table in tables]))


def cells(asked: Asked, mode: str) -> list[str]:
    """The figures of `HEAD` with their intervals, shares in percent."""
    w, r = asked.values(mode, wrong), asked.values(mode, right)
    low, high = interval(bits, asked.images, w, r)
    return [
        share(lambda wrong_S_Q: float(wrong_S_Q.mean()), asked.images, w),
        share(lambda w, r: given(r, w), asked.images, w, r),
        share(lambda w, r: given(r, 1 - w), asked.images, w, r),
        share(given, asked.images, w, r),
        f"{bits(w, r):.3f} ({low:.3f}-{high:.3f})",
    ]


def paper_rows(hart: bool) -> list[list[str]]:
    """What the paper counted, in the same figures; Qwen2.5-VL-7B and InternVL3-8B."""
    rows = []
    for row in paper_table(1)["rows"]:
        if row["hart"] == hart:
            (ww, wr), (rw, rr) = table = [[row[key] for key in keys] for keys in JOINT]
            shares = [(ww + wr) / (ww + wr + rw + rr), wr / (ww + wr), rr / (rw + rr), wr / (wr + rr)]
            found = [*(f"{100 * one:.1f}" for one in shares), f"{mutual_information(table):.3f}"]
            rows.append([f"{row['method']} (paper)", *found])
    return rows


def tables(results: Mapping[str, Sequence[Path]]) -> str:
    """For every evaluation, with the image in sight and without it."""
    parts = []
    for title, mode in MODES.items():
        rows = [["base", *cells(Asked(next(iter(results.values())), BEFORE), mode)], *paper_rows(mode == "crops")]
        for stage in evaluations(results):
            rows += [[f"{name}, {stage}", *cells(Asked(runs, stage), mode)] for name, runs in results.items()]
        parts.append(f"**{title.capitalize()}**\n\n{markdown_table(['model', *HEAD], rows)}")
    return "\n\n".join(parts)


def main() -> None:
    made = parser(__doc__, "joint", 5)
    made.set_defaults(runs=Path("runs/methods"))
    arguments = made.parse_args()
    results = measure(arguments.runs, METHODS, arguments.seeds, arguments.jobs, arguments.overrides)
    about = (
        f"{made_by('joint', arguments)} Shares in percent, I(L;R) in bits, with 95 % intervals by bootstrap over seeds "
        "and images. The paper's rows are its table 1: with the image in sight without HART's loop, from crops with it."
    )
    write(f"{about}\n\n{tables(results)}", arguments.out)


if __name__ == "__main__":
    in_words(main)
