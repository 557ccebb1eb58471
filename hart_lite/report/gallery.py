"""A page to look at: what a model was asked, where it looked, what it read there and what it said, grouped by verdict.

EVALUATION/gallery/index.html and the JPEGs beside it. The page needs nothing else: no script, no font, no network.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from hart_lite.boxes import clip
from hart_lite.errors import HartError
from hart_lite.eval.prediction import Prediction
from hart_lite.eval.results import Evaluation, read_evaluation
from hart_lite.report.cards import Card, Group, Picture, page
from hart_lite.types import Box, ImageSource

SIDE = 1000  # pixels of the longer side of a picture
CROP_SIDES = (180, 360)  # fewest and most of a crop's longer side
TRUTH, PREDICTED, CASING = "#00C853", "#FF1493", "black"
DASH = 9

GROUPS = (
    "right and grounded",
    "right but not grounded",
    "wrong but grounded",
    "wrong and not grounded",
    "no box",
    "right",  # without ground-truth boxes, or without a look
    "wrong",
)


def write_gallery(folder: str | Path, image_of: Callable[[Prediction], ImageSource], limit: int = 12) -> Path:
    """The page of an evaluation, made anew; returns its path. At most `limit` rows of each group, the first ones.

    `image_of` gives the image that a row of `predictions.jsonl` is about; where it or the image raises a `HartError`,
    the card says so in place of the picture. Raises `HartError` as `read_evaluation` does, and for a limit below 1.
    """
    if limit < 1:
        raise HartError(f"limit {limit}: a gallery shows at least 1 row of each group")
    evaluation = read_evaluation(folder)
    place = evaluation.folder / "gallery"
    place.mkdir(exist_ok=True)
    for old in [*place.glob("*.jpg"), *place.glob("index.html")]:
        old.unlink()

    def keep(image: Image.Image, name: str) -> str:
        image.save(place / f"{name}.jpg", quality=85)
        return f"{name}.jpg"

    groups = groups_of(evaluation, limit, image_of, keep)
    # Text of a model may hold halves of surrogate pairs, which no file can.
    index = place / "index.html"
    index.write_text(page(evaluation.model, groups), encoding="utf-8", errors="replace")
    return index


def group_of(row: Prediction) -> str:
    """One of `GROUPS`."""
    right = "right" if row.strict else "wrong"
    if row.mode == "full" and not row.boxes:
        return right
    if not row.boxes:
        return "no box"
    if row.grounding is None:
        return right
    if row.grounding.grounded:
        return "right and grounded" if row.strict else "wrong but grounded"
    return "right but not grounded" if row.strict else "wrong and not grounded"


def groups_of(
    evaluation: Evaluation,
    limit: int,
    image_of: Callable[[Prediction], ImageSource],
    keep: Callable[[Image.Image, str], str],
) -> list[Group]:
    """The rows by benchmark, mode and verdict, with pictures of the first `limit` of each group.

    `keep` puts a picture of this name somewhere and returns where a page finds it; both may raise `HartError`.
    """
    pictures = _Pictures(image_of, keep)
    out = []
    for benchmark, modes in evaluation.parts().items():
        for mode, rows in modes.items():
            members: dict[str, list[Prediction]] = {name: [] for name in GROUPS}
            for row in rows:
                members[group_of(row)].append(row)
            for name, found in members.items():
                if found:
                    cards = [Card(row, *pictures.of(row)) for row in found[:limit]]
                    out.append(Group(benchmark, mode, name, len(found), len(rows), cards))
    return out


class _Pictures:
    """Draws and keeps what the cards show; modes that looked at the same boxes of one image share their pictures."""

    def __init__(self, image_of: Callable[[Prediction], ImageSource], keep: Callable[[Image.Image, str], str]) -> None:
        self.image_of, self.keep = image_of, keep
        self._made: dict[tuple, tuple[list[Picture], str]] = {}

    def of(self, row: Prediction) -> tuple[list[Picture], str]:
        """(the image with its boxes and the crops, or nothing; why there is nothing)."""
        boxes, truth = row.boxes, row.truth_boxes
        key = (row.benchmark, row.cluster, tuple(boxes), tuple(truth))
        if key not in self._made:
            try:
                self._made[key] = self._draw(self.image_of(row).load(), boxes, truth), ""
            except HartError as error:
                self._made[key] = [], str(error)
        return self._made[key]

    def _draw(self, image: Image.Image, boxes: Sequence[Box], truth: Sequence[Box]) -> list[Picture]:
        """Boxes on a second image of a question are not drawn: benchmarks with boxes have one."""
        name = f"{len(self._made):05d}"
        first, targets = ([clip(box, image.size) for box in part if box.image == 0] for part in (boxes, truth))
        pictures = [self._save(draw_truth_and_boxes(image, first, targets), name, "the image with its boxes")]
        for number, box in enumerate(first, 1):
            crop = image.crop(box.whole_pixels(image.size))
            pictures.append(self._save(_at_crop_size(crop), f"{name}-{number}", f"inside box {number}"))
        return pictures

    def _save(self, image: Image.Image, name: str, title: str) -> Picture:
        return Picture(self.keep(image, name), *image.size, title)


def draw_truth_and_boxes(image: Image.Image, boxes: Sequence[Box], truth: Sequence[Box]) -> Image.Image:
    """A copy no larger than `SIDE`: ground truth dashed in green, the model's boxes in pink with their numbers.

    Boxes are in the pixels of `image`; the frames lie around them where the image leaves room.
    """
    scale = min(1.0, SIDE / max(image.size))
    small = image.resize([max(1, round(side * scale)) for side in image.size]) if scale < 1 else image.copy()
    draw = ImageDraw.Draw(small)
    font = ImageFont.load_default(20)
    for number, box in enumerate(boxes, 1):
        draw.rectangle(_around(box, scale, 5, small.size), outline=CASING, width=5)
        left, top, _, bottom = _around(box, scale, 4, small.size)
        draw.rectangle(_around(box, scale, 4, small.size), outline=PREDICTED, width=3)
        y = top - 24 if top >= 24 else min(bottom + 1, small.height - 24)
        draw.rectangle((left, y, left + 20, y + 23), fill=CASING)
        draw.text((left + 10, y + 12), str(number), fill="white", font=font, anchor="mm")
    for box in truth:
        _dashed(draw, _around(box, scale, 2, small.size))
    return small


def _around(box: Box, scale: float, gap: int, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """The box in a picture scaled by `scale` to `size`, grown by `gap` pixels on every side, inside the picture."""
    left, top, right, bottom = (round(value * scale) for value in box.xyxy)
    width, height = size
    return max(left - gap, 0), max(top - gap, 0), min(right + gap, width - 1), min(bottom + gap, height - 1)


def _dashed(draw: ImageDraw.ImageDraw, corners: tuple[int, int, int, int]) -> None:
    left, top, right, bottom = corners
    for y in (top, bottom):
        for x in range(left, right + 1, 2 * DASH):
            _dash(draw, (x, y, min(x + DASH, right), y))
    for x in (left, right):
        for y in range(top, bottom + 1, 2 * DASH):
            _dash(draw, (x, y, x, min(y + DASH, bottom)))


def _dash(draw: ImageDraw.ImageDraw, line: tuple[int, int, int, int]) -> None:
    draw.line(line, fill=CASING, width=5)
    draw.line(line, fill=TRUTH, width=3)


def _at_crop_size(crop: Image.Image) -> Image.Image:
    least, most = CROP_SIDES
    scale = min(max(least / max(crop.size), 1.0), most / max(crop.size))
    return crop.resize([max(1, round(side * scale)) for side in crop.size], Image.Resampling.BICUBIC)
