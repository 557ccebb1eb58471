"""A sheet of examples to look at: pictures with boxes, the first box enlarged, question and answer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from hart_lite.data.images import draw_boxes
from hart_lite.errors import HartError
from hart_lite.types import Box, Example

MAX_CARDS = 24  # keeps the sheet under 10 million pixels, whatever the data set
PICTURE = (480, 270)  # width and height of a card's pictures
MARGIN = 12
LINE = 20
FONT_SIZE = 15
QUESTION_LINES = 3
ANSWER_LINES = 2


def contact_sheet(examples: Sequence[Example], path: str | Path, columns: int = 3) -> None:
    """Draws the first `MAX_CARDS` examples to an image file. Raises `HartError` if it cannot be written."""
    cards = [_card(example) for example in examples[:MAX_CARDS]]
    if not cards:
        raise HartError(f"{path}: no examples to draw")
    columns = min(columns, len(cards))
    width, height = cards[0].size
    sheet = Image.new("RGB", (columns * width, -(-len(cards) // columns) * height), "white")
    for i, card in enumerate(cards):
        sheet.paste(card, (i % columns * width, i // columns * height))
    try:
        sheet.save(path)
    except (OSError, ValueError) as error:  # ValueError: a file name whose ending is no image format
        raise HartError(f"{path}: the contact sheet cannot be written: {error}") from error


def _card(example: Example) -> Image.Image:
    lines = QUESTION_LINES + ANSWER_LINES
    card = Image.new("RGB", (PICTURE[0] + 2 * MARGIN, PICTURE[1] + lines * LINE + 3 * MARGIN), "white")
    tiles = _tiles(example)
    tile_width = PICTURE[0] // len(tiles)
    for i, (image, boxes) in enumerate(tiles):
        card.paste(_fit(image, boxes, (tile_width - 4, PICTURE[1])), (MARGIN + i * tile_width, MARGIN))
    font = ImageFont.load_default(FONT_SIZE)
    draw = ImageDraw.Draw(card)
    texts = (
        (_wrap(f"{example.id}: {example.question}", font, QUESTION_LINES), "black", 0),
        (_wrap(_answer(example), font, ANSWER_LINES), "darkgreen", QUESTION_LINES),
    )
    for wrapped, colour, first in texts:
        for i, line in enumerate(wrapped):
            draw.text((MARGIN, PICTURE[1] + 2 * MARGIN + (first + i) * LINE), line, fill=colour, font=font)
    return card


def _tiles(example: Example) -> list[tuple[Image.Image, list[Box]]]:
    """The images with their boxes and, as a box is often a few pixels wide here, the first box enlarged."""
    images = [source.load() for source in example.images]
    tiles = [(image, [box for box in example.boxes if box.image == i]) for i, image in enumerate(images)]
    if example.boxes:
        first = example.boxes[0]
        image = images[first.image]
        tiles.append((image.crop(first.whole_pixels(image.size)), []))
    return tiles


def _fit(image: Image.Image, boxes: list[Box], room: tuple[int, int]) -> Image.Image:
    scale = min(room[0] / image.width, room[1] / image.height)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    x, y = size[0] / image.width, size[1] / image.height
    small = [Box(box.x1 * x, box.y1 * y, box.x2 * x, box.y2 * y) for box in boxes]
    return draw_boxes(image.resize(size, Image.Resampling.BICUBIC), small, width=2)


def _answer(example: Example) -> str:
    if not example.choices:
        return example.answer
    return f"{example.answer}: {example.choices[ord(example.answer) - ord('A')]}"


def _wrap(text: str, font: ImageFont.FreeTypeFont, max_lines: int) -> list[str]:
    """Lines no wider than the pictures; what does not fit in `max_lines` ends in an ellipsis."""
    lines = [""]
    for character in " ".join(text.split()):
        if font.getlength(lines[-1] + character) > PICTURE[0]:
            if len(lines) == max_lines:
                lines[-1] = lines[-1][:-3] + "..."
                break
            head, space, tail = lines[-1].rpartition(" ")
            # A word longer than a line (or a script without spaces) is broken where the line ends.
            lines[-1:] = [head, tail] if space and character != " " else [lines[-1], ""]
        lines[-1] += character
    return [line.strip() for line in lines]
