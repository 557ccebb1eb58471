"""Text in pictures: lines that fit, in a font that has their letters."""

from __future__ import annotations

import logging
import unicodedata
from functools import cache
from pathlib import Path

import matplotlib
from matplotlib.font_manager import findSystemFonts
from matplotlib.ft2font import FT2Font
from PIL import Image, ImageDraw, ImageFont

from hart_lite.utils.text import printable

log = logging.getLogger(__name__)
NAMES = {False: "DejaVuSans.ttf", True: "DejaVuSans-Bold.ttf"}  # they come with matplotlib
Font = ImageFont.FreeTypeFont


def draw_lines(sheet: Image.Image, place: tuple[int, int], lines: list[str], font: Font, colour: str) -> None:
    """`place` is the top left corner of the first line."""
    draw, (x, y) = ImageDraw.Draw(sheet), place
    for number, line in enumerate(lines):
        draw.text((x, y + number * line_height(font)), line, fill=colour, font=font)


def line_height(font: Font) -> int:
    return round(1.4 * font.size)


def fitted(text: str, width: int, size: int, bold: bool, most: int) -> tuple[list[str], Font]:
    """(at most `most` lines no wider than `width` pixels, the font they are drawn in). What does not fit ends in an
    ellipsis. Letters that no font of this machine has are written as their code points, and the log says so."""
    text = printable(" ".join(text.split())[: 200 * most])
    font = _font_for(text, size, bold)
    lacking = set(_lacking(font.path, text))
    text = "".join(f"[U+{ord(c):04X}]" if c in lacking else c for c in text)
    lines = [""]
    for character in text:
        if font.getlength(lines[-1] + character) > width:
            head, space, tail = lines[-1].rpartition(" ")
            # A word longer than a line, or a script without spaces, is broken where the line ends.
            lines[-1:] = [head, tail] if space and character != " " else [lines[-1], ""]
        lines[-1] += character
    if len(lines) > most:
        lines[most - 1 :] = [lines[most - 1][:-2] + "\N{HORIZONTAL ELLIPSIS}"]
    return [line.strip() for line in lines], font


@cache
def font_of(size: int, bold: bool = False, path: str = "") -> Font:
    """matplotlib's own: the one in PIL knows no letter beyond ASCII."""
    return ImageFont.truetype(path or str(Path(matplotlib.get_data_path(), "fonts", "ttf", NAMES[bold])), size)


def _font_for(text: str, size: int, bold: bool) -> Font:
    """Our font where it has all letters, else the installed one that lacks the fewest."""
    usual = font_of(size, bold)
    if not _lacking(usual.path, text):
        return usual
    path = min([usual.path, *installed_fonts()], key=lambda path: len(_lacking(path, text)))
    for letter in _lacking(path, text):
        _warn_of(unicodedata.name(letter, "unknown").split()[0])
    return font_of(size, bold and path == usual.path, path)


@cache
def _warn_of(script: str) -> None:
    """Once for each script, such as "CJK" or "ARABIC"."""
    log.warning("no font here has %s letters: pictures show their code points. Install one, such as Noto Sans", script)


def _lacking(path: str, text: str) -> list[str]:
    return sorted(c for c in set(text) if ord(c) not in letters(path))


@cache
def installed_fonts() -> list[str]:
    return sorted(path for path in findSystemFonts() if letters(path))


@cache
def letters(path: str) -> frozenset[int]:
    """Code points that a font file has; none where FreeType cannot scale it, as with fonts of bitmaps."""
    try:
        ImageFont.truetype(path, 12)
        return frozenset(FT2Font(path).get_charmap())
    except (OSError, RuntimeError):
        return frozenset()
