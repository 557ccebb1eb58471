"""What the demo shows: its page, a preview of a photo, and locate, crop, answer for each question."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from PIL import Image

from hart_lite.data.drawing import crop_of
from hart_lite.demo.session import BASE, MAX_WORDS, ONLY, TRAINED, Demo, Request, choice_words, read_photo
from hart_lite.grading import grade
from hart_lite.inference.ask import Answer
from hart_lite.inference.load import TOY_WARNING
from hart_lite.report.html import Pictures, fragment, page
from hart_lite.report.looks import CROP_SIDE, Crop, Look, frames_of, with_choice
from hart_lite.types import Example
from hart_lite.utils.text import cut

PHOTO_SIDE, THUMBNAIL = 2000, 224  # most pixels of the longer sides in the page
PHOTO = "#photo"  # the page holds it under this id
TITLES = {BASE: "Base, adapter off", TRAINED: "Trained, adapter on", ONLY: ""}


@dataclass(frozen=True)
class Column:
    """What one of those who answer saw and said; `look` is None while the answer is not there. `boxes`: those that it
    named and a person can move, "left,top,right,bottom" in original pixels."""

    who: str
    title: str
    look: Look | None = None
    answer: str = ""
    right: bool | None = None
    truth: str = ""
    notes: Sequence[str] = ()
    located: str = ""
    text: str = ""
    failure: str = ""
    boxes: Sequence[str] = ()


def demo_page(demo: Demo, about: str) -> str:
    """`about` says who answers. The thumbnails of the examples are in the page."""
    pictures = Pictures()
    tries = [
        (pictures.url(e.images[0].load(), THUMBNAIL) or "", e.question, choice_words(e.choices)) for e in demo.examples
    ]
    return page(
        "demo.html",
        scripts=("page.js", "demo.js"),
        title="hart-lite demo",
        about=about,
        tries=tries,
        warning=TOY_WARNING if demo.model.toy else "",
        most=MAX_WORDS,
    )


def preview(demo: Demo, example: Example | None, data: bytes) -> dict[str, str | int]:
    """The upright photo as a data URL, and its own size. Raises `HartError`."""
    image = (example.images[0] if example else read_photo(data)).load()
    url = Pictures(room=2 * 10**7).url(image, PHOTO_SIDE) or ""
    return {"preview": url, "width": image.width, "height": image.height}


def notice(message: str) -> str:
    return fragment("answers.html", notice=message, questions=[])


def answers_html(request: Request, answerers: Sequence[str], found: Mapping[str, Sequence[Answer]]) -> str:
    """For each question a column for each who answers; those not in `found` are still at it. Raises `HartError` for a
    photo that cannot be decoded."""
    image, pictures = request.photo.load(), Pictures()
    questions = []
    for n, question in enumerate(request.questions):
        columns = [
            _column(who, found[who][n], request, image, pictures) if who in found else Column(who, TITLES[who])
            for who in answerers
        ]
        questions.append((question, columns))
    return fragment("answers.html", notice="", questions=questions, drawn=bool(request.boxes))


def _column(who: str, answer: Answer, request: Request, image: Image.Image, pictures: Pictures) -> Column:
    truth, crops = request.truth, []
    for number, view in enumerate(answer.crops, 1):
        crop = crop_of(image, view.box)
        if url := pictures.url(crop, CROP_SIDE):
            crops.append(Crop(url, *crop.size, number))
    text = answer.choice or answer.answer or "no answer"
    return Column(
        who,
        TITLES[who],
        # A box that was drawn by hand stands on the photo already.
        Look("" if request.boxes else PHOTO, image.size, frames_of(answer.boxes, truth.boxes if truth else ()), crops),
        cut(text),
        grade(answer.text, truth.answer, truth.choices) if truth else None,
        with_choice(truth.answer, truth.choices) if truth else "",
        list(_notes(answer)),
        cut(answer.located),
        cut(answer.text) if answer.text.strip() != text else "",
        answer.failure,
        [] if request.boxes else [",".join(f"{value:.1f}" for value in box.xyxy) for box in answer.boxes],
    )


def _notes(answer: Answer):
    if not answer.boxes and not answer.failure:
        yield "It named no usable box, and answers from the whole photo."
    if answer.rejected:
        yield f"Boxes refused (outside, empty, too large or too many): {answer.rejected}."
