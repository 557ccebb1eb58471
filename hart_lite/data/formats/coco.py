"""COCO and what looks like it: images, boxes, categories and, where the set has them, questions."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hart_lite.data.dataset import image_source
from hart_lite.data.formats.base import ImageDir
from hart_lite.data.json_files import read_json
from hart_lite.data.row_box_formats import in_pixels, refuse_other_formats
from hart_lite.data.rows import Row
from hart_lite.errors import DataError, HartError
from hart_lite.utils.text import shown

SLACK = 1.0  # pixels by which a box may leave its image, and is cut: tools round
LARGEST = 1e9  # no coordinate is larger

log = logging.getLogger(__name__)


def read_coco(
    source: str, image_dir: ImageDir, question: str | None, category_answer: bool, boxes: str | None = None
) -> Iterator[Row]:
    """One JSON of `images`, `annotations` and `categories`; the `bbox` of an annotation is [x, y, width, height],
    in pixels or in the format that `boxes` names.

    An annotation asks its `question`, or else each of its `captions`, or else the given `question` with its category in
    the place of {category}. It is answered by its `answer`, or else, with `category_answer`, by its category.
    Annotations of an image that ask the same and answer the same are one row with all their boxes.
    """
    if category_answer and "{category}" in (question or ""):
        log.warning("the answer stands in the question: it can be given without a look at the image")
    coco = _open(source, image_dir, question, category_answer, boxes)
    rows: dict[str, Row] = {}
    for index, annotation in enumerate(coco.annotations):
        place = (f"{source} annotations[{index}]", str(index), coco.folder)
        try:
            found = list(coco.questions(annotation))
        except HartError as error:
            yield Row(*place, problem=str(error))
            continue
        for number, fields in enumerate(found, start=1):
            same = _key([fields[name] for name in ("image", "question", "answer", "choices")])
            if same in rows:
                rows[same].fields["boxes"].extend(fields["boxes"])
            else:
                id = str(annotation.get("id", index))
                rows[same] = Row(*place, fields | {"id": f"{id}-{number}" if len(found) > 1 else id})
    yield from rows.values()


def _open(source: str, image_dir: ImageDir, question: str | None, category_answer: bool, boxes: str | None) -> _Coco:
    data = read_json(Path(source))
    parts = [data.get(name) if isinstance(data, dict) else None for name in ("images", "annotations", "categories")]
    if not all(isinstance(part, list) for part in parts[:2]):
        raise DataError(f"{source}: an object with lists of `images` and `annotations` is needed")
    images, annotations, categories = (part if isinstance(part, list) else [] for part in parts)
    return _Coco(
        images={_key(image["id"]): image for image in images if isinstance(image, dict) and "id" in image},
        annotations=annotations,
        categories={_key(c["id"]): c.get("name") for c in categories if isinstance(c, dict) and "id" in c},
        folder=Path(image_dir or Path(source).parent),
        question=question,
        category_answer=category_answer,
        boxes=boxes,
    )


def _key(value: Any) -> str:
    """1 and "1" are different ids, and whatever JSON holds can be one."""
    return json.dumps(value, sort_keys=True)


@dataclass(frozen=True)
class _Coco:
    images: Mapping[str, Mapping[str, Any]]
    annotations: list[Any]
    categories: Mapping[str, Any]
    folder: Path
    question: str | None
    category_answer: bool
    boxes: str | None
    sizes: dict[str, tuple[int, int]] = field(default_factory=dict)  # of files read so far

    def questions(self, annotation: Any) -> Iterator[dict[str, Any]]:
        """The fields of each question that an annotation asks, all but the id. Raises `DataError`."""
        if not isinstance(annotation, dict):
            raise DataError(f"{shown(annotation)} given; an object is needed")
        image = self.images.get(_key(annotation.get("image_id")))
        if image is None:
            raise DataError(f"image_id {shown(annotation.get('image_id'))}: there is no such image")
        category = self.categories.get(_key(annotation.get("category_id")))
        asked = annotation.get("question") or annotation.get("captions") or self._asked_of_all(annotation, category)
        for question in asked if isinstance(asked, list) else [asked]:
            yield {
                "image": image.get("file_name"),
                "question": question,
                "answer": annotation.get("answer", category if self.category_answer else None),
                "choices": annotation.get("choices", []),
                "boxes": self._boxes(annotation.get("bbox"), image),
                "category": category,
            }

    def _asked_of_all(self, annotation: Mapping[str, Any], category: Any) -> str:
        if self.question is None:
            raise DataError("no `question` and no `captions`; --question gives one for all")
        if category is None and "{category}" in self.question:
            raise DataError(f"category_id {shown(annotation.get('category_id'))}: there is no such category")
        return self.question.replace("{category}", str(category))

    def _boxes(self, box: Any, image: Mapping[str, Any]) -> list[list[float]]:
        """The box as [x1, y1, x2, y2] in pixels of the upright image, or none. Raises `DataError` for what is no box,
        and if the image is not of the size that the box was drawn on."""
        if box is None:
            return []
        numbers = isinstance(box, list) and all(type(v) in (int, float) and abs(v) < LARGEST for v in box)
        if not numbers or len(box) != 4:
            raise DataError(f"bbox: {shown(box)} given; [x, y, width, height] in pixels is needed")
        size = self._size(image.get("file_name"))
        drawn_on = (image.get("width", size[0]), image.get("height", size[1]))
        if drawn_on != size:
            raise DataError(
                f"the image is {size[0]} x {size[1]} pixels upright, its boxes are for {shown(drawn_on[0])} x "
                f"{shown(drawn_on[1])}"
            )
        x, y, width, height = box
        written = [x, y, x + width, y + height]
        if self.boxes in (None, "xywh", "pixels"):
            refuse_other_formats(written, size)
        else:
            written = in_pixels(written, self.boxes, size)
        corners = zip(written, (*size, *size), strict=True)
        x1, y1, x2, y2 = corners = [_within(value, limit) for value, limit in corners]
        # Checked here, not with the row: the row may have other boxes, of other annotations.
        if not (0 <= x1 < x2 <= size[0] and 0 <= y1 < y2 <= size[1]):
            raise DataError(f"bbox: {shown(box)} is empty or leaves its image of {size[0]} x {size[1]} pixels")
        return [corners]

    def _size(self, name: Any) -> tuple[int, int]:
        source = image_source(name, self.folder, (self.folder,))
        if name not in self.sizes:
            self.sizes[name] = source.size()
        return self.sizes[name]


def _within(value: float, limit: int) -> float:
    """Two decimals, as COCO has them; what leaves the image by less than `SLACK` ends at its edge."""
    inside = min(max(value, 0), limit)
    return round(inside if abs(value - inside) < SLACK else value, 2)
