"""The picture of an answer: the photo with the boxes that were looked at, each crop beside it, question and answer."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from hart_lite.data.drawing import numbered, panel
from hart_lite.errors import HartError
from hart_lite.types import Box


def answer_picture(image: Image.Image, boxes: Sequence[Box], crops: Sequence[Box], texts: Sequence[str]) -> Image.Image:
    """`boxes` and the `crops` around them are pixels of `image`. `texts`: the question, then the answer."""
    return panel(image, numbered(boxes, crops), texts)


def picture_places(photos: Sequence[Path], out: Path | None, count: int) -> list[Path]:
    """Where the pictures of `count` answers go: `out`, then `out` with a number; without it new names in the current
    folder, after the first photo. Raises `HartError` for a place that cannot be written, or is one of the photos."""
    if out is None:
        names = (Path(f"{photos[0].stem}.answer{f'-{n}' if n > 1 else ''}.jpg") for n in itertools.count(1))
        return list(itertools.islice((name for name in names if not name.exists()), count))
    places = [out, *(out.with_stem(f"{out.stem}-{n}") for n in range(2, count + 1))]
    writable = {ending for ending, kind in Image.registered_extensions().items() if kind in Image.SAVE}
    if out.suffix.lower() not in writable:
        raise HartError(f"--out {out}: the ending should name a picture format, such as .jpg or .png")
    if not out.parent.is_dir():
        raise HartError(f"--out {out}: there is no folder {out.parent}; make it first")
    for place in places:
        if place.is_dir() or (place.exists() and any(place.samefile(photo) for photo in photos)):
            what = "a folder" if place.is_dir() else "the photo itself"
            raise HartError(f"--out {out}: {place} is {what}; choose another name")
    return places


def save_picture(picture: Image.Image, place: Path) -> None:
    try:
        picture.save(place, quality=88)
    except (OSError, ValueError) as error:  # ValueError: a format that cannot hold it
        raise HartError(f"the picture {place} cannot be written: {error}") from error
