"""How a model behind an API sees images and writes boxes: a convention that is chosen, since no server tells.

absolute  pixels of the image as it is sent (Qwen2.5-VL)
relative  0 to 1000 of the image's width and height (Qwen3-VL, InternVL)

Images are sent at sides that are multiples of 28, so that a Qwen server has nothing to round.
"""

from __future__ import annotations

from hart_lite.models.families.qwen2_5_vl import MAX_ASPECT, Qwen25VL

GRID = 28


class AbsoluteFrame:
    """Implements `hart_lite.inference.protocols.base.Frame`."""

    name = "absolute"
    locate_words = Qwen25VL.locate_words
    several_words = Qwen25VL.several_words
    box_frame = Qwen25VL.box_frame
    written_boxes = Qwen25VL.written_boxes
    boxes_from_text = Qwen25VL.boxes_from_text

    def fit(self, size: tuple[int, int], most: int, least: int) -> tuple[int, int]:
        """Both sides multiples of 28, the shape kept as far as that goes, within the budget of pixels."""
        width, height = max(size[0], size[1] / MAX_ASPECT), max(size[1], size[0] / MAX_ASPECT)
        area = width * height
        factor = min(max(1.0, (least / area) ** 0.5), (most / area) ** 0.5)
        w, h = (max(round(side * factor / GRID), 1) * GRID for side in (width, height))
        while w * h > most and max(w, h) > GRID:
            w, h = (w - GRID, h) if w > h else (w, h - GRID)
        return w, h


class RelativeFrame(AbsoluteFrame):
    """Implements `hart_lite.inference.protocols.base.Frame`."""

    name = "relative"
    box_frame = "relative-1000"
    locate_words = f"{Qwen25VL.locate_words}, each number from 0 to 1000 of the image's width or height"


FRAMES = {frame.name: frame for frame in (AbsoluteFrame, RelativeFrame)}
