"""How much the loop must be closed: `python -m experiments.dose` writes results/dose.svg and results/dose.md.

The share of training questions that can be answered at a glance is the dose. Where the answer can be had without
looking, a reward that is earned with the image in sight says nothing of the box. At each dose every method trains from
the same base on the same scenes at an equal budget; all are then asked the same held-out questions, half of which can
be answered at a glance.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from experiments.methods import METHODS, evaluations, in_words, made_by, measure, parser, spread, write
from experiments.paired import Asked, difference, interval, wrong
from hart_lite.report.charts import BLUE, GREEN, INK, ORANGE, STYLE
from hart_lite.runs.layout import BEFORE
from hart_lite.utils.markdown import markdown_table

SHARES = "0,0.3,0.6,0.9,0.97"
COMPARED = {"GRPO": "GRPO", "MGPO": "MGPO", "HART": "HART, k = 0.60"}
LOOKS = {"GRPO": (ORANGE, "^"), "MGPO": (BLUE, "s"), "HART": (GREEN, "o")}
SETTING = [
    "stages=[{kind: rl, steps: 80, lr: 5.0e-4}]",
    "evaluate.modes=[crops]",
    "data.eval_toy={glance_share: 0.5, eval_scenes: 200}",
]
Doses = dict[float, dict[str, Asked]]


def collect(results: Mapping[float, Mapping[str, list[Path]]]) -> tuple[Asked, Doses]:
    """(the base, {dose: {method: after the last stage}})."""
    first = next(iter(next(iter(results.values())).values()))
    after = {
        dose: {name: Asked(runs, evaluations(of)[-1]) for name, runs in of.items()} for dose, of in results.items()
    }
    return Asked(first, BEFORE), after


def table(base: Asked, doses: Doses) -> str:
    """Wrong grounding for each dose and method, and how far HART is from MGPO."""
    names = list(next(iter(doses.values())))
    head = ["answerable at a glance", *(f"{name}, wrong (%)" for name in names), "HART - MGPO"]
    rows = [["before RL", *[spread(100 * base.values("crops", wrong).mean(axis=1))] * len(names), ""]]
    for dose, asked in doses.items():
        values = {name: one.values("crops", wrong) for name, one in asked.items()}
        rows.append([f"{100 * dose:g} %", *(spread(100 * values[name].mean(axis=1)) for name in names)])
        rows[-1].append(difference(base.images, values["HART"], values["MGPO"]))
    return markdown_table(head, rows)


def picture(base: Asked, doses: Doses) -> Figure:
    """Wrong boxes over the dose, a line for each method, with 95 % intervals."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7, 3.6), layout="constrained", facecolor="white")
        axes = figure.add_subplot()
        before = 100 * base.values("crops", wrong).mean()
        axes.axhline(before, color=INK, linestyle=":", linewidth=1)
        axes.annotate("before training", (0, before), xytext=(2, 3), textcoords="offset points", fontsize=8.5)
        across = [100 * dose for dose in doses]
        for name in next(iter(doses.values())):
            colour, marker = LOOKS[name]
            tables = [asked[name].values("crops", wrong) for asked in doses.values()]
            means = [100 * values.mean() for values in tables]
            ends = [interval(lambda values: float(values.mean()), base.images, values) for values in tables]
            low, high = ([100 * end[side] for end in ends] for side in (0, 1))
            axes.fill_between(across, low, high, color=colour, alpha=0.15, linewidth=0)
            axes.plot(across, means, color=colour, marker=marker, markersize=5, linewidth=1.8, label=name)
        axes.set_xlabel("training questions that can be answered at a glance (%)")
        axes.set_ylabel("wrong boxes after RL (%)")
        axes.set_ylim(0, None)
        axes.legend(loc="center left")
    return figure


def main() -> None:
    made = parser(__doc__, "dose", 1)
    made.add_argument("--shares", default=SHARES, help="doses, between commas")
    made.add_argument("--methods", default=",".join(COMPARED), help="MGPO, HART and, unless left out, GRPO")
    arguments = made.parse_args()
    if unknown := set(arguments.methods.split(",")) - set(COMPARED):
        made.error(f"--methods: {', '.join(sorted(unknown))} is none of {', '.join(COMPARED)}")
    methods = {name: METHODS[COMPARED[name]] for name in arguments.methods.split(",")}
    results = {}
    for share in map(float, arguments.shares.split(",")):
        settings = [*SETTING, f"data.toy.glance_share={share}", *arguments.overrides]
        results[share] = measure(arguments.runs / f"{share:g}", methods, arguments.seeds, arguments.jobs, settings)
    base, doses = collect(results)
    command = f"dose --shares {arguments.shares} --methods {arguments.methods}"
    about = (
        f"{made_by(command, arguments)} Wrong boxes (IoGT <= 0.3) on {len(base.images)} "
        "held-out questions; mean ± standard deviation over seeds; HART - MGPO paired by seed and question, with its "
        "95 % interval by bootstrap over seeds and images."
    )
    write(f"{about}\n\n{table(base, doses)}", arguments.out)
    with matplotlib.rc_context(STYLE):
        picture(base, doses).savefig(arguments.out.with_suffix(".svg"), metadata={"Date": None, "Creator": None})


if __name__ == "__main__":
    in_words(main)
