"""The page of an evaluation: its figures with intervals, what to look out for, and a few questions of each verdict."""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from pathlib import Path

from PIL import Image

from hart_lite.errors import HartError
from hart_lite.eval.grounding import IOU_THRESHOLDS
from hart_lite.eval.metrics import SCORES, metrics
from hart_lite.eval.prediction import Prediction
from hart_lite.eval.questions import images_of
from hart_lite.eval.results import Evaluation, read_evaluation
from hart_lite.eval.summary import ABOUT, Modes, cautions, flat
from hart_lite.report.cards import sections
from hart_lite.report.charts import drawn_charts, iou_chart
from hart_lite.report.gallery import groups_of
from hart_lite.report.html import LEGEND, Pictures, facts, navigation, page, save_page, section, unfold
from hart_lite.types import ImageSource

CARDS = 3  # questions of each verdict
SIDE = 520  # pixels of the longer side of a picture
_HEAD = ("questions", "right, strict", "right, official", "looked in the wrong place", "mean IoU", "coverage")

ImageOf = Callable[[Prediction], ImageSource]


def evaluation_page(folder: Path) -> str:
    """Reads the folder and, where the evaluation read them, its images; without those the words stand alone."""
    evaluation = read_evaluation(folder)
    try:
        image_of = images_of(evaluation)
    except HartError as error:
        image_of = _none_because(str(error))
    return page_of(evaluation, metrics(evaluation), image_of)


def write_evaluation_page(folder: Path) -> Path:
    """EVAL/report.html, made anew; returns its path."""
    return save_page(folder, evaluation_page(folder))


def page_of(evaluation: Evaluation, found: dict[str, Modes], image_of: ImageOf) -> str:
    """`found` is `metrics(evaluation)`."""
    pictures = Pictures()

    def keep(image: Image.Image, name: str) -> str:
        if (url := pictures.url(image, SIDE)) is None:
            raise HartError("left out to keep this file small; hart-lite gallery shows it")
        return url

    groups = groups_of(evaluation, CARDS, image_of, keep)
    parts = [
        ("watch", "What to look out for", _cautions(found), ""),
        ("figures", "Figures", _figures(found), ABOUT.replace("`", "")),
        ("curve", "How tightly the boxes fit", drawn_charts(_iou(found)), ""),
        ("questions", "Questions", LEGEND + sections(groups), f"The first {CARDS} of each verdict; hart-lite gallery "
         "shows more."),
        ("settings", "Settings", _settings(evaluation), ""),
    ]  # fmt: skip
    asked = sum(next(iter(modes.values()))["questions"] for modes in found.values())
    body = (
        f'<header>\n<h1>{escape(evaluation.model)}</h1>\n<p class="soft">{asked:,} questions of '
        f"{escape(', '.join(found))}, in the modes {escape(', '.join(evaluation.settings.get('modes') or ()))}.</p>\n"
        "</header>\n"
        + navigation([(anchor, title, html) for anchor, title, html, _ in parts])
        + "".join(section(anchor, title, about, html) for anchor, title, html, about in parts)
    )
    return page(f"{evaluation.model}: evaluation", f"<main>\n{body}</main>\n")


def _none_because(reason: str) -> ImageOf:
    def image_of(row: Prediction) -> ImageSource:
        raise HartError(reason)

    return image_of


def _cautions(found: dict[str, Modes]) -> str:
    cards = "".join(
        f'<div class="card caution"><h3>{escape(f"{benchmark}, {mode}")}</h3><p>{escape(sentence)}</p></div>\n'
        for benchmark, modes in found.items()
        for mode, figures in modes.items()
        for sentence in cautions(figures)
    )
    if cards:
        return f'<div class="cautions">\n{cards}</div>\n'
    return (
        '<p class="card fine">Nothing. Looked at: answers by habit, responses without an answer, boxes so large that '
        "they cannot miss, and answers that do not rest on the boxes.</p>\n"
    )


def _figures(found: dict[str, Modes]) -> str:
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in _HEAD)
    body = ""
    for benchmark, modes in found.items():
        for mode, figures in modes.items():
            pairs = zip(_HEAD, _cells(figures), strict=True)
            cells = "".join(f'<td data-of="{escape(name)}">{value}</td>' for name, value in pairs)
            body += f'<tr><th scope="row">{escape(benchmark)}, {escape(mode)}</th>{cells}</tr>\n'
    return (
        f'<div class="card scroll"><table class="wide figures"><thead><tr><th>benchmark, mode</th>{head}</tr>'
        f"</thead>\n<tbody>\n{body}</tbody></table></div>\n"
    )


def _cells(figures: dict) -> list[str]:
    right = [figures["answers"][score]["micro"] for score in SCORES]
    where = [None, None, None]
    if looked := figures.get("grounding"):
        where = [_rest(looked["grounded"]), looked["mean_iou"], looked["coverage"]]
    return [f"{figures['questions']:,}", *map(_share, right), *map(_share, where)]


def _rest(share: dict) -> dict:
    """What is left to 1."""
    low, high = (None if share[end] is None else 1 - share[end] for end in ("high", "low"))
    return share | {"value": 1 - share["value"], "low": low, "high": high}


def _share(share: dict | None) -> str:
    """In percent, its interval below it; nothing for none."""
    if share is None:
        return ""
    inside = "" if share["low"] is None else f"<small>{100 * share['low']:.1f} to {100 * share['high']:.1f}</small>"
    return f"{100 * share['value']:.1f} {inside}"


def _iou(found: dict[str, Modes]) -> list:
    """Modes that looked alike share a curve."""
    names: dict[tuple, list[str]] = {}
    for benchmark, modes in found.items():
        for mode, figures in modes.items():
            if "grounding" in figures:
                names.setdefault((benchmark, tuple(figures["grounding"]["iou_curve"])), []).append(mode)
    curves = {f"{benchmark} ({', '.join(modes)})": curve for (benchmark, curve), modes in names.items()}
    return [iou_chart(curves, IOU_THRESHOLDS)] if curves else []


def _settings(evaluation: Evaluation) -> str:
    pairs = [(name, str(value)) for name, value in flat(evaluation.settings).items()]
    bad = f'<p class="soft">Rows that could not be asked: {len(evaluation.bad_rows):,} (bad_rows.jsonl)</p>\n'
    inner = unfold("everything the rows depend on", facts(pairs)) + (bad if evaluation.bad_rows else "")
    return f'<div class="card">{inner}</div>\n'
