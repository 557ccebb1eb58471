"""Locate, crop, answer as HTML: the photo with its boxes, what was cut out, what was said. All text is escaped;
pictures are data URLs. The colours of text and ground are those of the page around it, light or dark.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from PIL import Image

from hart_lite.ask import Asked
from hart_lite.ask_picture import COLOURS
from hart_lite.demo import BASE, ONLY, TRAINED, Request
from hart_lite.grading import grade
from hart_lite.images import crop_pixels
from hart_lite.report_page import Pictures
from hart_lite.types import Box, Example, cut

PHOTO_SIDE, CROP_SIDE = 960, 320  # most pixels of the longer sides in the page
TITLES = {BASE: ("Base", "adapter off"), TRAINED: ("Trained", "adapter on"), ONLY: ("", "")}

STYLE = """
.looks { color: var(--body-text-color); overflow-wrap: anywhere; }
.looks h3 { font-size: 1.15rem; font-weight: 650; margin: 1.4rem 0 .7rem; unicode-bidi: plaintext; }
.looks h4 { font-size: 1rem; font-weight: 650; margin: 0 0 .7rem; }
.looks h4 small { font-weight: 400; color: var(--body-text-color-subdued); margin-left: .4rem; }
.looks h5 { font-size: .78rem; font-weight: 600; letter-spacing: .06em; text-transform: uppercase; margin: 0 0 .5rem;
  color: var(--body-text-color-subdued); display: flex; align-items: center; gap: .45rem; }
.looks h5 b { width: 1.35rem; height: 1.35rem; border-radius: 50%; background: var(--primary-600); color: #fff;
  display: grid; place-items: center; letter-spacing: 0; font-size: .75rem; }
.looks .who { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr)); gap: 1rem; }
.looks article { min-width: 0; padding: 1rem; border-radius: 1rem;
  border: 1px solid var(--border-color-primary); background: var(--block-background-fill); }
.looks .steps { display: flex; flex-wrap: wrap; gap: 1.1rem 1.5rem; }
.looks .step { flex: 3 1 7rem; min-width: 0; }
.looks .step:first-child { flex: 5 1 min(100%, 24rem); }
.looks .photo { position: relative; width: min(100%, 30rem * var(--aspect)); margin: 0 auto; }
.looks .photo img { display: block; width: 100%; height: auto; border-radius: .5rem; }
.looks .box { position: absolute; border: 3px solid var(--box); border-radius: .2rem; min-width: 10px; min-height: 10px;
  box-shadow: 0 0 0 1.5px #101010, inset 0 0 0 1.5px #101010; }
.looks .mark { position: absolute; left: -3px; bottom: 100%; margin-bottom: 3px; min-width: 1.3rem; padding: 0 .25rem;
  font: 700 .8rem/1.3rem system-ui, sans-serif; text-align: center; background: var(--box); color: #101010;
  border-radius: .2rem; box-shadow: 0 0 0 1.5px #101010; }
.looks .high .mark { bottom: auto; top: 100%; margin: 3px 0 0; }
.looks .crops { display: flex; flex-wrap: wrap; gap: .6rem; }
.looks figure { margin: 0; min-width: 0; width: min(100%, 8.5rem * var(--aspect)); }
.looks figure img { display: block; width: 100%; height: auto; margin: 0; border: 3px solid var(--box);
  border-radius: .35rem; }
.looks figcaption { white-space: nowrap; }
.looks figcaption, .looks .soft { font-size: .82rem; color: var(--body-text-color-subdued); margin: .35rem 0 0; }
.looks .said { unicode-bidi: plaintext; white-space: pre-wrap; font: .82rem/1.45 var(--font-mono);
  background: var(--background-fill-secondary); border-radius: .4rem; padding: .3rem .5rem; margin: .2rem 0 0; }
.looks .answer { font-size: 1.7rem; line-height: 1.2; font-weight: 650; margin: 0; unicode-bidi: plaintext; }
.looks .answer.long { font-size: 1.05rem; line-height: 1.4; }
.looks .verdict { display: inline-block; font-size: .85rem; font-weight: 600; border-radius: 1rem;
  padding: .1rem .65rem; margin: .5rem 0 0; border: 1px solid currentColor; }
.looks .right { color: #18794e; } .looks .wrong { color: #c02b2b; }
.dark .looks .right { color: #5fd39a; } .dark .looks .wrong { color: #ff8080; }
.looks .notice { border-left: 5px solid #b25d00; border-radius: .5rem; padding: .8rem 1rem; margin: .5rem 0;
  background: var(--block-background-fill); white-space: pre-wrap; }
.looks .wait { border-radius: .5rem; min-height: 8.5rem; background: var(--border-color-primary); }
.looks .thin { min-height: 2rem; }
@media (prefers-reduced-motion: no-preference) {
  .looks .wait, .looks .looking { animation: wait 1.4s ease-in-out infinite alternate; }
  .looks .fresh .box, .looks .fresh .step:nth-child(n+2) > :not(h5) { animation: come .5s ease-out backwards; }
  .looks .fresh .step:nth-child(2) > :not(h5) { animation-delay: .45s; }
  .looks .fresh .step:nth-child(3) > :not(h5) { animation-delay: .9s; }
  @keyframes wait { from { opacity: .45; } to { opacity: .9; } }
  @keyframes come { from { opacity: 0; transform: scale(1.15); } }
}
"""


def notice(message: str) -> str:
    return f'<div class="looks"><div class="notice" role="alert">{escape(message)}</div></div>'


def panels(
    request: Request, answerers: Sequence[str], found: Mapping[str, Sequence[Asked]], truth: Example | None = None
) -> str:
    """For each question, beside each other, what every answerer saw and said; those not in `found` are still at it.

    With the `truth` it says whether the answers are right. Raises `HartError` for a photo that cannot be decoded.
    """
    image, pictures = request.photo.load(), Pictures()
    url = pictures.url(image, PHOTO_SIDE) or ""
    newest = list(found)[-1:]
    out = ""
    for n, question in enumerate(request.questions):
        columns = ""
        for who in answerers:
            title, about = TITLES[who]
            head = f"<h4>{title}<small>{about}</small></h4>" if title else ""
            steps = _steps(image, url, found[who][n], pictures, truth) if who in found else _waiting(image, url)
            kind = ' class="fresh"' if who in newest else ""
            columns += f'<article{kind} data-who="{who}">{head}<div class="steps">{steps}</div></article>'
        out += f'<h3>{escape(question)}</h3><div class="who">{columns}</div>'
    return f'<div class="looks">{out}</div>'


def _steps(image: Image.Image, url: str, asked: Asked, pictures: Pictures, truth: Example | None) -> str:
    located = _photo(image, url, asked.boxes) + _where(asked)
    answered = f'<p class="notice">{escape(asked.failure)}</p>' if asked.failure else _answer(asked, truth)
    return (
        _step(1, "Locate", located)
        + _step(2, "Crop", _crops(image, asked.crops, pictures))
        + _step(3, "Answer", answered)
    )


def _waiting(image: Image.Image, url: str) -> str:
    photo = f'<div class="looking">{_photo(image, url, ())}</div><p class="soft">looking ..</p>'
    return (
        _step(1, "Locate", photo)
        + _step(2, "Crop", '<div class="wait"></div>')
        + _step(3, "Answer", '<div class="wait thin"></div>')
    )


def _step(number: int, title: str, html: str) -> str:
    return f'<div class="step"><h5><b>{number}</b>{title}</h5>{html}</div>'


def _photo(image: Image.Image, url: str, boxes: Sequence[Box]) -> str:
    """The boxes lie over the photo in shares of its sides: what is drawn stays sharp at any width of the page."""
    frames = ""
    for number, box in enumerate(boxes):
        left, top, right, bottom = crop_pixels(box, image.size)
        x, y = 100 / image.width, 100 / image.height
        place = (
            f"left:{left * x:.3f}%;top:{top * y:.3f}%;width:{(right - left) * x:.3f}%;height:{(bottom - top) * y:.3f}%"
        )
        high = " high" if top * y < 8 else ""
        frames += (
            f'<div class="box{high}" style="{place};{_colour(number)}"><span class="mark">{number + 1}</span></div>'
        )
    return (
        f'<div class="photo" style="--aspect:{image.width / image.height:.4f}">'
        f'<img src="{url}" alt="the photo">{frames}</div>'
    )


def _where(asked: Asked) -> str:
    out = ""
    if not asked.boxes and not asked.failure:
        out += '<p class="soft">no usable box: it answers from the whole photo</p>'
    if asked.rejected:
        out += f'<p class="soft">boxes refused (outside, empty, too large or too many): {asked.rejected}</p>'
    if asked.located:
        out += f'<p class="soft">it said to look here</p><p class="said">{escape(cut(asked.located))}</p>'
    return out


def _crops(image: Image.Image, crops: Sequence[Box], pictures: Pictures) -> str:
    out = ""
    for number, crop in enumerate(crops):
        cutting = image.crop(crop_pixels(crop, image.size))
        if url := pictures.url(cutting, CROP_SIDE):
            out += (
                f'<figure style="{_colour(number)};--aspect:{cutting.width / cutting.height:.4f}">'
                f'<img src="{url}" alt="crop {number + 1}">'
                f"<figcaption>{cutting.width} x {cutting.height} px</figcaption></figure>"
            )
    return f'<div class="crops">{out}</div>' if out else '<p class="soft">nothing was cut out</p>'


def _answer(asked: Asked, truth: Example | None) -> str:
    words = asked.choice or asked.answer or "no answer"
    size = " long" if len(words) > 24 else ""
    out = f'<p class="answer{size}">{escape(cut(words))}</p>'
    if asked.choice:
        out += f'<p class="soft">choice {escape(asked.answer)} of {len(asked.choices)}</p>'
    if truth:
        right = grade(asked.text, truth.answer, truth.choices)
        wanted = truth.choices["ABCDE".index(truth.answer)]
        verdict = "right" if right else f"wrong, it is {escape(wanted)}"
        out += f'<p class="verdict {"right" if right else "wrong"}">{verdict}</p>'
    if asked.text.strip() != words:
        out += f'<p class="soft">in its words</p><p class="said">{escape(cut(asked.text)) or "nothing"}</p>'
    return out


def _colour(number: int) -> str:
    return f"--box:{COLOURS[number % len(COLOURS)]}"
