"""In which format the boxes of a data set are. Rows hold pixels of the original image; other formats are told by
their numbers, refused with the way out, and turned into pixels when a set is converted.

Read as pixels, relative boxes make a perfect model look as if it never found a thing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from hart_lite.box_formats import FORMATS, BoxFormat, Size, to_original
from hart_lite.boxes import clip
from hart_lite.data.rows import Row
from hart_lite.errors import DataError
from hart_lite.types import Box, ImageSource

# What `data convert --boxes` takes: a model's own view of an image is no matter of a data set.
GIVEN = ("xywh", *(name for name in FORMATS if name != "seen-pixels"))
WAY_OUT = "say `--boxes {}` to `hart-lite data convert` (--format rows for rows like these)"
UNLIKELY = 1e-6  # chance that boxes put anywhere are all within the first 1000 pixels of their images


def refuse_other_formats(xyxy: Sequence[float], size: Size) -> None:
    """Raises `DataError` for a box whose numbers are no pixels of an image of `size`: those of 0 to 1, which would be
    less than a pixel, and those that begin as such and end in pixels."""
    x1, y1, x2, y2 = xyxy
    given = [float(value) if abs(value) < 1e9 else value for value in xyxy]
    if max(map(abs, xyxy)) <= 1 < max(size):
        raise DataError(
            f"boxes: {given} is less than a pixel and looks like relative boxes (0 to 1); boxes are pixels of the "
            f"original image; {WAY_OUT.format('unit')}"
        )
    whole, at_border = x2 == int(x2) and y2 == int(y2), x2 == size[0] or y2 == size[1]
    if 0 < x1 < 1 and 0 < y1 < 1 and whole and not at_border:
        raise DataError(
            f"boxes: {given} begins like relative boxes (0 to 1) and ends in whole pixels; all four numbers are pixels "
            "of the original image"
        )


def outside(xyxy: Sequence[float], size: Size) -> str:
    """What is wrong with a box that is not within its image of `size`."""
    problem = f"reaches outside its image of {size[0]} x {size[1]} pixels"
    if min(xyxy) >= 0 and max(xyxy) <= 1000:
        return f"{problem}; if it looks like relative boxes (0 to 1000) to you, {WAY_OUT.format('relative-1000')}"
    return problem


class SetFormat:
    """What the boxes of a whole set say together: 0 to 1000 is a fine box in pixels of a large image, once."""

    def __init__(self) -> None:
        self._chances: dict[str, float] = {}  # by image: questions on one may have the same box
        self._largest = 0.0

    def add(self, xyxy: Sequence[float], image: ImageSource, size: Size) -> None:
        self._chances[image.key] = math.prod(min(1.0, 1000 / side) for side in size)
        self._largest = max(self._largest, *xyxy)

    def check(self) -> None:
        """Raises `DataError` where the largest number of all is just below or at 1000 although the images are so large
        and so many that boxes in pixels would go beyond."""
        if 900 < self._largest <= 1000 and math.prod(self._chances.values()) < UNLIKELY:
            raise DataError(
                f"no box of {len(self._chances)} images has a number above {self._largest:g}, though the images are "
                f"larger: this looks like relative boxes (0 to 1000); {WAY_OUT.format('relative-1000')}"
            )


def in_pixels(numbers: Sequence[float], given: str, size: Size) -> tuple[float, ...]:
    """x1, y1, x2, y2 in pixels of an image of `size`, to two decimals, of four numbers of one of the formats `GIVEN`.
    What leaves the image by less than half a pixel, as rounded numbers may, ends at its border."""
    x, y, a, b = numbers
    if given == "xywh":
        given, numbers = "pixels", (x, y, x + a, y + b)
    box_format: BoxFormat = given
    corners = to_original(box_format, numbers, size, size)
    inside = clip(Box(*corners), size).xyxy
    return tuple(round(w if abs(w - v) < 0.5 else v, 2) for v, w in zip(corners, inside, strict=True))


def row_in_pixels(row: Row, given: str, images: Sequence[ImageSource]) -> Row:
    """The row with its boxes in pixels. What is no box is left as it is, for the check of the row to name."""
    boxes = row.fields.get("boxes")
    if row.problem or not isinstance(boxes, list):
        return row
    return replace(row, fields={**row.fields, "boxes": [_box_in_pixels(box, given, images) for box in boxes]})


def _box_in_pixels(box: Any, given: str, images: Sequence[ImageSource]) -> Any:
    numbers = isinstance(box, list) and all(type(v) in (int, float) and abs(v) < 1e9 for v in box)
    if not numbers or len(box) != 4 + (len(images) > 1) or (len(box) == 5 and box[4] not in range(len(images))):
        return box
    image = int(box[4]) if len(box) == 5 else 0
    return [*in_pixels(box[:4], given, images[image].size()), *box[4:]]
