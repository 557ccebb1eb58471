"""The same questions over time: where the model looked, what it saw there and what it answered, so that one sees the
boxes tighten. And pictures of what was sampled in training.
"""

from __future__ import annotations

import re
from html import escape
from pathlib import Path

from hart_lite.data.images import ImageFile
from hart_lite.errors import HartError
from hart_lite.eval.prediction import Prediction
from hart_lite.report.html import Pictures
from hart_lite.report.reader import Moment, Run
from hart_lite.runs.layout import TRACKED
from hart_lite.types import Box
from hart_lite.utils.text import cut

IMAGE_SIDE, CROP_SIDE, SAMPLES_SIDE = 800, 160, 1100  # pixels of the longer sides in the page
_NAME = re.compile(r"[\w.-]{1,200}\.jpg")  # of a picture beside the records: a name, not a path
_SAMPLES = re.compile(r"step-(\d{1,9})-\d{1,4}\.jpg")


def tracked(run: Run, pictures: Pictures) -> str:
    return "".join(_question(run, n, question, pictures) for n, question in enumerate(run.questions))


def _question(run: Run, number: int, question: dict, pictures: Pictures) -> str:
    seen = [(moment, row) for moment, rows in run.tracked.items() for row in rows if row.id == question["id"]]
    if not seen:
        return ""
    url = _url(run, question["picture"], IMAGE_SIDE, pictures)
    panels = ""
    for n, (moment, row) in enumerate(seen):
        picture = _panel(f"photo-{number}", url if n == 0 else "", question, row) if url else ""
        crops = _crops(run, moment, number, row, pictures)
        panels += f"<figure>{picture}{crops}<figcaption>{_caption(moment, row)}</figcaption></figure>\n"
    _, first = seen[0]
    answer = first.truth
    if first.choices and len(answer) == 1 and ord(answer) - ord("A") in range(len(first.choices)):
        answer = f"{answer}: {first.choices[ord(answer) - ord('A')]}"
    return (
        f'<article class="card question"><h3>{escape(cut(first.question))}</h3>\n'
        f'<p class="soft">Right is {escape(cut(answer))}.</p>\n<div class="looks">\n{panels}</div></article>\n'
    )


def _panel(name: str, url: str, question: dict, row: Prediction) -> str:
    """The photo, which the first panel holds and the others use, under the boxes: original pixels are its units."""
    width, height = (int(side) for side in question["size"])
    photo = (
        f'<image id="{name}" href="{url}" width="{width}" height="{height}" preserveAspectRatio="none"/>'
        if url
        else f'<use href="#{name}"/>'
    )
    truth = "".join(_rect("target", box) for box in row.truth_boxes if box.image == 0)
    boxes = "".join(_rect("casing", box) + _rect("look", box) for box in row.boxes if box.image == 0)
    return (
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="the photo with the boxes">'
        f"{photo}{truth}{boxes}</svg>"
    )


def _rect(kind: str, box: Box) -> str:
    return f'<rect class="{kind}" x="{box.x1:.1f}" y="{box.y1:.1f}" width="{box.width:.1f}" height="{box.height:.1f}"/>'


def _crops(run: Run, moment: Moment, number: int, row: Prediction, pictures: Pictures) -> str:
    names = [f"{moment.name}-{number}-{n}.jpg" for n in range(len(row.boxes))]
    urls = [_url(run, name, CROP_SIDE, pictures) for name in names]
    images = "".join(f'<img src="{url}" alt="what was in the box">' for url in urls if url)
    return f'<div class="seen">{images}</div>'


def _caption(moment: Moment, row: Prediction) -> str:
    verdict = '<span class="good">right</span>' if row.strict else '<span class="bad">wrong</span>'
    said = f'<span class="answered">{escape(cut(row.text))}</span>: {verdict}' if row.boxes else "no box"
    fit = f", IoU {100 * row.grounding.iou:.0f} %" if row.grounding else ""
    return f'<span class="when">{escape(moment.title)}</span><br>{said}{fit}'


def samples(run: Run, pictures: Pictures) -> str:
    """Of the first and the last step that each RL stage logged."""
    out = ""
    for stage, _ in run.rl:
        folder = run.folder / "stages" / stage.name / "rollouts"
        steps: dict[int, list[Path]] = {}
        for path in sorted(folder.glob("*.jpg")):
            if match := _SAMPLES.fullmatch(path.name):
                steps.setdefault(int(match[1]), []).append(path)
        for step in dict.fromkeys([min(steps), max(steps)]) if steps else ():
            for path in steps[step]:
                if url := _jpeg(path, SAMPLES_SIDE, pictures):
                    words = f"{escape(stage.name)}, step {step + 1:,}"
                    out += f'<figure class="card"><img src="{url}" alt=""><figcaption>{words}</figcaption></figure>\n'
    return f'<div class="samples">\n{out}</div>\n' if out else ""


def _url(run: Run, name: object, side: int, pictures: Pictures) -> str | None:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        return None
    return _jpeg(run.folder / TRACKED / name, side, pictures)


def _jpeg(path: Path, side: int, pictures: Pictures) -> str | None:
    """None for a picture that cannot be read, or has no room: the words stand without it."""
    try:
        return pictures.url(ImageFile(path).load(), side)
    except HartError:
        return None
