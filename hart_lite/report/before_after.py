"""Before and after: the figures of the evaluations side by side, what each means, and how many questions changed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hart_lite.eval.prediction import Prediction
from hart_lite.eval.run_summary import figures_of
from hart_lite.eval.statistics import mcnemar
from hart_lite.report.reader import Moment, Run
from hart_lite.utils.markdown import probability

# Name of the figure -> (what it means, which way is better: 1 up, -1 down, 0 neither, as a share)
_MEANING = {
    "answers right, full": ("Answered at a glance: the small whole image, and no closer look.", 1),
    "answers right, crops": (
        "Answered from the crops alone, the image out of sight: right only where the boxes show it. What the closed "
        "loop rewards.",
        1,
    ),
    "answers right, full+crops": ("Answered with image and crops in sight, as hart-lite ask does.", 1),
    "valid box": ("Questions for which the model named a usable box.", 1),
    "wrong grounding (IoGT <= 0.3)": (
        "Questions with no box that covers more than 30 % of what was asked about: it looked elsewhere.",
        -1,
    ),
    "mean IoU": ("How tightly the best box fits: 0 % apart, 100 % the very same box. Large boxes do not help here.", 1),
    "box coverage": ("Share of the image under the boxes. If it grows, the figures above flatter.", 0),
    "P(wrong box given right), crops": ("Of the right answers from crops, how many had looked elsewhere: luck.", -1),
    "I(L;R) in bits, crops": (
        "How much the boxes tell of the answers. It shrinks, too, when nearly everything is right.",
        0,
    ),
}
_TALL = ("answers right, crops", "answers right, full+crops", "wrong grounding (IoGT <= 0.3)", "mean IoU")
_SHORT = {"wrong grounding (IoGT <= 0.3)": "looked in the wrong place"}
STILL = 0.005  # smaller changes of a share are none


@dataclass(frozen=True)
class Number:
    """`kind`: "good", "bad" or "" for a change that is none."""

    name: str
    before: str
    after: str
    kind: str


@dataclass(frozen=True)
class Row:
    """`cells` are (figure, classes) for each evaluation."""

    name: str
    words: str
    cells: list[tuple[str, str]]


@dataclass(frozen=True)
class Table:
    title: str
    head: list[str]
    rows: list[Row]


def numbers(run: Run) -> list[Number]:
    """The few that matter most: before and after."""
    if len(run.evaluations) < 2:
        return []
    before, *_, after = run.evaluations.values()
    out = []
    for name, get in figures_of({"before": before, "after": after}):
        old, new = get(before), get(after)
        if name in _TALL and old is not None and new is not None:
            out.append(Number(_SHORT.get(name, name), _share(name, old), _share(name, new), _verdict(name, old, new)))
    return out


def table(run: Run) -> Table | None:
    """One column for each evaluation before and after a stage; those in mid-stage are in the curves."""
    kept = {m: f for m, f in run.evaluations.items() if not m.name.startswith("during")} or run.evaluations
    if not kept:
        return None
    rows = [
        Row(name, _MEANING.get(name, ("", 0))[0] + _changed(name, run.answers), _cells(name, get, list(kept.values())))
        for name, get in figures_of({moment.name: figures for moment, figures in kept.items()})
    ]
    asked = ", ".join(dict.fromkeys(f"{figures['questions']:,}" for figures in kept.values()))
    return Table(f"{asked} held-out questions", [moment.title for moment in kept], rows)


def _cells(name: str, get: Callable[[dict], float | None], kept: Sequence[dict]) -> list[tuple[str, str]]:
    cells, first = [], get(kept[0])
    for n, figures in enumerate(kept):
        value = get(figures)
        verdict = _verdict(name, first, value) if n and first is not None and value is not None else ""
        kind = f"{'last' if n == len(kept) - 1 else ''} {verdict}".strip()
        cells.append(("" if value is None else _share(name, value), kind))
    return cells


def _verdict(name: str, old: float, new: float) -> str:
    better = _MEANING.get(name, ("", 0))[1] * (new - old)
    return "" if abs(better) < STILL else "good" if better > 0 else "bad"


def _share(name: str, value: float) -> str:
    return f"{value:.3f}" if " bits" in name else f"{100 * value:.1f} %"


def _changed(name: str, answers: dict[Moment, list[Prediction]]) -> str:
    """How many questions changed sides from the first to the last evaluation, and whether chance would do as much."""
    if len(answers) < 2 or not (good := _good(name)):
        return ""
    before, after = ({row.id: good(row) for row in rows if good(row) is not None} for rows in answers.values())
    pairs = [(before[i], after[i]) for i in before if i in after]
    if not pairs:
        return ""
    found = mcnemar(*zip(*pairs, strict=True))
    if not found["only_a"] + found["only_b"]:
        return " No question changed."
    return f" {found['only_b']:,} questions got better, {found['only_a']:,} worse ({probability(found['p'])})."


def _good(name: str) -> Callable[[Prediction], bool | None] | None:
    """None for a row that says nothing of it: the one of another mode."""
    kind, _, mode = name.partition(", ")
    if kind == "answers right":
        return lambda row: row.strict if row.mode == mode else None
    if kind.startswith("wrong grounding"):
        return lambda row: row.grounding.grounded if row.grounding else None
    return None


def verdict(run: Run) -> str:
    """What the run did, in a sentence."""
    if len(run.evaluations) < 2:
        return ""
    before, *_, after = run.evaluations.values()
    said: Sequence[str] = []
    if "grounding" in before and "grounding" in after:
        old, new = (100 * figures["grounding"]["wrong_grounding"] for figures in (before, after))
        said = [
            f"looked in the wrong place for {old:.1f} % of the held-out questions before, and for {new:.1f} % after"
        ]
    mode = next((mode for mode in ("crops", "full+crops", "full") if mode in before["accuracy"]), None)
    if mode and mode in after["accuracy"]:
        old, new = (100 * figures["accuracy"][mode] for figures in (before, after))
        words = {"crops": "from the crops alone", "full+crops": "from image and crops", "full": "at a glance"}[mode]
        said = [*said, f"answered {old:.1f} % of them right {words} before, and {new:.1f} % after"]
    return f"The model {'; it '.join(said)}." if said else ""
