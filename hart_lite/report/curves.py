"""The share of questions whose IoU exceeds a threshold, over thresholds 0 to 0.95, drawn (the paper's figure 3)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from hart_lite.errors import HartError
from hart_lite.eval.grounding import IOU_THRESHOLDS, summarise_grounding
from hart_lite.eval.results import read_evaluation

WIDTH, HEIGHT = 960, 560  # of the plot with its axes; the legend comes below
LEFT, RIGHT, TOP, BOTTOM = 90, 30, 60, 70
LEGEND_LINE = 32
SCALE = 2  # drawn this much larger and scaled down: PIL's lines have hard edges
FONT = 18
# Told apart by people who do not see all colours (Okabe and Ito), and by marks.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#E69F00", "#56B4E9")
GREY = "#D8D8D8"
MARKS = 4

Point = tuple[float, float]


def write_iou_curve(folders: Sequence[str | Path], path: str | Path) -> Path:
    """One curve for each evaluation, benchmark and mode that looked; those that coincide share one.

    Raises `HartError` where no row has ground-truth boxes, or the picture cannot be written.
    """
    path = Path(path)
    curves = iou_curves(folders)
    if not curves:
        raise HartError(f"{', '.join(map(str, folders))}: no row has ground-truth boxes, so there is no IoU to draw")
    try:
        draw_curves(curves).save(path)
    except (OSError, ValueError) as error:  # ValueError: a file name whose ending is no image format
        raise HartError(f"{path}: the picture cannot be written: {error}") from error
    return path


def iou_curves(folders: Sequence[str | Path]) -> dict[str, list[float]]:
    """{label: share of questions above each of `IOU_THRESHOLDS`}."""
    names: dict[tuple, list[str]] = {}
    for folder in folders:
        evaluation = read_evaluation(folder)
        for benchmark, modes in evaluation.parts().items():
            for mode, rows in modes.items():
                found = [row.grounding for row in rows if row.grounding]
                if found and (mode != "full" or any(row.boxes for row in rows)):
                    key = (evaluation.label, benchmark, tuple(summarise_grounding(found)["iou_curve"]), len(found))
                    names.setdefault(key, []).append(mode)
    return {
        f"{label}, {' and '.join(modes)}, {benchmark}, n {n:,}": list(curve)
        for (label, benchmark, curve, n), modes in names.items()
    }


def draw_curves(curves: dict[str, Sequence[float]]) -> Image.Image:
    """Values are shares (0..1) at `IOU_THRESHOLDS`."""
    size = (WIDTH, HEIGHT + LEGEND_LINE * len(curves) + 10)
    image = Image.new("RGB", (SCALE * size[0], SCALE * size[1]), "white")
    draw = ImageDraw.Draw(image)
    _axes(draw)
    for number, (label, curve) in enumerate(curves.items()):
        colour = COLOURS[number % len(COLOURS)]
        points = [_place(t, share) for t, share in zip(IOU_THRESHOLDS, curve, strict=True)]
        draw.line([_scaled(point) for point in points], fill=colour, width=3 * SCALE, joint="curve")
        for point in points:
            _mark(draw, point, number, colour)
        y = HEIGHT + LEGEND_LINE * (number + 0.5)
        draw.line([_scaled((LEFT, y)), _scaled((LEFT + 46, y))], fill=colour, width=3 * SCALE)
        _mark(draw, (LEFT + 23, y), number, colour)
        _text(draw, (LEFT + 60, y), _fitting(label, WIDTH - LEFT - 60 - RIGHT), "lm")
    return image.resize(size, Image.Resampling.LANCZOS)


def _axes(draw: ImageDraw.ImageDraw) -> None:
    for tenth in range(0, 11, 2):
        share = tenth / 10
        _line(draw, _place(0, share), _place(1, share))
        _text(draw, (LEFT - 12, _place(0, share)[1]), f"{10 * tenth} %", "rm")
        _line(draw, _place(share, 0), _place(share, 1))
        _text(draw, (_place(share, 0)[0], HEIGHT - BOTTOM + 10), f"{share:.1f}", "ma")
    draw.rectangle([_scaled(_place(0, 1)), _scaled(_place(1, 0))], outline="black", width=SCALE)
    _text(draw, (LEFT, TOP / 2), "Questions whose IoU is above the threshold", "lm")
    _text(draw, ((LEFT + WIDTH - RIGHT) / 2, HEIGHT - BOTTOM + 36), "IoU threshold", "ma")


def _place(threshold: float, share: float) -> Point:
    """Where a value lies, in pixels of the finished picture."""
    return LEFT + threshold * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)


def _scaled(point: Point) -> Point:
    return SCALE * point[0], SCALE * point[1]


def _line(draw: ImageDraw.ImageDraw, start: Point, end: Point) -> None:
    draw.line([_scaled(start), _scaled(end)], fill=GREY, width=SCALE)


def _mark(draw: ImageDraw.ImageDraw, point: Point, number: int, colour: str) -> None:
    (x, y), r = _scaled(point), 5 * SCALE
    shape = number % MARKS
    if shape == 0:
        draw.ellipse([x - r, y - r, x + r, y + r], fill=colour)
    elif shape == 1:
        draw.rectangle([x - r, y - r, x + r, y + r], fill=colour)
    elif shape == 2:
        draw.polygon([(x, y - 1.3 * r), (x - 1.2 * r, y + r), (x + 1.2 * r, y + r)], fill=colour)
    else:
        draw.polygon([(x, y - 1.4 * r), (x + 1.4 * r, y), (x, y + 1.4 * r), (x - 1.4 * r, y)], fill=colour)


def _text(draw: ImageDraw.ImageDraw, point: Point, text: str, anchor: str) -> None:
    draw.text(_scaled(point), text, fill="black", font=_font(SCALE), anchor=anchor)


def _fitting(text: str, width: float) -> str:
    """One line no wider than this: what is too long loses its middle."""
    text, font = " ".join(text.split()), _font(1)
    line, half = text, len(text) // 2
    while font.getlength(line) > width:
        half -= 1
        line = f"{text[:half]} .. {text[-half:]}"
    return line


def _font(scale: int) -> ImageFont.FreeTypeFont:
    return ImageFont.load_default(FONT * scale)
