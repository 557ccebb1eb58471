"""Pictures to ask about: coloured shapes with a character, drawn here, on square, wide and tall fields.

The fields are larger than what a model is shown of them and their sides keep away from 1000 pixels, so that a box
written in one format lies elsewhere when it is read in another. Truths are boxes in original pixels.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from PIL import Image, ImageDraw

from hart_lite.toy.glyphs import GLYPHS
from hart_lite.toy.scenes import COLOURS, SHAPES, SMALL_SIDE, Thing, draw_thing, question
from hart_lite.types import Box, Example

FIELDS = ((1, 1), (3, 2), (1, 1), (2, 3))  # width to height
THINGS = 4  # in a picture
QUESTIONS = 3  # about a picture
LARGE_SIDE = (0.31, 0.39)  # of a thing, as shares of the picture's shorter side
SMALL, LARGE = 672, 1416  # sides in pixels of a square for small budgets (the toy world's) and, at least, for others


@dataclass(frozen=True)
class Drawing:
    """An image source that draws itself; `number` is its seed."""

    width: int
    height: int
    number: int

    @property
    def key(self) -> str:
        return f"drawing-{self.width}x{self.height}-{self.number}"

    def size(self) -> tuple[int, int]:
        return self.width, self.height

    def load(self) -> Image.Image:
        pixels = np.full((self.height, self.width, 3), 110, dtype=np.uint8)
        pixels[..., 0] = np.linspace(70, 160, self.width)[None, :]  # the tint tells a place, as in the toy world
        pixels[..., 2] = np.linspace(70, 160, self.height)[:, None]
        image = Image.fromarray(pixels)
        draw = ImageDraw.Draw(image)
        for thing in self.things:
            draw_thing(draw, thing)
        return image

    @cached_property
    def things(self) -> tuple[Thing, ...]:
        """Large and small ones in turn, each in a cell of its own and of a colour of its own."""
        rng = random.Random(f"check-base/{self.number}")
        columns, rows = (2 + (a > b) for a, b in ((self.width, self.height), (self.height, self.width)))
        cells = rng.sample([(column, row) for column in range(columns) for row in range(rows)], THINGS)
        colours, glyphs = rng.sample(list(COLOURS), THINGS), rng.sample(list(GLYPHS), THINGS)
        out = []
        for n, (column, row) in enumerate(cells):
            big = n % 2 == 0
            side = rng.uniform(*(LARGE_SIDE if big else SMALL_SIDE)) * min(self.size())
            left = self._place(rng, column, columns, self.width, side)
            top = self._place(rng, row, rows, self.height, side)
            box = Box(left, top, round(left + side), round(top + side))
            out.append(Thing(colours[n], rng.choice(SHAPES), glyphs[n], box, big))
        return tuple(out)

    @staticmethod
    def _place(rng: random.Random, cell: int, cells: int, length: int, side: float) -> int:
        """Where a thing begins within its cell."""
        return round(cell * length / cells + rng.uniform(0.1, 0.9) * (length / cells - side))


def drawings(full_pixels: int) -> list[Drawing]:
    """A picture for each field; of about four times as many pixels as the budget, by which they are shown."""
    side = 2 * math.isqrt(full_pixels)
    side = SMALL if side <= SMALL else max(side, LARGE)
    shares = [math.sqrt(width / height) for width, height in FIELDS]
    return [Drawing(round(side * share), round(side / share), n) for n, share in enumerate(shares)]


def questions(full_pixels: int) -> list[Example]:
    """`QUESTIONS` about each picture, one picture after the other, with the box of the thing that is asked for."""
    return [
        Example(f"{drawing.key}/{n}", (drawing,), question(thing), thing.glyph, boxes=(thing.box,))
        for drawing in drawings(full_pixels)
        for n, thing in enumerate(drawing.things[:QUESTIONS])
    ]
