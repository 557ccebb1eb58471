"""The shell of a report: one HTML file that loads nothing. All text is escaped, pictures are data URLs, and the policy
lets a browser fetch no other thing and run no script.
"""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

from PIL import Image

from hart_lite.utils.files import write_whole

REPORT = "report.html"
MAX_PICTURES = 4_000_000  # characters of data URLs in a page; the rest of it stays far below that

LEGEND = '<p><span class="key b">where the model looked</span> <span class="key t">what was asked about</span></p>\n'
STYLE = """
:root { color-scheme: light dark; --paper: #f6f7f8; --card: #fff; --ink: #1d2126; --soft: #5b646e; --line: #d8dde3;
  --link: #0a58b0; --good: #18794e; --bad: #c02b2b; --warn: #b25d00; --warn-card: #fff6ea; --good-card: #edf8f1;
  --truth: #00a344; --box: #ff1493; }
@media (prefers-color-scheme: dark) { :root { --paper: #0f1215; --card: #181c20; --ink: #e4e8ec; --soft: #9aa4ae;
  --line: #2f363d; --link: #6cb2ff; --good: #5fd39a; --bad: #ff8080; --warn: #ffb357; --warn-card: #2a2117;
  --good-card: #15241c; --truth: #2be37a; --box: #ff5cb3; } }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; scroll-behavior: smooth; }
body { margin: 0 auto; max-width: 74rem; padding: 1.25rem 1rem 3rem; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: .25rem 0 .25rem; letter-spacing: -.01em; }
h2 { font-size: 1.25rem; margin: 2.75rem 0 .35rem; letter-spacing: -.005em; }
h3 { font-size: 1rem; margin: 0 0 .15rem; }
p { margin: .35rem 0; }
a { color: var(--link); }
.soft, .about { color: var(--soft); }
.about { max-width: 46rem; margin-bottom: .9rem; }
.lead { font-size: 1.1rem; max-width: 46rem; }
.badge { display: inline-block; font-size: .8rem; font-weight: 600; padding: .1rem .6rem; border-radius: 1rem;
  border: 1px solid currentColor; color: var(--good); vertical-align: .25em; margin-left: .5rem; }
.badge.open { color: var(--warn); }
nav { display: flex; flex-wrap: wrap; gap: .4rem; margin: 1rem 0 1.25rem; }
nav a { padding: .35rem .8rem; border: 1px solid var(--line); border-radius: 1rem; background: var(--card);
  text-decoration: none; font-size: .9rem; }
.numbers { display: grid; grid-template-columns: repeat(auto-fit, minmax(10.5rem, 1fr)); gap: .75rem; margin: 1rem 0; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: .75rem; padding: .8rem 1rem;
  min-width: 0; }
.numbers .card { display: flex; flex-direction: column; }
.numbers .name { font-size: .85rem; color: var(--soft); }
.numbers .value { font-size: 1.6rem; font-weight: 650; line-height: 1.25; font-variant-numeric: tabular-nums; }
.numbers .was { font-size: .85rem; color: var(--soft); margin-top: auto; }
.good { color: var(--good); } .bad { color: var(--bad); }
.cautions { display: grid; gap: .75rem; }
.caution { border-left: 5px solid var(--warn); background: var(--warn-card); }
.fine { border-left: 5px solid var(--good); background: var(--good-card); }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: .5rem .6rem; border-top: 1px solid var(--line); vertical-align: top; }
thead th { border-top: 0; font-size: .85rem; color: var(--soft); font-weight: 600; white-space: nowrap; }
th[scope=row], thead th:first-child { text-align: left; }
th[scope=row] { font-weight: 600; width: 45%; }
th small, td small { display: block; font-weight: 400; color: var(--soft); font-size: .85rem; line-height: 1.35; }
.figures th[scope=row] { width: auto; }
.figures thead th { white-space: normal; vertical-align: bottom; }
td.last { font-weight: 650; }
.left td, .left th { text-align: left; }
.scroll { overflow-x: auto; }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 21rem), 1fr)); gap: .9rem; }
.charts p { font-size: .85rem; color: var(--soft); min-height: 2.6em; margin: 0 0 .3rem; line-height: 1.35; }
.charts img { display: block; width: 100%; height: auto; }
figure { margin: 0; min-width: 0; }
figcaption { font-size: .85rem; color: var(--soft); }
.question { margin-bottom: 1.1rem; }
.question h3 { unicode-bidi: plaintext; }
.looks { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(46%, 8.6rem), 1fr)); gap: .8rem .6rem;
  margin-top: .7rem; }
.looks svg { display: block; width: 100%; height: auto; border-radius: .4rem; background: var(--line); }
.looks .seen { display: flex; flex-wrap: wrap; gap: .25rem; margin-top: .3rem; }
.looks .seen img { min-height: 3.2rem; max-height: 3.6rem; max-width: 100%; object-fit: contain;
  border: 2px solid var(--box); border-radius: .3rem; }
.looks .when { font-weight: 600; color: var(--ink); }
.answered { unicode-bidi: plaintext; }
.look { fill: none; stroke: var(--box); stroke-width: 2.5px; vector-effect: non-scaling-stroke; }
.target { fill: none; stroke: var(--truth); stroke-width: 2px; stroke-dasharray: 4 3;
  vector-effect: non-scaling-stroke; }
.casing { fill: none; stroke: #000; stroke-opacity: .6; stroke-width: 4.5px; vector-effect: non-scaling-stroke; }
.key { display: inline-block; padding: 0 .4rem; border-radius: .2rem; }
.key.b { border: 3px solid var(--box); } .key.t { border: 3px dashed var(--truth); }
dl { display: grid; grid-template-columns: minmax(6rem, auto) 1fr; gap: .3rem 1rem; margin: .3rem 0; }
dt { color: var(--soft); } dd { margin: 0; }
details { margin-top: .9rem; } summary { cursor: pointer; padding: .3rem 0; color: var(--link); }
pre, code { font: .85rem/1.45 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
pre { white-space: pre-wrap; background: var(--card); border: 1px solid var(--line); border-radius: .5rem;
  padding: .7rem .9rem; margin: .4rem 0; }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 22rem), 1fr)); gap: .9rem; }
article { min-width: 0; }
.cards article { background: var(--card); border: 1px solid var(--line); border-radius: .75rem; padding: .8rem; }
.cards img { display: block; max-width: 100%; height: auto; border-radius: .3rem; }
.cards .question, .cards li, .cards pre, .cards dd { unicode-bidi: plaintext; }
.cards .question { font-weight: 600; margin: .5rem 0 .2rem; }
.cards .id { color: var(--soft); font-size: .85rem; }
.crops { display: flex; flex-wrap: wrap; gap: .4rem; margin-top: .4rem; }
.crops img { max-height: 8rem; width: auto; }
.cards ol { list-style: none; margin: 0 0 .5rem; padding: 0; }
.cards li { padding: .1rem .4rem; margin: .15rem 0; border-radius: .25rem; }
.cards li.truth { outline: 2px dashed var(--truth); }
.cards li.given { outline: 2px solid var(--box); }
.missing { color: var(--bad); }
.samples { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 26rem), 1fr)); gap: .9rem; }
.samples img { display: block; width: 100%; height: auto; background: #fff; border-radius: .4rem; }
@media (max-width: 40rem) {
  .wide thead { display: none; }
  .wide tr { display: flex; flex-wrap: wrap; border-top: 1px solid var(--line); padding: .5rem 0; }
  .wide th[scope=row] { flex: 0 0 100%; width: 100%; padding: 0 0 .2rem; border: 0; }
  .wide td { flex: 1 0 auto; min-width: 4rem; border: 0; padding: .1rem .3rem .1rem 0; text-align: left; }
  .wide td:empty { display: none; }
  .wide td::before { content: attr(data-of); display: block; font-size: .72rem; font-weight: 400; color: var(--soft); }
  .charts p { min-height: 0; }
}
@media print { nav { display: none; } body { background: #fff; } }
"""


def page(title: str, body: str, style: str = STYLE) -> str:
    """`body` is HTML whose text is escaped."""
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{escape(policy)}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{escape(title)}</title>\n<style>{style}</style>\n</head>\n<body>\n{body}</body>\n</html>\n"
    )


def section(anchor: str, title: str, about: str, content: str) -> str:
    """`content` is HTML, the rest is text. Nothing at all where there is no content."""
    if not content:
        return ""
    words = f'<p class="about">{escape(about)}</p>\n' if about else ""
    return f'<section id="{anchor}">\n<h2>{escape(title)}</h2>\n{words}{content}</section>\n'


def navigation(sections: Sequence[tuple[str, str, str]]) -> str:
    """Links to the (anchor, title, html) that have something to show."""
    links = "".join(f'<a href="#{anchor}">{escape(title)}</a>' for anchor, title, html in sections if html)
    return f"<nav>{links}</nav>\n"


def save_page(folder: Path, html: str) -> Path:
    """Replaces the report of a run or an evaluation, whole or not at all; returns its path."""
    # Text of a model may hold halves of surrogate pairs, which no file can.
    write_whole(folder / REPORT, html.encode(errors="replace").decode())
    return folder / REPORT


def facts(pairs: Sequence[tuple[str, str]]) -> str:
    return "<dl>" + "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in pairs) + "</dl>\n"


def unfold(title: str, html: str) -> str:
    return f"<details><summary>{escape(title)}</summary>\n{html}</details>\n" if html else ""


@dataclass
class Pictures:
    """JPEGs as data URLs, until a page holds enough of them."""

    room: int = MAX_PICTURES
    left_out: int = field(default=0, init=False)

    def url(self, image: Image.Image, side: int) -> str | None:
        """The image, its longer side no longer than this; None where there is no room left."""
        scale = min(1.0, side / max(image.size))
        small = image.resize([max(1, round(length * scale)) for length in image.size]) if scale < 1 else image
        file = io.BytesIO()
        small.convert("RGB").save(file, "JPEG", quality=80)
        url = "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()
        if len(url) > self.room:
            self.left_out += 1
            return None
        self.room -= len(url)
        return url
