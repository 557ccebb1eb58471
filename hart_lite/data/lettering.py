"""Text in pictures: lines that fit, in fonts that have their letters.

A text is drawn in the one font that has most of it; what that lacks, as of a second script, in another of the machine.
"""

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
    """`place` is the top left corner of the first line. Letters that `font` lacks are drawn in another, on its line."""
    draw, (x, y) = ImageDraw.Draw(sheet), place
    for number, line in enumerate(lines):
        at, base = float(x), y + number * line_height(font) + font.getmetrics()[0]
        for part, own in runs(line, font):
            draw.text((at, base), part, fill=colour, font=own, anchor="ls")
            at += own.getlength(part)


def line_height(font: Font) -> int:
    return round(1.4 * font.size)


def fitted(text: str, width: int, size: int, bold: bool, most: int) -> tuple[list[str], Font]:
    """(at most `most` lines no wider than `width` pixels, the font they are drawn in). What does not fit ends in an
    ellipsis. Letters that no font of this machine has are written as their code points, and the log says so."""
    text = printable(" ".join(text.split())[: 200 * most])
    font = _font_for(text, size, bold)
    lacking = set(_lacking_everywhere(font.path, text))
    text = "".join(f"[U+{ord(c):04X}]" if c in lacking else c for c in text)
    lines = [""]
    for character in text:
        if sum(own.getlength(part) for part, own in runs(lines[-1] + character, font)) > width:
            head, space, tail = lines[-1].rpartition(" ")
            # A word longer than a line, or a script without spaces, is broken where the line ends.
            lines[-1:] = [head, tail] if space and character != " " else [lines[-1], ""]
        lines[-1] += character
    if len(lines) > most:
        lines[most - 1 :] = [lines[most - 1][:-2] + "\N{HORIZONTAL ELLIPSIS}"]
    return [line.strip() for line in lines], font


def runs(text: str, font: Font) -> list[tuple[str, Font]]:
    """A text in parts, each with a font that has its letters: `font` where that does."""
    own = letters(font.path)
    if all(ord(c) in own for c in text):
        return [(text, font)] if text else []
    out: list[tuple[str, Font]] = []
    for character in text:
        before = out[-1][1] if out else font
        # A mark belongs to the letter before it, and blanks need no font of their own.
        joined = character.isspace() or unicodedata.combining(character)
        paths = (before.path, font.path) if joined else (font.path, before.path)
        path = next((path for path in (*paths, *installed_fonts()) if ord(character) in letters(path)), font.path)
        if out and path == before.path:
            out[-1] = (out[-1][0] + character, before)
        else:
            out.append((character, font if path == font.path else font_of(round(font.size), path=path)))
    return out


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
    for letter in _lacking_everywhere(path, text):
        _warn_of(unicodedata.name(letter, "unknown").split()[0])
    return font_of(size, bold and path == usual.path, path)


@cache
def _warn_of(script: str) -> None:
    """Once for each script, such as "CJK" or "ARABIC"."""
    log.warning("no font here has %s letters: pictures show their code points. Install one, such as Noto Sans", script)


def _lacking(path: str, text: str) -> list[str]:
    return sorted(c for c in set(text) if ord(c) not in letters(path))


def _lacking_everywhere(path: str, text: str) -> list[str]:
    """Letters that neither this font nor any other of the machine has."""
    return [c for c in _lacking(path, text) if not any(ord(c) in letters(other) for other in installed_fonts())]


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
