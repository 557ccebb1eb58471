"""The picture of an answer: the photo with the boxes that were looked at, each crop beside it, question and answer."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import matplotlib
from PIL import Image, ImageDraw, ImageFont

from hart_lite.errors import HartError
from hart_lite.types import Box

PHOTO_SIDES = (640, 1280)  # least and most of the photo's longer side in the picture, in pixels
INSETS = 6  # crops drawn; every box is
INSET_SIDE = 320  # of the strip of insets: its height below a wide photo, its width beside a tall one
ENLARGED = 8  # most that a crop is enlarged
LEAST_WIDTH = 480  # of the words under a photo that is thinner
MARGIN, GAP, FRAME = 20, 12, 4
TEXT, LINES = 24, 3  # size of the words under the photo; lines of the question, and of the answer
# Told apart by people who do not see all colours (Okabe and Ito), each bright enough for a dark casing.
COLOURS = ("#E69F00", "#56B4E9", "#F0E442", "#CC79A7", "#009E73", "#D55E00")
CASING, PAPER, INK, SOFT = "#101010", "#FFFFFF", "#1A1A1A", "#5A5A5A"

Size = tuple[int, int]
Place = tuple[int, int]


def answer_picture(image: Image.Image, boxes: Sequence[Box], crops: Sequence[Box], words: Sequence[str]) -> Image.Image:
    """`image` in original pixels, and so are `boxes` and the `crops` around them. `words` come below: the question,
    then the answer."""
    photo = _scaled(image, _factor(image.size))
    x, y = photo.width / image.width, photo.height / image.height
    _draw_boxes(photo, [Box(b.x1 * x, b.y1 * y, b.x2 * x, b.y2 * y) for b in boxes])
    wide = photo.width >= photo.height
    insets = _insets([image.crop(crop.whole_pixels(image.size)) for crop in crops[:INSETS]], photo.size, wide)
    return _sheet(photo, insets, wide, words)


def picture_places(photo: Path, out: Path | None, count: int) -> list[Path]:
    """Where the pictures of `count` answers go: `out`, then `out` with a number; without it new names in the current
    folder. Raises `HartError` for a place that cannot be written, or is the photo itself."""
    if out is None:
        names = (Path(f"{photo.stem}.answer{f'-{n}' if n > 1 else ''}.jpg") for n in itertools.count(1))
        return list(itertools.islice((name for name in names if not name.exists()), count))
    places = [out, *(out.with_stem(f"{out.stem}-{n}") for n in range(2, count + 1))]
    writable = {ending for ending, kind in Image.registered_extensions().items() if kind in Image.SAVE}
    if out.suffix.lower() not in writable:
        raise HartError(f"--out {out}: the ending should name a picture format, such as .jpg or .png")
    if not out.parent.is_dir():
        raise HartError(f"--out {out}: there is no folder {out.parent}; make it first")
    for place in places:
        if place.is_dir() or (place.exists() and place.samefile(photo)):
            what = "a folder" if place.is_dir() else "the photo itself"
            raise HartError(f"--out {out}: {place} is {what}; choose another name")
    return places


def save_picture(picture: Image.Image, place: Path) -> None:
    try:
        picture.save(place, quality=88)
    except (OSError, ValueError) as error:  # ValueError: a format that cannot hold it
        raise HartError(f"the picture {place} cannot be written: {error}") from error


def _factor(size: Size) -> float:
    least, most = PHOTO_SIDES
    return min(max(1.0, least / max(size)), most / max(size))


def _scaled(image: Image.Image, factor: float) -> Image.Image:
    return image.resize([max(1, round(side * factor)) for side in image.size], Image.Resampling.LANCZOS)


def _draw_boxes(photo: Image.Image, boxes: Sequence[Box]) -> None:
    """Frames lie around the boxes, so that what is in a small one stays in sight; numbers where there is room."""
    draw, size = ImageDraw.Draw(photo), 26
    for number, box in enumerate(boxes):
        left, top, right, bottom = box.whole_pixels(photo.size)
        for grow, colour, width in ((7, CASING, 7), (6, _colour(number), 4)):
            corners = left - grow, top - grow, right + grow - 1, bottom + grow - 1
            draw.rectangle(corners, outline=colour, width=width)
        above = top - 7 - size
        place = max(left - 7, 0), above if above >= 0 else min(bottom + 7, photo.height - size)
        _label(draw, place, number, size)


def _label(draw: ImageDraw.ImageDraw, place: Place, number: int, size: int) -> None:
    x, y = place
    draw.rectangle((x, y, x + size - 1, y + size - 1), fill=_colour(number), outline=CASING, width=2)
    draw.text((x + size / 2, y + size / 2), str(number + 1), fill=CASING, font=_font(18, bold=True), anchor="mm")


def _insets(crops: Sequence[Image.Image], photo: Size, wide: bool) -> list[Image.Image]:
    """The crops, framed and numbered, at sizes that let the strip be as long as the photo's side."""
    framed = []
    for number, crop in enumerate(crops):
        along = ((photo[0] if wide else photo[1]) - GAP * (len(crops) - 1)) // len(crops)
        room = (along, INSET_SIDE) if wide else (INSET_SIDE, along)
        factor = min((side - 2 * FRAME) / length for side, length in zip(room, crop.size, strict=True))
        inner = _scaled(crop, max(min(factor, ENLARGED), 1 / max(crop.size)))
        frame = Image.new("RGB", (inner.width + 2 * FRAME, inner.height + 2 * FRAME), _colour(number))
        frame.paste(inner, (FRAME, FRAME))
        _label(ImageDraw.Draw(frame), (0, 0), number, 26)
        framed.append(frame)
    return framed


def _sheet(photo: Image.Image, insets: Sequence[Image.Image], wide: bool, words: Sequence[str]) -> Image.Image:
    strip = max((inset.height if wide else inset.width for inset in insets), default=-GAP) + GAP
    width = max(photo.width + (0 if wide else strip), LEAST_WIDTH)
    height = photo.height + (strip if wide else 0)
    lines = [line for n, text in enumerate(words) for line in _wrapped(text, width, bold=n > 0)]
    sheet = Image.new("RGB", (width + 2 * MARGIN, height + (TEXT + 10) * len(lines) + 2 * MARGIN), PAPER)
    sheet.paste(photo, (MARGIN, MARGIN))
    x, y = (MARGIN, MARGIN + photo.height + GAP) if wide else (MARGIN + photo.width + GAP, MARGIN)
    for inset in insets:
        sheet.paste(inset, (x, y))
        x, y = (x + inset.width + GAP, y) if wide else (x, y + inset.height + GAP)
    draw = ImageDraw.Draw(sheet)
    for n, (line, bold) in enumerate(lines):
        place = MARGIN, MARGIN + height + 10 + (TEXT + 10) * n
        draw.text(place, line, fill=INK if bold else SOFT, font=_font(TEXT, bold))
    return sheet


def _wrapped(text: str, width: int, bold: bool) -> list[tuple[str, bool]]:
    """Lines no wider than `width`, at most `LINES`; nothing for a text in letters that the font lacks."""
    text = " ".join(text.split())[: 40 * LINES * LINES].encode(errors="replace").decode()  # half a surrogate pair
    font = _font(TEXT, bold)
    if not _has_letters(font, text):
        return []
    lines = [""]
    for character in text:
        if font.getlength(lines[-1] + character) > width:
            head, space, tail = lines[-1].rpartition(" ")
            # A word longer than a line is broken where the line ends.
            lines[-1:] = [head, tail] if space and character != " " else [lines[-1], ""]
        lines[-1] += character
    if len(lines) > LINES:
        lines[LINES - 1 :] = [lines[LINES - 1][:-2] + "\N{HORIZONTAL ELLIPSIS}"]
    return [(line.strip(), bold) for line in lines]


def _has_letters(font: ImageFont.FreeTypeFont, text: str) -> bool:
    missing = bytes(font.getmask("\uffff"))
    return all(bytes(font.getmask(letter)) != missing for letter in set(text) - {" "})


def _colour(number: int) -> str:
    return COLOURS[number % len(COLOURS)]


@cache
def _font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """matplotlib's own: the one in PIL knows no letter beyond ASCII."""
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts", "ttf", name), size)
