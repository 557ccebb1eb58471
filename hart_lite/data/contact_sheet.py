"""A sheet of examples to look at: images with boxes, the boxes enlarged, question and answer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from hart_lite.data.drawing import Mark, grid, panel, with_crop
from hart_lite.errors import DataError
from hart_lite.types import Example

MAX_CARDS = 18  # keeps the sheet small, whatever the data set
SIDE = 480  # pixels of an image's longer side


def contact_sheet(examples: Sequence[Example], path: str | Path, columns: int = 3) -> None:
    """Draws the first `MAX_CARDS` examples to an image file. Raises `DataError` if it cannot be written."""
    if not examples:
        raise DataError(f"{path}: no examples to draw")
    cards = [_card(example) for example in examples[:MAX_CARDS]]
    try:
        grid(cards, columns).save(path)
    except (OSError, ValueError) as error:  # ValueError: a file name whose ending is no image format
        raise DataError(f"{path}: the contact sheet cannot be written: {error}") from error


def _card(example: Example) -> Image.Image:
    """The images side by side, the texts below the first one."""
    answer = example.answer
    if example.choices:
        answer = f"{answer}: {example.choices[ord(answer) - ord('A')]}"
    texts = [f"{example.id}: {example.question}", answer]
    images = [source.load() for source in example.images]
    marks = [with_crop([Mark(box) for box in example.boxes if box.image == n]) for n in range(len(images))]
    panels = [panel(image, marks[n], [] if n else texts, (SIDE, SIDE)) for n, image in enumerate(images)]
    return grid(panels, len(panels))
