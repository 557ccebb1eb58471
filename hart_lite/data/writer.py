"""Writes a data set: a folder with rows.jsonl, in the format of the README's "Rows", and the images it brings along."""

from __future__ import annotations

import io
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hart_lite.data.images import ImageBytes, ImageFile, encoded_as
from hart_lite.data.tables import ImageCell
from hart_lite.errors import DataError
from hart_lite.types import Example, ImageSource
from hart_lite.utils.text import shown

ROWS, IMAGES = "rows.jsonl", "images"


@contextmanager
def data_folder(out: str | Path, copy_images: bool = False) -> Iterator[DataFolder]:
    """A data set to add examples to. It appears as `out` when the block ends, and not at all when the block raises.

    Image files stay where they are and are named relative to `out`, unless `copy_images`. Other images, those in a
    table or drawn ones, are written to `out`/images. Raises `DataError` if `out` is not a new name.
    """
    out = Path(out)
    if out.suffix == ".jsonl":
        raise DataError(f"{out}: name a folder, {shown(str(out.with_suffix('')))} say; the rows become its {ROWS}")
    if os.path.lexists(out):
        raise DataError(f"{out}: is already there; give a new name, or remove it first")
    if not out.parent.is_dir():
        raise DataError(f"{out}: there is no folder {out.parent}; make it first")
    with tempfile.TemporaryDirectory(prefix=".hart-lite-", dir=out.parent) as temporary:
        partial = Path(temporary, "data")
        partial.mkdir()
        with open(partial / ROWS, "w", encoding="utf-8") as rows:
            yield DataFolder(partial, Path(os.path.realpath(out)), rows, copy_images)
        os.replace(partial, out)


class DataFolder:
    """The folder while it is written, at `path`; it will be at `out`."""

    def __init__(self, path: Path, out: Path, rows: io.TextIOBase, copy_images: bool) -> None:
        self.path = path
        self.count = 0  # rows
        self._out, self._rows, self._copy_images = out, rows, copy_images
        self._images: dict[str, str] = {}  # key -> how rows name it
        self._taken: set[str] = set()  # file names in images, in lower case: some file systems know no other

    @property
    def images(self) -> int:
        return len(self._images)

    def add(self, example: Example) -> None:
        """One more row. Raises `DataError` for an image that cannot be read."""
        names = [self._name(image) for image in example.images]
        several = len(names) > 1
        row = {"id": example.id} | ({"images": names} if several else {"image": names[0]})
        row["question"] = example.question
        if example.choices:
            row["choices"] = list(example.choices)
        row["answer"] = example.answer
        if example.boxes:
            row["boxes"] = [[*box.xyxy, box.image] if several else list(box.xyxy) for box in example.boxes]
        if example.category:
            row["category"] = example.category
        self._rows.write(json.dumps(row, ensure_ascii=False) + "\n")
        self.count += 1

    def _name(self, image: ImageSource) -> str:
        if image.key not in self._images:
            self._images[image.key] = self._placed(image)
        return self._images[image.key]

    def _placed(self, image: ImageSource) -> str:
        """The image's name in rows, after it was written if it has to be."""
        if isinstance(image, ImageFile):
            if not self._copy_images:
                folder = os.path.realpath(image.path.parent)  # a link to the file stays one
                return os.path.relpath(os.path.join(folder, image.path.name), self._out)
            file = self._new_file(image.path.name)
            shutil.copyfile(image.path, file)
        elif isinstance(image, ImageCell | ImageBytes):  # as it is: another compression would be another picture
            data = image.encoded()
            ending = encoded_as(data, image.name).lower()
            file = self._new_file(f"{image.key.rpartition(':')[2][:16]}.{ending}")
            file.write_bytes(data)
        else:
            file = self._new_file(f"{image.key}.png")
            image.load().save(file)
        return f"{IMAGES}/{file.name}"

    def _new_file(self, name: str) -> Path:
        """A file in images that is not there yet: photo.jpg, then photo-2.jpg."""
        stem, ending = os.path.splitext(name)
        number = 1
        while name.lower() in self._taken:
            number += 1
            name = f"{stem}-{number}{ending}"
        self._taken.add(name.lower())
        folder = self.path / IMAGES
        folder.mkdir(exist_ok=True)
        return folder / name
