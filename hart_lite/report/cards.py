"""The HTML of a gallery. Everything that comes from a file or a model is escaped, and the page's policy lets a browser
load the pictures beside it and nothing else.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from string import ascii_uppercase

from hart_lite.eval.prediction import Prediction, TurnText

MAX_TEXT = 4000  # characters of a response that are shown

STYLE = """
:root { color-scheme: light; }
body { margin: 0 auto; max-width: 90rem; padding: 1rem; background: #f4f4f2; color: #1a1a1a;
  font: 16px/1.45 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.4rem; margin: 0 0 .5rem; }
h2 { font-size: 1.15rem; margin: 2rem 0 .75rem; border-bottom: 2px solid #1a1a1a; }
nav ul { padding: 0; list-style: none; display: flex; flex-wrap: wrap; gap: .4rem; }
nav a { display: block; padding: .45rem .7rem; background: white; border: 1px solid #bbb; border-radius: .4rem;
  color: #003d80; text-decoration: none; }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 26rem), 1fr)); gap: 1rem; }
article { background: white; border: 1px solid #ccc; border-radius: .5rem; padding: .75rem; min-width: 0; }
figure { margin: 0; }
figcaption, .id { color: #555; font-size: .85rem; }
img { display: block; max-width: 100%; height: auto; }
.crops { display: flex; flex-wrap: wrap; gap: .5rem; margin-top: .5rem; }
.question { font-weight: 600; margin: .6rem 0 .3rem; }
.question, li, pre, dd { unicode-bidi: plaintext; }
ol { list-style: none; margin: 0 0 .5rem; padding: 0; }
.truth { background: #d9f7e4; }
.given { outline: 2px solid #c2106f; }
li { padding: .1rem .3rem; margin: .15rem 0; }
dl { display: grid; grid-template-columns: auto 1fr; gap: .1rem .75rem; margin: 0; }
dt { color: #555; }
dd { margin: 0; }
pre { white-space: pre-wrap; font-size: .85rem; background: #f4f4f2; padding: .5rem; margin: .3rem 0; }
summary { cursor: pointer; padding: .4rem 0; }
.missing { color: #a00000; }
.key-truth { border: 3px dashed #00a344; padding: 0 .3rem; }
.key-box { border: 3px solid #e0127f; padding: 0 .3rem; }
"""
_HASH = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
# In a file:// page 'self' names no place that every browser agrees on: file: does, and the page links nothing else.
POLICY = f"default-src 'none'; img-src 'self' file:; style-src 'sha256-{_HASH}'; base-uri 'none'; form-action 'none'"


@dataclass(frozen=True)
class Picture:
    """`src` is where the page finds it; sizes are pixels."""

    src: str
    width: int
    height: int
    title: str


@dataclass(frozen=True)
class Card:
    """A row with its pictures, the whole image first; `problem` says why there are none."""

    row: Prediction
    pictures: Sequence[Picture]
    problem: str


@dataclass(frozen=True)
class Group:
    """The rows of one verdict: `count` of `total`, of which `cards` are shown."""

    benchmark: str
    mode: str
    name: str
    count: int
    total: int
    cards: Sequence[Card]

    @property
    def title(self) -> str:
        return f"{self.benchmark}, {self.mode}: {self.name}"


def page(model: str, groups: Sequence[Group]) -> str:
    links = "".join(
        f'<li><a href="#group-{n}">{escape(group.title)} ({group.count:,})</a></li>' for n, group in enumerate(groups)
    )
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{escape(POLICY)}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(model)}: gallery</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        f"<h1>{escape(model)}</h1>\n"
        '<p><span class="key-truth">ground truth</span> <span class="key-box">where the model looked</span></p>\n'
        f"<nav><ul>{links}</ul></nav>\n<main>\n{sections(groups)}</main>\n</body>\n</html>\n"
    )


def sections(groups: Sequence[Group]) -> str:
    """One for each group."""
    return "".join(map(_group, range(len(groups)), groups))


def _group(number: int, group: Group) -> str:
    shown = "" if len(group.cards) == group.count else f", the first {len(group.cards):,} shown"
    title = f"{escape(group.title)} ({group.count:,} of {group.total:,}{shown})"
    cards = "".join(map(_card, group.cards))
    return f'<section id="group-{number}">\n<h2>{title}</h2>\n<div class="cards">\n{cards}</div>\n</section>\n'


def _card(card: Card) -> str:
    row = card.row
    facts = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in _facts(row))
    turns = "".join(
        f"<p>{escape(turn.kind)}</p><pre>{escape(_cut(turn.text))}</pre>"
        for turn in row.turns or [TurnText(text=row.text)]
    )
    return (
        f'<article>\n{_pictures(card)}<p class="id">{escape(row.id)} {escape(row.category)}</p>\n'
        f'<p class="question">{escape(_cut(row.question))}</p>\n{_choices(row)}<dl>{facts}</dl>\n'
        f"<details><summary>what the model wrote</summary>{turns}</details>\n</article>\n"
    )


def _pictures(card: Card) -> str:
    if not card.pictures:
        return f'<p class="missing">no picture: {escape(card.problem)}</p>\n'
    whole, *crops = (
        f'<figure><img src="{escape(p.src)}" width="{p.width}" height="{p.height}" loading="lazy" '
        f'alt="{escape(p.title)}"><figcaption>{escape(p.title)}</figcaption></figure>'
        for p in card.pictures
    )
    return whole + (f'\n<div class="crops">{"".join(crops)}</div>\n' if crops else "\n")


def _choices(row: Prediction) -> str:
    lines = []
    for letter, choice in zip(ascii_uppercase, row.choices, strict=False):  # the grader knows no 27th choice
        kinds = [kind for kind, at in (("truth", row.truth), ("given", row.answer)) if at == letter]
        said = {"truth": "right", "given": "answered"}
        notes = f" ({', '.join(said[kind] for kind in kinds)})" if kinds else ""
        lines.append(f'<li class="{" ".join(kinds)}">{letter}. {escape(_cut(str(choice)))}{notes}</li>')
    return f"<ol>{''.join(lines)}</ol>\n" if lines else ""


def _facts(row: Prediction) -> Iterator[tuple[str, str]]:
    yield "answered", "no answer read" if row.answer is None else _cut(str(row.answer))
    yield "right is", _cut(row.truth)
    yield "verdict", f"strict: {_word(row.strict)}, official: {_word(row.official)}"
    if found := row.grounding:
        yield "targets", f"{found.grounded_targets} of {found.targets} grounded"
        yield "IoU, coverage", f"{found.iou:.2f}, {found.coverage:.3f}"


def _word(right: bool) -> str:
    return "right" if right else "wrong"


def _cut(text: str) -> str:
    left = len(text) - MAX_TEXT
    return text if left <= 0 else f"{text[:MAX_TEXT]} .. ({left:,} more characters)"
