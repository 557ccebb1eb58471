"""What `ask` says of an answer: lines for a terminal, an object for a program, a picture."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from hart_lite.utils.text import printable, shown

if TYPE_CHECKING:
    from hart_lite.inference.ask import Answer
    from hart_lite.types import ImageSource


def draw(asked: Answer, image: ImageSource, place: Path) -> str:
    """Draws it; returns what to say of it."""
    from hart_lite.report.answer_picture import answer_picture, save_picture

    replaced = place.exists()
    save_picture(
        answer_picture(
            image.load(), asked.boxes, [view.box for view in asked.crops], [asked.question, answered(asked)]
        ),
        place,
    )
    if replaced:
        print(f"hart-lite: {printable(str(place))} was there and is replaced", file=sys.stderr)
    return str(place)


def record(
    arguments: argparse.Namespace, photo: Path, asked: Answer, size: tuple[int, int], picture: str | None
) -> dict:
    return {
        "image": str(photo),
        "width": size[0],
        "height": size[1],
        "model": arguments.model or "toy",
        "mode": arguments.mode,
        "question": asked.question,
        "choices": list(asked.choices),
        "answer": asked.answer,
        "choice": asked.choice,
        "text": asked.text,
        "boxes": [[round(value, 2) for value in box.xyxy] for box in asked.boxes],
        "rejected_boxes": asked.rejected,
        "located": asked.located,
        "picture": picture,
        "failure": asked.failure or None,
    }


def lines(mode: str, asked: Answer, size: tuple[int, int], picture: str | None) -> Iterator[str]:
    """What a terminal is shown: nothing that a model wrote moves its cursor."""
    yield printable(asked.question)
    if asked.failure:
        yield "  no answer"
        return
    yield f"  answer: {printable(answered(asked))}"
    for number, box in enumerate(asked.boxes, 1):
        corners = ", ".join(f"{value:.0f}" for value in box.xyxy)
        yield f"  box {number}: {corners} of {size[0]} x {size[1]} pixels"
    if not asked.boxes:
        wrote = f"; it wrote {printable(shown(asked.located))}" if asked.located else ""
        yield "  no box: mode full answers at a glance" if mode == "full" else f"  no box found{wrote}"
    if asked.rejected:
        yield f"  boxes refused (outside the photo, empty, too large, or too many): {asked.rejected}"
    if picture:
        yield f"  picture: {printable(picture)}"


def answered(asked: Answer) -> str:
    if asked.answer is not None:
        return f"{asked.answer}: {asked.choice}" if asked.choices else asked.answer
    return f"none that can be read; it wrote {shown(asked.text)}" if asked.text.strip() else "none"
