"""Rows to Examples, each checked; the RL/SFT split by image. Only the headers and ends of images are read here."""

from __future__ import annotations

import logging
import math
import os
import random
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from hart_lite.data.contents import contents
from hart_lite.data.image_kinds import what_name_is
from hart_lite.data.images import ImageBytes, ImageFile
from hart_lite.data.markers import check_markers, count_markers, without_markers
from hart_lite.data.options import as_choices, without_options
from hart_lite.data.row_box_formats import SetFormat, outside, refuse_other_formats
from hart_lite.data.rows import Row, read_mme_realworld, read_rows
from hart_lite.data.tables import MAX_PATH, ImageCell, Source
from hart_lite.data.values import number_as_text
from hart_lite.errors import DataError, HartError
from hart_lite.grading import answer_letter, check_answer
from hart_lite.types import Box, Example, ImageSource
from hart_lite.utils.text import cut, shown

SHOWN = 5  # bad rows quoted in one error

log = logging.getLogger(__name__)


def load_examples(
    source: Source,
    *,
    format: str = "auto",
    columns: Mapping[str, str] | None = None,
    split: str | None = None,
    image_dir: str | Path | None = None,
    strict: bool = True,
) -> list[Example]:
    """Every row of a data set as an `Example`; images stay encoded until they are looked at.

    `source`: a .jsonl, .json or .csv file, a .parquet file, list or folder, a Hub name, or (`format="mme_realworld"`)
    its JSON. `columns` names the column for each field to be read, `{"question": "Text", ..}`; without it columns bear
    our names. `split` names a table's split.
    Relative image paths start at `image_dir`, else at the file's folder.
    Raises one `DataError` for all bad rows; with `strict=False` they are left out with a warning.
    """
    rows = read_rows(source, format=format, columns=columns, split=split, image_dir=image_dir)
    return _collect(rows, str(source), strict)


def load_mme_realworld(full_json: str | Path, lite_json: str | Path, image_dir: str | Path) -> list[Example]:
    """The training set of the paper: full English MME-RealWorld minus the Lite benchmark (see `without_lite`)."""
    kept, _ = without_lite(full_json, lite_json, image_dir)
    return _collect(iter(kept), str(full_json), strict=True)


def without_lite(full_json: str | Path, lite_json: str | Path, image_dir: str | Path) -> tuple[list[Row], list[Row]]:
    """(rows to train on, rows left out) of the full English MME-RealWorld, unchecked.

    There is no official training part. A question goes if Lite has its `Question_id`, or any question on its image:
    questions share images, and a policy must not have trained on a benchmark's picture. Paths are compared from the
    file name up, as the two sets may be unpacked under different folders. The images of Lite need not be present.
    """
    lite = list(read_mme_realworld(Path(lite_json), Path(image_dir)))
    for row in lite:
        if row.problem:  # left out, it would leave its image in the training set
            raise DataError(f"{row.where}: {row.problem}")
    ids = {str(row.fields["id"]) for row in lite}
    endings = [_path_endings(str(row.fields["image"])) for row in lite]
    whole, parts = {ending[0] for ending in endings}, {part for ending in endings for part in ending}

    def in_lite(row: Row) -> bool:
        path = _path_endings(str(row.fields["image"]))
        return str(row.fields["id"]) in ids or path[0] in parts or not whole.isdisjoint(path)

    kept: list[Row] = []
    left_out: list[Row] = []
    for row in read_mme_realworld(Path(full_json), Path(image_dir)):
        (left_out if not row.problem and in_lite(row) else kept).append(row)
    if not left_out:
        raise DataError(
            f"{lite_json}: none of its {len(lite)} questions or images is in {full_json}; Lite is a part of the full "
            "set, so one of the two files is not what it should be"
        )
    return kept, left_out


def _path_endings(path: str) -> list[str]:
    """a/b/c.jpg -> a/b/c.jpg, b/c.jpg, c.jpg"""
    parts = PurePosixPath(path).parts
    return ["/".join(parts[i:]) for i in range(len(parts))]


def _collect(rows: Iterator[Row], source: str, strict: bool) -> list[Example]:
    examples, problems = [], []
    for where, result in checked(rows):
        if isinstance(result, HartError):
            problems.append(f"{where}: {result}")
        else:
            examples.append(result)
    if problems:
        total = len(problems) + len(examples)
        shown = "".join(f"\n  {problem}" for problem in problems[:SHOWN])
        more = f"\n  ... and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
        message = f"{source}: {len(problems)} of {total} rows are bad:{shown}{more}"
        if strict or not examples:
            raise DataError(message)
        log.warning("%s\n  They are left out.", message)
    if not examples:
        raise DataError(f"{source}: no rows; a data set needs at least one")
    return examples


def checked(rows: Iterator[Row]) -> Iterator[tuple[str, Example | HartError]]:
    """Where each row stands, and the row as an `Example` or as the error that says what is wrong with it. Raises
    `DataError` at the end where all boxes together are in another format (see `SetFormat`)."""
    check = _RowCheck()
    for row in rows:
        try:
            result: Example | HartError = check.example(row)
        except HartError as error:
            result = error
        yield row.where, result
    check.box_format.check()


class _RowCheck:
    """Checks rows one after another; remembers ids (to find duplicates), image sizes (to read each header once) and
    what their boxes say together."""

    def __init__(self) -> None:
        self._first: dict[str, str] = {}  # id -> where it stood first
        self._sizes: dict[str, tuple[int, int]] = {}
        self.box_format = SetFormat()

    def example(self, row: Row) -> Example:
        if row.problem:
            raise DataError(row.problem)
        fields = {name: value for name, value in row.fields.items() if value is not None}
        asked = _text(fields, "question")
        choices = as_choices(fields.get("choices", []))
        answer = _text(fields | {"answer": number_as_text(fields.get("answer"))}, "answer")
        question = without_markers(asked)
        if not question:
            raise DataError(f"question: {shown(asked)} holds no word")
        question, choices = without_options(question, choices, answer)
        if not choices:
            check_answer(answer)
        images = self._images(fields, row)
        check_markers(count_markers(asked), len(images))
        example = Example(
            id=self._id(fields.get("id", row.default_id), row.where),
            images=images,
            question=question,
            answer=answer_letter(answer, choices) if choices else answer,
            choices=choices,
            boxes=self._boxes(fields.get("boxes", []), images),
            category=_text(fields, "category") if fields.get("category") else "",
        )
        self._first[example.id] = row.where
        return example

    def _id(self, value: Any, where: str) -> str:
        if isinstance(value, bool) or not isinstance(value, str | int) or not str(value).strip():
            raise DataError(f"id: {shown(value)} given; text or a whole number is allowed")
        if str(value) in self._first:
            raise DataError(f"id: {shown(str(value))} is taken by {self._first[str(value)]}; ids must differ")
        return str(value)

    def _images(self, fields: Mapping[str, Any], row: Row) -> tuple[ImageSource, ...]:
        if ("image" in fields) == ("images" in fields):
            raise DataError("a row needs either `image` or `images`")
        values = [fields["image"]] if "image" in fields else fields["images"]
        if not isinstance(values, list) or not values:
            raise DataError(f"images: {shown(values)} given; a list of at least one image is allowed")
        images = tuple(image_source(value, row.folder, row.inside) for value in values)
        for image in images:
            if image.key not in self._sizes:
                self._sizes[image.key] = image.checked_size()
        return images

    def _boxes(self, values: Any, images: Sequence[ImageSource]) -> tuple[Box, ...]:
        if not isinstance(values, list):
            raise DataError(f"boxes: {shown(values)} given; a list of [x1, y1, x2, y2] is allowed")
        return tuple(self._box(value, images) for value in values)

    def _box(self, value: Any, images: Sequence[ImageSource]) -> Box:
        several = len(images) > 1
        form = "[x1, y1, x2, y2, image number from 0]" if several else "[x1, y1, x2, y2]"
        numbers = isinstance(value, list) and all(type(v) in (int, float) and abs(v) < math.inf for v in value)
        if not numbers or len(value) != 4 + several:
            raise DataError(f"boxes: {shown(value)} given; {form} in original pixels is allowed")
        x1, y1, x2, y2 = value[:4]
        number = value[4] if several else 0
        if number not in range(len(images)):
            raise DataError(
                f"boxes: {shown(value)} lies on image {shown(number)}; the row has images 0 to {len(images) - 1}"
            )
        image = images[int(number)]
        width, height = size = self._sizes[image.key]
        refuse_other_formats(value[:4], size)
        if not (x1 < x2 and y1 < y2):
            raise DataError(f"boxes: {shown(value)} is empty; x1 < x2 and y1 < y2 are needed, not x, y, width, height")
        if not (min(x1, y1) >= 0 and x2 <= width and y2 <= height):
            raise DataError(f"boxes: {shown(value)} {outside(value[:4], size)}")
        if x2 - x1 < 1 or y2 - y1 < 1:
            raise DataError(f"boxes: {shown(value)} is less than a pixel wide or high")
        self.box_format.add(value[:4], image, size)
        return Box(x1, y1, x2, y2, int(number))


def image_source(value: Any, folder: Path, inside: Sequence[Path] = ()) -> ImageFile | ImageCell | ImageBytes:
    """An image as a row has it. Nothing is read; raises `DataError` for what cannot be one, and for a path that leads
    out of the folders `inside`: a data set from elsewhere must not pick images of this machine, least of all for a
    model behind an API."""
    if isinstance(value, str) and (what := what_name_is(value)):
        raise DataError(f"image: {shown(value)} {what}")
    if isinstance(value, str) and 0 < len(value) < MAX_PATH and "\0" not in value:
        path = folder / value
        if inside and not any(Path(os.path.abspath(path)).is_relative_to(os.path.abspath(top)) for top in inside):
            raise DataError(f"image: {shown(value)} leads out of {inside[0]}, the folder of its images (image_dir)")
        return ImageFile(path, value)
    if isinstance(value, ImageCell | ImageBytes):
        return value
    raise DataError(f"image: {shown(value)} given; a path or, in a table, an encoded image is allowed")


def _text(fields: Mapping[str, Any], name: str) -> str:
    value = fields.get(name)
    if value is None:
        raise DataError(f"no {name}; every row needs one")
    if not isinstance(value, str):
        raise DataError(f'{name}: {shown(value)} given; text is allowed (in quotes: "{cut(str(value))}")')
    if not value.strip():
        raise DataError(f"{name}: {shown(value)} is empty")
    return value.strip()


def split_by_image(
    examples: Sequence[Example], rl_size: int, seed: int, share_if_small: bool = False
) -> tuple[list[Example], list[Example]]:
    """(RL, SFT): disjoint by image, since many questions share one, and by what the image shows, not by the name of its
    file (see `contents`). An example with several images joins them.

    Whole images, in an order drawn from `seed`, go to RL until it has `rl_size` questions, so it exceeds that by less
    than the last image's questions. Both parts are the same whatever the order of `examples`.
    A set of no more than `rl_size` questions goes to RL entirely, or half of it with `share_if_small`.
    """
    clusters = [sorted(cluster, key=lambda e: e.id) for cluster in _image_clusters(examples)]
    clusters.sort(key=lambda cluster: cluster[0].id)  # by id, not by image: paths differ between machines
    random.Random(seed).shuffle(clusters)
    if share_if_small and len(examples) <= rl_size:
        rl_size = (len(examples) + 1) // 2
    rl: list[Example] = []
    sft: list[Example] = []
    for cluster in clusters:
        (rl if len(rl) < rl_size else sft).extend(cluster)
    return rl, sft


def _image_clusters(examples: Sequence[Example]) -> list[list[Example]]:
    """Connected components of examples that share an image, directly or through others."""
    content = contents(examples)
    parent: dict[str, str] = {}

    def root(key: str) -> str:
        parent.setdefault(key, key)
        while parent[key] != key:
            parent[key] = parent[parent[key]]  # halve the path
            key = parent[key]
        return key

    for example in examples:
        for image in example.images:
            parent[root(content[image.key])] = root(content[example.images[0].key])
    clusters = defaultdict(list)
    for example in examples:
        clusters[root(content[example.images[0].key])].append(example)
    return list(clusters.values())


def check_disjoint(rl: Sequence[Example], sft: Sequence[Example]) -> None:
    """Raises `DataError` if an image occurs in both parts, under whatever name."""
    content = contents([*rl, *sft])
    there = {content[image.key] for e in sft for image in e.images}
    shared = {content[image.key]: image.key for e in rl for image in e.images if content[image.key] in there}
    if shared:
        raise DataError(
            f"RL and SFT share {len(shared)} images, {', '.join(sorted(shared.values())[:3])} among them; "
            "they must be disjoint by image: split one data set, or take these images out of one"
        )
