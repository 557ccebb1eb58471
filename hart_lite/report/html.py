"""The one shell of all pages: a style sheet, a script, and templates whose values are escaped.

A page loads nothing from elsewhere. Its policy lets a browser run the script in it and show the pictures in it (those
of a gallery lie beside it), and nothing else.
"""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

from hart_lite.data.drawing import COLOURS, TRUTH, scaled
from hart_lite.runs.layout import REPORT
from hart_lite.utils.files import write_whole

MAX_PICTURES = 6_000_000  # characters of data URLs in a page; the rest of it stays far below that
MAX_TEXT = 4000  # characters of a model's text that are shown
FOLDER = Path(__file__).with_name("templates")
TEMPLATES = Environment(
    loader=FileSystemLoader(FOLDER), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
)


def page(template: str, images: str = "data:", scripts: Sequence[str] = ("page.js",), **values: Any) -> str:
    """A whole page. `images` names the places that it may show pictures from."""
    style = TEMPLATES.get_template("style.css").render(colours=COLOURS, truth=TRUTH)
    script = "".join((FOLDER / name).read_text(encoding="utf-8") for name in scripts)
    policy = f"default-src 'none'; img-src {images}; style-src {_hash(style)}; script-src {_hash(script)}; "
    policy += ("connect-src 'self'; " if len(scripts) > 1 else "") + "base-uri 'none'; form-action 'none'"
    values |= {"style": Markup(style), "script": Markup(script), "policy": policy}
    # Text of a model may hold halves of surrogate pairs, which no file can.
    return TEMPLATES.get_template(template).render(values).encode(errors="replace").decode()


def fragment(template: str, **values: Any) -> str:
    """A part of a page."""
    return TEMPLATES.get_template(template).render(values).encode(errors="replace").decode()


def save_page(folder: Path, html: str) -> Path:
    """Replaces the report of a run or an evaluation, whole or not at all; returns its path."""
    write_whole(folder / REPORT, html)
    return folder / REPORT


def limited(text: str) -> str:
    left = len(text) - MAX_TEXT
    return text if left <= 0 else f"{text[:MAX_TEXT]} .. ({left:,} more characters)"


TEMPLATES.filters["limited"] = limited


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


@dataclass
class Pictures:
    """JPEGs as data URLs, until a page holds enough of them."""

    room: int = MAX_PICTURES
    left_out: int = field(default=0, init=False)

    def url(self, image: Image.Image, side: int) -> str | None:
        """The image, its longer side no longer than this; None where there is no room left."""
        file = io.BytesIO()
        scaled(image, min(1.0, side / max(image.size))).convert("RGB").save(file, "JPEG", quality=82)
        url = "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()
        if len(url) > self.room:
            self.left_out += 1
            return None
        self.room -= len(url)
        return url
