"""What the model is shown of a question's images, and what it named read back: full views, crops, boxes.

Training and evaluation share these. Boxes are original pixels; sizes of views are the pixels the model sees.
"""

from __future__ import annotations

from collections.abc import Sequence

from hart_lite.boxes import expand, valid_boxes
from hart_lite.data.images import crop_pixels
from hart_lite.inference.protocols.base import Frame
from hart_lite.types import Box, Example, ImageView


def full_views(example: Example, frame: Frame, most: int, least: int) -> tuple[ImageView, ...]:
    """Every image whole, within `least` to `most` pixels."""
    return tuple(ImageView(image, frame.fit(image.size(), most, least)) for image in example.images)


def crop_view(example: Example, box: Box, frame: Frame, pad: float, most: int, least: int) -> ImageView:
    """The box grown by `pad` of its sides, in whole original pixels, shown within `least` to `most` pixels."""
    source = example.images[box.image]
    left, top, right, bottom = crop_pixels(expand(box, pad, source.size()), source.size())
    size = frame.fit((right - left, bottom - top), most, least)
    return ImageView(source, size, Box(left, top, right, bottom, box.image))


def read_boxes(
    example: Example, full: Sequence[ImageView], text: str, frame: Frame, max_boxes: int, max_box_share: float
) -> tuple[tuple[Box, ...], int]:
    """(usable boxes that a text names, in order, unpadded; how many were refused). `full` is what the model saw."""
    sizes = [image.size() for image in example.images]
    boxes: list[Box] = []
    rejected = 0
    for *corners, image in frame.boxes_from_text(text, [view.size for view in full], sizes):
        room = max_boxes - len(boxes)
        good, bad = valid_boxes([corners], sizes[image], room, max_box_share, image)
        boxes += good
        rejected += bad
    return tuple(boxes), rejected
