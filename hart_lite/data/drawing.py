"""An image with its boxes and crops. The pictures of `ask`, of rollouts and of `data check` are drawn here, and pages
take their colours and crops from here.

A box that a model named has a solid frame and a number. A ground truth has a dashed frame and no number, so that
nobody needs colours to tell the two apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from PIL import Image, ImageDraw

from hart_lite.data.lettering import draw_lines, fitted, font_of, line_height
from hart_lite.types import Box

# Okabe and Ito's colours, which people who do not see all colours tell apart. Each has a dark casing.
COLOURS = ("#E69F00", "#56B4E9", "#F0E442", "#CC79A7", "#D55E00", "#0072B2")
TRUTH = "#009E73"
CASING, PAPER, INK, SOFT = "#101010", "#FFFFFF", "#1A1A1A", "#5A5A5A"
FRAME, DASH, LABEL = 4, 9, 26  # pixels: a frame's width, a dash, the side of a number's square
MARGIN, GAP, TEXT, LINES = 20, 12, 24, 3  # pixels around and between; size and lines of a text
INSETS, INSET_SIDE, ENLARGED = 8, 320, 8  # crops drawn; their longer side at most; how far they are enlarged
LEAST_WIDTH = 480  # of the text below an image that is thinner

Size = tuple[int, int]
Corners = tuple[int, int, int, int]  # left, top, right, bottom


@dataclass(frozen=True)
class Mark:
    """A frame to draw, in pixels of the image. `label` "": a ground truth. `crop` is shown beside the image."""

    box: Box
    label: str = ""
    colour: str = TRUTH
    crop: Box | None = None


def numbered(boxes: Sequence[Box], crops: Sequence[Box] = ()) -> list[Mark]:
    """The boxes that a model named, each in its colour; `crops` are what it was shown of them."""
    padded = [*crops, *([None] * (len(boxes) - len(crops)))]
    return [Mark(box, str(n + 1), colour_of(n), crop) for n, (box, crop) in enumerate(zip(boxes, padded, strict=True))]


def colour_of(number: int) -> str:
    return COLOURS[number % len(COLOURS)]


def framed(image: Image.Image, marks: Sequence[Mark], factor: float = 1.0) -> Image.Image:
    """A copy scaled by `factor`. Frames lie around the boxes, so that what is in a small one stays in sight."""
    copy = scaled(image, factor) if factor != 1 else image.copy()
    x, y = copy.width / image.width, copy.height / image.height
    draw = ImageDraw.Draw(copy)
    for mark in marks:
        b = mark.box
        corners = Box(b.x1 * x, b.y1 * y, b.x2 * x, b.y2 * y).whole_pixels(copy.size)
        if mark.label:
            draw.rectangle(_grown(corners, FRAME + 3, copy.size), outline=CASING, width=FRAME + 3)
            draw.rectangle(_grown(corners, FRAME + 2, copy.size), outline=mark.colour, width=FRAME)
            _label(draw, _label_place(corners, copy.size), mark)
        else:
            _dashed(draw, _grown(corners, FRAME, copy.size), mark.colour)
    return copy


def crop_of(image: Image.Image, box: Box, most: int = 0) -> Image.Image:
    """What lies in the box, at the image's own pixels, or with its longer side scaled down to `most`."""
    crop = image.crop(box.whole_pixels(image.size))
    return scaled(crop, min(1.0, most / max(crop.size))) if most else crop


def scaled(image: Image.Image, factor: float) -> Image.Image:
    return image.resize([max(1, round(side * factor)) for side in image.size], Image.Resampling.LANCZOS)


def panel(image: Image.Image, marks: Sequence[Mark], texts: Sequence[str], sides: Size = (640, 1280)) -> Image.Image:
    """`image` with its frames, the crops below it (beside it, if it is tall) and texts at the foot, the first of them
    soft. `sides`: between which its longer side is scaled, in pixels."""
    photo = framed(image, marks, min(max(1.0, sides[0] / max(image.size)), sides[1] / max(image.size)))
    wide = photo.width >= photo.height
    shown = [mark for mark in marks if mark.crop][:INSETS]
    room = (photo.width, min(INSET_SIDE, photo.width // 2)) if wide else (photo.height, INSET_SIDE)
    insets = _insets(image, shown, room, wide)
    strip = max((inset.height if wide else inset.width for inset in insets), default=-GAP) + GAP
    width = max(photo.width + (0 if wide else strip), LEAST_WIDTH)
    height = photo.height + (strip if wide else 0)
    written = [fitted(text, width, TEXT, n > 0, LINES) for n, text in enumerate(texts)]
    foot = sum(len(lines) * line_height(font) for lines, font in written)
    sheet = Image.new("RGB", (width + 2 * MARGIN, height + foot + 10 + 2 * MARGIN), PAPER)
    sheet.paste(photo, (MARGIN, MARGIN))
    x, y = (MARGIN, MARGIN + photo.height + GAP) if wide else (MARGIN + photo.width + GAP, MARGIN)
    for inset in insets:
        sheet.paste(inset, (x, y))
        x, y = (x + inset.width + GAP, y) if wide else (x, y + inset.height + GAP)
    y = MARGIN + height + 10
    for n, (lines, font) in enumerate(written):
        draw_lines(sheet, (MARGIN, y), lines, font, INK if n else SOFT)
        y += len(lines) * line_height(font)
    return sheet


def grid(panels: Sequence[Image.Image], columns: int) -> Image.Image:
    """Panels in rows, each as wide as the widest."""
    rows = [panels[start : start + columns] for start in range(0, len(panels), columns)]
    heights, width = [max(p.height for p in row) for row in rows], max(p.width for p in panels)
    sheet = Image.new("RGB", (min(columns, len(panels)) * width, sum(heights)), PAPER)
    for r, row in enumerate(rows):
        for c, one in enumerate(row):
            sheet.paste(one, (c * width, sum(heights[:r])))
    return sheet


def _insets(image: Image.Image, marks: Sequence[Mark], strip: Size, wide: bool) -> list[Image.Image]:
    """The crops, framed and numbered, enlarged as far as a strip (its length and breadth in pixels) has room."""
    out = []
    for mark in marks:
        along = max((strip[0] - GAP * (len(marks) - 1)) // len(marks), LABEL)
        room = (along, strip[1]) if wide else (strip[1], along)
        crop = crop_of(image, mark.crop)
        factor = min((side - 2 * FRAME) / own for side, own in zip(room, crop.size, strict=True))
        crop = scaled(crop, max(min(factor, ENLARGED), 1 / max(crop.size)))
        inset = Image.new("RGB", (crop.width + 2 * FRAME, crop.height + 2 * FRAME), mark.colour)
        inset.paste(crop, (FRAME, FRAME))
        if mark.label:
            _label(ImageDraw.Draw(inset), (0, 0), mark)
        out.append(inset)
    return out


def _grown(corners: Corners, pixels: int, size: Size) -> Corners:
    """The corners of a frame around these, inside the image."""
    left, top, right, bottom = corners
    inside = max(left - pixels, 0), max(top - pixels, 0)
    return *inside, min(right + pixels, size[0]) - 1, min(bottom + pixels, size[1]) - 1


def _label(draw: ImageDraw.ImageDraw, place: Size, mark: Mark) -> None:
    x, y = place
    draw.rectangle((x, y, x + LABEL - 1, y + LABEL - 1), fill=mark.colour, outline=CASING, width=2)
    draw.text((x + LABEL / 2, y + LABEL / 2), mark.label, fill=CASING, font=font_of(18, bold=True), anchor="mm")


def _label_place(corners: Corners, size: Size) -> Size:
    """Above the box, or below it at the upper edge, and never outside the image."""
    left, top, _, bottom = corners
    above, reach = top - FRAME - 3 - LABEL, FRAME + 3
    return max(left - reach, 0), above if above >= 0 else max(min(bottom + reach, size[1] - LABEL), 0)


def _dashed(draw: ImageDraw.ImageDraw, corners: Corners, colour: str) -> None:
    """A line of dashes in `colour` and white, in a dark casing."""
    left, top, right, bottom = corners
    draw.rectangle((left - 1, top - 1, right + 1, bottom + 1), outline=CASING, width=5)
    draw.rectangle(corners, outline=PAPER, width=3)
    for x in range(left, right + 1, 2 * DASH):
        for y in (top, bottom - 2):
            draw.rectangle((x, y, min(x + DASH, right), y + 2), fill=colour)
    for y in range(top, bottom + 1, 2 * DASH):
        for x in (left, right - 2):
            draw.rectangle((x, y, x + 2, min(y + DASH, bottom)), fill=colour)


def with_crop(marks: Sequence[Mark]) -> list[Mark]:
    """Each with what lies in its own box beside the image."""
    return [replace(mark, crop=mark.box) for mark in marks]
