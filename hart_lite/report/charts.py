"""Curves: small charts for pages, as SVG data URLs for a light and for a dark one, and the IoU curve as a picture."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import cycle
from pathlib import Path
from statistics import fmean

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from hart_lite.errors import DataError
from hart_lite.eval.grounding import IOU_THRESHOLDS, summarise_grounding
from hart_lite.eval.results import Evaluation
from hart_lite.report.reader import Run
from hart_lite.runs.metrics_file import StageRows

POINTS = 240  # drawn of a line; longer ones are averaged in bins
SMOOTH = 12  # the strong line is a mean over such a part of the run
SIZE, PICTURE = (4.4, 2.4), (7.0, 5.0)  # inches of a chart, at 72 px each, and of the picture of the IoU curve
LEGEND = 50  # letters that go on a line of the legend
INK, GRID, BAND = "#24292f", "#d5dae0", "#eef1f4"
BLUE, ORANGE, GREEN = "#0a66c2", "#c2570c", "#18794e"
DARK = {INK: "#d7dce2", GRID: "#3a4149", BAND: "#22272d", BLUE: "#6cb2ff", ORANGE: "#ffa657", GREEN: "#5fd39a"}
STYLE = {
    "font.size": 9.5,
    "svg.fonttype": "none",  # text stays text: small, and in the reader's own font
    "text.parse_math": False,
    "svg.hashsalt": "hart-lite",  # the same figures give the same file
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "text.color": INK,
    "axes.edgecolor": GRID,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
}

Line = tuple[str, str]  # (what it is called, its key in metrics.jsonl)
Points = list[tuple[float, float]]
Lines = dict[str, Points]
Curves = dict[str, Sequence[float]]  # label -> the share of questions above each of IOU_THRESHOLDS


@dataclass(frozen=True)
class Chart:
    """`words` say how to read it; `light` and `dark` are data URLs; `said` tells where it ends."""

    title: str
    words: str
    light: str
    dark: str
    said: str


@dataclass(frozen=True)
class _Kind:
    title: str
    words: str
    lines: Sequence[Line]
    percent: bool = False
    stages: str = "rl"
    stacked: bool = False


_KINDS = (
    _Kind("Reward", "Samples that answered right. It should rise.", [("", "reward")], percent=True),
    _Kind("Box coverage", "How much of the image the boxes cover. It should not creep up.", [("", "coverage")], True),
    _Kind("Usable boxes", "Samples that named at least one. Without one a sample earns nothing.",
          [("", "valid_box")], True),
    _Kind("Flat groups", "Questions whose samples all earned the same, which teach nothing in that step.",
          [("", "flat_groups")], True),
    _Kind("KL divergence", "How far the policy is from its base, in nats a token. Above 1 it falls apart.",
          [("", "kl")]),
    _Kind("Sampling gap", "How far log-probs when drawn are from those in the update, on average. It should be near 0.",
          [("", "sampling_gap")]),
    _Kind("Gradient norm", "Before clipping. Jumps mean that steps are too large.", [("", "grad_norm")]),
    _Kind("Response length", "Tokens of a turn. At the limit, responses are cut short.",
          [("locate", "tokens_locate"), ("verify", "tokens_verify"), ("answer", "tokens_answer")]),
    _Kind("Seconds a step", "Where the time goes.",
          [("rollout", "seconds_rollout"), ("reference", "seconds_reference"), ("update", "seconds_update")],
          stacked=True),
    _Kind("Sampling speed", "Tokens sampled a second.", [("", "tokens_per_second")]),
    _Kind("Memory", "Peak so far, in GiB: of the card, or of the process on CPU.", [("", "peak_memory_gib")]),
    _Kind("SFT loss", "Of the answer tokens. It should fall, and not to nothing.", [("", "loss")], stages="sft"),
    _Kind("SFT tokens right", "Answer tokens that were the model's first choice.", [("", "mean_token_accuracy")],
          percent=True, stages="sft"),
    _Kind("Distillation loss", "KL from the teacher, in nats a token: how much more the crops tell. It should fall.",
          [("", "loss")], stages="distil"),
)  # fmt: skip


def charts(run: Run) -> list[Chart]:
    """Those that have something to show, the evaluations first."""
    with matplotlib.rc_context(STYLE):
        return [*_evaluations(run), *_metrics(run)]


def iou_chart(curves: Curves) -> Chart:
    """The paper's figure 3."""
    words = "Questions whose best box fits better than this. A curve further up and to the right is better."
    with matplotlib.rc_context(STYLE):
        chart = _chart("IoU over thresholds", words, [_iou_lines(curves)], (), True, _marked, "IoU")
    half = IOU_THRESHOLDS.index(0.5)
    above = "; ".join(f"{label}: {100 * shares[half]:.1f} %" for label, shares in curves.items())
    return replace(chart, said=f"IoU above 0.5 in {above}")


def write_iou_curve(evaluations: Mapping[str, Evaluation], path: Path) -> None:
    """A picture with a curve for each {name: evaluation}, benchmark and mode that looked; modes that agree share one.

    Raises `DataError` where no row has ground-truth boxes, or the picture cannot be written.
    """
    curves = {
        f"{name} {label}".strip(): shares
        for name, evaluation in evaluations.items()
        for label, shares in iou_curves(evaluation).items()
    }
    if not curves:
        raise DataError(f"{path}: no row has ground-truth boxes, so there is no IoU to draw")
    with matplotlib.rc_context(STYLE):
        figure = _figure([_iou_lines(curves)], (), True, _marked, "IoU threshold", PICTURE)
        figure.axes[0].set_title("Questions whose IoU is above the threshold", loc="left")
        try:
            figure.savefig(path, dpi=150, facecolor="white")
        except (OSError, ValueError) as error:  # ValueError: a file name whose ending is no image format
            raise DataError(f"{path}: the picture cannot be written: {error}") from error


def iou_curves(evaluation: Evaluation) -> Curves:
    """By benchmark and mode; modes with the same boxes share one."""
    names: dict[tuple, list[str]] = {}
    for benchmark, modes in evaluation.parts().items():
        for mode, rows in modes.items():
            found = [row.grounding for row in rows if row.grounding]
            if found and (mode != "full" or any(row.boxes for row in rows)):
                key = (benchmark, tuple(summarise_grounding(found)["iou_curve"]), len(found))
                names.setdefault(key, []).append(mode)
    return {f"{name}, {' and '.join(modes)}, n {n:,}": curve for (name, curve, n), modes in names.items()}


def _iou_lines(curves: Curves) -> Lines:
    return {label: list(zip(IOU_THRESHOLDS, shares, strict=True)) for label, shares in curves.items()}


def _evaluations(run: Run) -> Iterator[Chart]:
    """Figures of the held-out questions, where they were measured twice or more."""
    moments = [(moment.at, figures) for moment, figures in run.evaluations.items()]
    if len(moments) < 2:
        return
    modes = list(dict.fromkeys(mode for _, figures in moments for mode in figures["accuracy"]))
    right = {mode: [(at, f["accuracy"][mode]) for at, f in moments if mode in f["accuracy"]] for mode in modes}
    yield _chart("Held-out answers right", "By what is in sight when answering.", [right], run.stages, True, _marked)
    looked = [(at, figures["grounding"]) for at, figures in moments if "grounding" in figures]
    if len(looked) < 2:
        return
    names = {"wrong grounding": "wrong_grounding", "mean IoU": "mean_iou", "coverage": "coverage"}
    where = {name: [(at, found[key]) for at, found in looked] for name, key in names.items()}
    words = "Wrong grounding should fall and IoU rise; boxes that only grow lift coverage and not IoU."
    yield _chart("Held-out grounding", words, [where], run.stages, True, _marked)


def _metrics(run: Run) -> Iterator[Chart]:
    for kind in _KINDS:
        stages = [stage for stage in run.stages if stage.kind == kind.stages]
        found = [{name: _points(stage, key) for name, key in kind.lines} for stage in stages]
        parts = [{name: points for name, points in part.items() if points} for part in found]
        parts = [part for part in parts if part]
        if parts:
            yield _chart(kind.title, kind.words, parts, stages, kind.percent, _stacked if kind.stacked else _smoothed)


def _points(stage: StageRows, key: str) -> Points:
    """(step of the run, value), finite ones only."""
    found = ((stage.begins + row["step"], row.get(key)) for row in stage.rows)
    return [(at, float(v)) for at, v in found if isinstance(v, int | float) and math.isfinite(v)]


def _chart(
    title: str,
    words: str,
    parts: Sequence[Lines],
    stages: Sequence[StageRows],
    percent: bool,
    draw: Callable[[Axes, Lines], None],
    across: str = "step",
) -> Chart:
    figure = _figure(parts, stages, percent, draw, across, SIZE)
    file = io.BytesIO()
    FigureCanvasSVG(figure).print_svg(file, metadata={"Date": None, "Creator": None})
    light = file.getvalue().decode()
    dark = light
    for colour, other in DARK.items():
        dark = dark.replace(colour, other)
    latest = ", ".join(f"{name} {_said(points[-1][1], percent)}".strip() for name, points in parts[-1].items())
    return Chart(title, words, _url(light), _url(dark), f"last: {latest}")


def _figure(
    parts: Sequence[Lines],
    stages: Sequence[StageRows],
    percent: bool,
    draw: Callable[[Axes, Lines], None],
    across: str,
    size: tuple[float, float],
) -> Figure:
    """Each part is drawn by itself: one stage's line does not run into the next one's."""
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.add_subplot()
    for part in parts:
        draw(axes, {name: _binned(points) for name, points in part.items()})
    _mark_stages(axes, stages)
    axes.set_xlabel(across, labelpad=1)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=across == "step"))
    _scale(axes, percent)
    named = dict(zip(*axes.get_legend_handles_labels()[::-1], strict=True))  # once each
    if any(name for part in parts for name in part):
        columns = len(named) if sum(map(len, named)) < LEGEND else 1
        figure.legend(named.values(), named, loc="outside upper left", ncols=columns, handlelength=1.2)
    return figure


def _scale(axes: Axes, percent: bool) -> None:
    least, most = axes.dataLim.intervaly
    axes.yaxis.set_major_locator(MaxNLocator(4))
    if percent:
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=None))
    if percent and most > 0.5:
        axes.set_yticks([0, 0.25, 0.5, 0.75, 1])
        axes.set_ylim(0, 1.04)
    elif least >= 0:
        axes.set_ylim(0, 1.08 * most or 1)


def _url(svg: str) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode()


def _said(value: float, percent: bool) -> str:
    return f"{100 * value:.1f} %" if percent else f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _binned(points: Points) -> Points:
    """At most `POINTS`, each the mean of as many consecutive ones."""
    size = -(-len(points) // POINTS)
    bins = [points[start : start + size] for start in range(0, len(points), size)]
    return [(fmean(at for at, _ in b), fmean(value for _, value in b)) for b in bins]


def _smoothed(axes: Axes, lines: Lines) -> None:
    for colour, (name, points) in zip(cycle((BLUE, ORANGE, GREEN)), lines.items(), strict=False):
        at, raw = zip(*points, strict=True)
        reach = len(raw) // SMOOTH // 2
        if not reach:
            axes.plot(at, raw, color=colour, linewidth=1.8, label=name, marker="." if len(raw) < 20 else None)
            continue
        axes.plot(at, raw, color=colour, linewidth=0.8, alpha=0.35)
        near = (raw[max(n - reach, 0) : n + reach + 1] for n in range(len(raw)))
        axes.plot(at, [fmean(part) for part in near], color=colour, linewidth=1.8, label=name)


def _stacked(axes: Axes, lines: Lines) -> None:
    if len({len(points) for points in lines.values()}) > 1:  # nothing to stack a step on that lacks one of them
        return _smoothed(axes, lines)
    at = [x for x, _ in next(iter(lines.values()))]
    heights = [[value for _, value in points] for points in lines.values()]
    axes.stackplot(at, *heights, labels=list(lines), colors=(BLUE, ORANGE, GREEN), alpha=0.85, linewidth=0)


def _marked(axes: Axes, lines: Lines) -> None:
    for colour, mark, (name, points) in zip(cycle((BLUE, ORANGE, GREEN)), cycle("os^D"), lines.items(), strict=False):
        axes.plot(*zip(*points, strict=True), color=colour, marker=mark, markersize=4.5, linewidth=1.6, label=name)


def _mark_stages(axes: Axes, stages: Sequence[StageRows]) -> None:
    """Every second stage lies on a band, where there are several; those that have no point yet are left out."""
    begun = [stage for stage in stages if stage.begins < axes.dataLim.x1]
    for n, stage in enumerate(begun if len(stages) > 1 else ()):
        if n % 2:
            axes.axvspan(stage.begins, stage.begins + stage.steps, color=BAND, zorder=-1, linewidth=0)
        axes.annotate(stage.name, (stage.begins + stage.steps / 2, 1), xycoords=("data", "axes fraction"),
                      ha="center", va="bottom", fontsize=7, color=INK)  # fmt: skip
