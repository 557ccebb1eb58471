"""`summary.md` of an evaluation: for every benchmark the modes side by side, and in words what would give away a model
that answers without looking, looks without aiming, or always says the same.
"""

from __future__ import annotations

from collections.abc import Callable

from hart_lite.eval.benchmarks.registry import BENCHMARKS
from hart_lite.eval.benchmarks.scores import scores
from hart_lite.eval.grounding import IOU_THRESHOLDS
from hart_lite.eval.metrics import SCORES
from hart_lite.eval.results import Evaluation
from hart_lite.inference.protocols.registry import OURS
from hart_lite.utils.markdown import markdown_table, percent, plain, probability

ABOUT = (
    "In percent, with 95 % intervals by bootstrap over images; one without width means that all images agree, not that "
    "the value is certain. `strict` is the grader of the rewards, `official` the benchmark's own scorer, faulty or not."
)
# MGPO paper (arXiv 2507.05920): V* questions that the sub-image alone answers. Mode `crops` asks the same.
SUB_IMAGE_ALONE = "MGPO's paper reports for V*: base 47.1, GRPO 50.2, MGPO 65.2."

Modes = dict[str, dict]
Row = tuple[str, Callable[[dict], str]]


def benchmark_scores(evaluation: Evaluation) -> dict[str, Modes]:
    """{benchmark: {mode: `benchmarks.scores.scores`}}: what only the benchmark itself counts, of those we know."""
    return {
        name: {mode: scores(rows, BENCHMARKS[name]) for mode, rows in modes.items()}
        for name, modes in evaluation.parts().items()
        if name in BENCHMARKS
    }


def summary_table(found: dict[str, Modes]) -> str:
    """One line for each benchmark and mode, for the end of an evaluation."""
    head = ["benchmark", "mode", "questions", "right, strict", "official", "wrong grounding", "mean IoU", "coverage"]
    rows = []
    for name, modes in found.items():
        for mode, figures in modes.items():
            answers, looked = figures["answers"], figures.get("grounding")
            right = [percent(answers[score]["micro"]) for score in SCORES]
            where = ["", "", ""]
            if looked and looked["mode"] == mode:  # `full` looks nowhere: what it is held against is another mode's
                shares = (1 - looked["grounded"]["value"], looked["mean_iou"]["value"], looked["coverage"]["value"])
                where = [f"{100 * share:.1f}" for share in shares]
            rows.append([name, mode, f"{figures['questions']:,}", *right, *where])
    lines = [f"{plain(name)}: {worth}" for name, modes in found.items() if (worth := _worth(modes))]
    return "\n\n".join([markdown_table(head, rows, words=2), *lines])


def no_box_notes(found: dict[str, Modes]) -> list[str]:
    """Why a mode has 100 % wrong grounding, where it named no box at all."""
    return [
        f"{name}, {mode}: no response holds a box in the format that this mode asks for, so all its grounding is wrong"
        + ("." if mode in OURS else "; a model that was not trained on these tools and words names none.")
        for name, modes in found.items()
        for mode, figures in modes.items()
        if "grounding" in figures and figures["grounding"]["mode"] == mode and not figures["valid_box"]["value"]
    ]


def summary_text(evaluation: Evaluation, found: dict[str, Modes], own: dict[str, Modes]) -> str:
    """`found` is `metrics(evaluation)`, `own` is `benchmark_scores(evaluation)`."""
    settings = [[key, str(value)] for key, value in flat(evaluation.settings).items()]
    parts = [f"# {plain(evaluation.model)}", ABOUT]
    parts += [_benchmark(name, modes, own.get(name, {})) for name, modes in found.items()]
    parts += [plain(note) for note in no_box_notes(found)]
    if evaluation.bad_rows:
        parts.append(
            f"Rows of the benchmarks' files that could not be asked (bad_rows.jsonl): {len(evaluation.bad_rows)}"
        )
    return "\n\n".join([*parts, "## Settings", markdown_table(["setting", "value"], settings)]) + "\n"


def flat(settings: dict, before: str = "") -> dict[str, object]:
    """{"pixels.full": 1003520, ...}: nested settings by dotted name."""
    out: dict[str, object] = {}
    for key, value in settings.items():
        name = f"{before}{key}"
        out |= flat(value, name + ".") if isinstance(value, dict) else {name: value}
    return out


def cautions(figures: dict) -> list[str]:
    """What a reader of one mode's figures must know, in whole sentences, as text; none for a sound model."""
    habit, out = figures["habit"], []
    if habit["share"] - habit["right_share"] > 0.2:
        out.append(f"It says {habit['answer']} whatever is asked: that is a habit, not an answer.")
    if habit["usual_truth_share"] > 0.75 and figures["questions"] > 1:
        truth, share = habit["usual_truth"], 100 * habit["usual_truth_share"]
        out.append(f"{truth} is the right answer to {share:.1f} % of the questions: always saying it would do as well.")
    if habit["unread"] > 0.1:
        out.append(f"No answer could be read from {100 * habit['unread']:.1f} % of the responses.")
    if "grounding" not in figures:
        return out
    grounding, joint = figures["grounding"], figures["joint"]
    grounded, coverage = grounding["grounded"]["value"], grounding["coverage"]["value"]
    if coverage > grounded / 2 > 0 and grounding["mean_iou"]["value"] < 0.5:
        out.append(
            f"Boxes of this size ({100 * coverage:.1f} % of the image) would ground nearly as many questions wherever "
            "they are put: the mean IoU says more."
        )
    wrong = joint["wrong_box_given_right"]
    if wrong and wrong["value"] > 0.2 and joint["p"] > 0.05:
        out.append(
            f"{100 * wrong['value']:.1f} % of the right answers come with a wrong box or none, and whether the box is "
            "right makes no difference that these questions could show: the answers do not rest on the boxes."
        )
    return out


def _benchmark(name: str, modes: Modes, own: Modes) -> str:
    parts = [f"## {plain(name)}", "\n".join(line for mode, f in modes.items() for line in _at_a_glance(mode, f))]
    parts.append(_table(modes, "answers", _answer_rows(modes)))
    if rows := _own_rows(own):
        parts.append(_table(own, "as the benchmark counts", rows))
    looked = {mode: f for mode, f in modes.items() if "grounding" in f}
    if looked:
        parts += [_table(looked, "where it looked", _GROUNDING), _joint_table(looked)]
    if any(len(f["answers"]["strict"]["categories"]) > 1 for f in modes.values()):
        parts.append(_categories(modes))
    if worth := _worth(modes):
        parts.append(worth)
    if "crops" in modes:
        alone = percent(modes["crops"]["answers"]["strict"]["micro"])
        parts.append(f"Answerable from the crops alone: {alone}. {SUB_IMAGE_ALONE if name == 'vstar' else ''}".strip())
    return "\n\n".join(parts)


def _worth(modes: Modes) -> str:
    """A line where an arm was asked beside `crops`."""
    names = {"crops-control": "control crops", "crops-noise": "noise"}
    found = {name: modes[arm]["crops_worth"] for arm, name in names.items() if modes.get(arm, {}).get("crops_worth")}
    said = (f"right with crops minus right with {name} {_difference(value)}" for name, value in found.items())
    return f"What the crops are worth: {'; '.join(said)}." if found else ""


def _difference(found: dict) -> str:
    interval = "" if found["low"] is None else f"{100 * found['low']:+.1f} to {100 * found['high']:+.1f}; "
    return f"{100 * found['value']:+.1f} ({interval}n {found['n']:,})"


def _at_a_glance(mode: str, figures: dict) -> list[str]:
    habit, right = figures["habit"], 100 * figures["answers"]["strict"]["micro"]["value"]
    line = f"- `{mode}`: {right:.1f} % right."
    if habit["answer"] is not None:
        line += (
            f" {plain(habit['answer'])} is said to {100 * habit['share']:.1f} % of the questions and right for "
            f"{100 * habit['right_share']:.1f} %."
        )
    if "grounding" in figures:
        grounding, joint = figures["grounding"], figures["joint"]
        line += (
            f" Boxes ground {100 * grounding['grounded']['value']:.1f} % of the questions and cover "
            f"{100 * grounding['coverage']['value']:.1f} % of the image, mean IoU "
            f"{100 * grounding['mean_iou']['value']:.1f} %. Answers tell {joint['mutual_information']:.4f} bits about "
            f"them ({probability(joint['p'])})."
        )
    return [line, *(f"    - **{plain(caution)}**" for caution in cautions(figures))]


def _answer_rows(modes: Modes) -> list[Row]:
    rows: list[Row] = [("questions (images)", lambda f: f"{f['questions']:,} ({f['images']:,})")]
    kinds = ["micro"]
    if any(len(f["answers"]["strict"]["categories"]) > 1 for f in modes.values()):
        kinds.append("macro")
    for kind in kinds:
        for score in SCORES:
            rows.append((f"right, {score}, {kind}", lambda f, s=score, k=kind: percent(f["answers"][s][k])))
    if any("valid_box" in f for f in modes.values()):
        rows.append(("valid box", lambda f: percent(f.get("valid_box"))))
    rows.append(("no answer read", lambda f: f"{100 * f['habit']['unread']:.1f}"))
    rows.append(("response tokens a question", lambda f: f"{f['tokens']:.1f}"))
    counts = dict.fromkeys(name for f in modes.values() for name in f["counts"])
    return rows + [(name.replace("_", " "), lambda f, n=name: str(f["counts"].get(n, 0))) for name in counts]


def _own_rows(own: Modes) -> list[Row]:
    """What `scores` has beside the counts that every benchmark has; a dash where there is nothing to count."""
    rows: list[Row] = []
    if any(figures["missing"] for figures in own.values()):
        rows.append(("questions of the official files that are not here", lambda f: f"{f['missing']:,}"))
    titles = {"single": "single", "cross": "cross", "average": "mean of the four cycles", "miou": "its mIoU"}
    for key, title in titles.items():
        for score in SCORES:
            if any(key in figures[score] for figures in own.values()):
                rows.append((f"{title}, {score}", lambda f, s=score, k=key: _share(f[s][k])))
    for score in SCORES:
        if any("chose_e" in figures[score] for figures in own.values()):
            rows.append((f"E chosen, {score}", lambda f, s=score: str(f[s]["chose_e"])))
    if any("box_iou_over_half" in figures for figures in own.values()):
        rows.append(("first box with IoU > 0.5", lambda f: _share(f["box_iou_over_half"])))
    return rows


def _share(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


_GROUNDING: list[Row] = [
    ("boxes of mode", lambda f: f["grounding"]["mode"]),
    ("grounded, any target (IoGT > 0.3)", lambda f: percent(f["grounding"]["grounded"])),
    ("grounded, per target box", lambda f: percent(f["grounding"]["grounded_per_target"], with_n=True)),
    ("mean IoU (as TreeBench's mIoU)", lambda f: percent(f["grounding"]["mean_iou"])),
    ("IoU > 0.5", lambda f: f"{100 * f['grounding']['iou_curve'][IOU_THRESHOLDS.index(0.5)]:.1f}"),
    ("box coverage", lambda f: percent(f["grounding"]["coverage"])),
    ("P(wrong box given right answer)", lambda f: percent(f["joint"]["wrong_box_given_right"])),
    ("I(L;R) in bits", lambda f: f"{f['joint']['mutual_information']:.5f}"),
    ("by permutation", lambda f: probability(f["joint"]["p"])),
]


def _table(modes: Modes, title: str, rows: list[Row]) -> str:
    return markdown_table([title, *modes], [[name, *(get(f) for f in modes.values())] for name, get in rows])


def _joint_table(modes: Modes) -> str:
    """In the order of the paper's table 1."""
    head = ["questions", "right answer, wrong box", "right answer, right box", "wrong answer, wrong box"]
    rows = []
    for mode, f in modes.items():
        (wrong_wrong, wrong_right), (right_wrong, right_right) = f["joint"]["counts"]
        rows.append([mode, *map(str, (wrong_right, right_right, wrong_wrong, right_wrong))])
    return markdown_table([*head, "wrong answer, right box"], rows)


def _categories(modes: Modes) -> str:
    columns = [(mode, score) for mode in modes for score in SCORES]
    rows = []
    for kind in ("tasks", "categories"):
        for name in sorted({name for f in modes.values() for name in f["answers"]["strict"][kind]}):
            shares = [modes[mode]["answers"][score][kind].get(name) for mode, score in columns]
            n = next(share["n"] for share in shares if share)
            rows.append([name, str(n), *map(percent, shares)])
    return markdown_table(["sub-task", "n", *(f"{mode}, {score}" for mode, score in columns)], rows)
