"""The page of an evaluation: its figures with intervals, what to look out for, and a few questions of each outcome."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from hart_lite.errors import HartError
from hart_lite.eval.metrics import SCORES, metrics
from hart_lite.eval.prediction import Prediction
from hart_lite.eval.questions import images_of
from hart_lite.eval.results import Evaluation, read_evaluation
from hart_lite.eval.summary import ABOUT, Modes, cautions, flat
from hart_lite.report.charts import iou_chart, iou_curves
from hart_lite.report.gallery import ImageOf, groups_of
from hart_lite.report.html import Pictures, page, save_page
from hart_lite.types import ImageSource

CARDS = 3  # questions of each outcome
HEAD = ("questions", "right, strict", "right, official", "looked in the wrong place", "mean IoU", "coverage")

Cell = tuple[str, str]  # a figure, and its interval


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
    pictures, parts = Pictures(), [(b, m, f) for b, modes in found.items() for m, f in modes.items()]

    def keep(image: Image.Image, name: str, side: int) -> str | None:
        return pictures.url(image, side)

    curves = iou_curves(evaluation)
    asked = sum(next(iter(modes.values()))["questions"] for modes in found.values())
    modes = ", ".join(evaluation.settings.get("modes") or ())
    return page(
        "evaluation.html",
        title=f"{evaluation.model}: evaluation",
        model=evaluation.model,
        about=f"{asked:,} questions of {', '.join(found)}, in the modes {modes}.",
        cautions=[(f"{b}, {m}", sentence) for b, m, figures in parts for sentence in cautions(figures)],
        figures_about=ABOUT.replace("`", ""),
        head=HEAD,
        rows=[(f"{b}, {m}", _cells(figures)) for b, m, figures in parts],
        charts=[iou_chart(curves)] if curves else [],
        questions_about=f"The first {CARDS} of each outcome; hart-lite gallery {evaluation.folder} shows more.",
        groups=groups_of(evaluation, CARDS, image_of, keep),
        settings=[(name, str(value)) for name, value in flat(evaluation.settings).items()],
        bad_rows=len(evaluation.bad_rows),
    )


def _none_because(reason: str) -> ImageOf:
    def image_of(row: Prediction) -> ImageSource:
        raise HartError(reason)

    return image_of


def _cells(figures: dict) -> list[Cell]:
    right = [figures["answers"][score]["micro"] for score in SCORES]
    where = [None, None, None]
    if looked := figures.get("grounding"):
        where = [_rest(looked["grounded"]), looked["mean_iou"], looked["coverage"]]
    return [(f"{figures['questions']:,}", ""), *map(_share, right), *map(_share, where)]


def _rest(share: dict) -> dict:
    """What is left to 1."""
    low, high = (None if share[end] is None else 1 - share[end] for end in ("high", "low"))
    return share | {"value": 1 - share["value"], "low": low, "high": high}


def _share(share: dict | None) -> Cell:
    """In percent, with its interval; nothing for none."""
    if share is None:
        return "", ""
    interval = "" if share["low"] is None else f"{100 * share['low']:.1f} to {100 * share['high']:.1f}"
    return f"{100 * share['value']:.1f}", interval
