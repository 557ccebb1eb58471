"""Sixteen characters as 5 x 7 bitmaps, so that a scene looks the same with every font library.

None of them is a choice letter (A to E): reading a character and picking a letter stay two things.
"""

from __future__ import annotations

import functools

import numpy as np
from PIL import Image

_ROWS = {
    "H": "#...# #...# #...# ##### #...# #...# #...#",
    "J": "..### ...#. ...#. ...#. ...#. #..#. .##..",
    "K": "#...# #..#. #.#.. ##... #.#.. #..#. #...#",
    "L": "#.... #.... #.... #.... #.... #.... #####",
    "M": "#...# ##.## #.#.# #.#.# #...# #...# #...#",
    "P": "####. #...# #...# ####. #.... #.... #....",
    "R": "####. #...# #...# ####. #.#.. #..#. #...#",
    "S": ".#### #.... #.... .###. ....# ....# ####.",
    "T": "##### ..#.. ..#.. ..#.. ..#.. ..#.. ..#..",
    "U": "#...# #...# #...# #...# #...# #...# .###.",
    "X": "#...# #...# .#.#. ..#.. .#.#. #...# #...#",
    "Z": "##### ....# ...#. ..#.. .#... #.... #####",
    "2": ".###. #...# ....# ...#. ..#.. .#... #####",
    "4": "...#. ..##. .#.#. #..#. ##### ...#. ...#.",
    "7": "##### ....# ...#. ...#. ..#.. ..#.. ..#..",
    "9": ".###. #...# #...# .#### ....# ...#. .##..",
}
GLYPHS = tuple(_ROWS)


@functools.cache
def glyph_mask(glyph: str) -> Image.Image:
    """The character as a 5 x 7 mask (mode L, 0 or 255)."""
    cells = [[255 if cell == "#" else 0 for cell in row] for row in _ROWS[glyph].split()]
    return Image.fromarray(np.array(cells, np.uint8))
