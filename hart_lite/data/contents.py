"""Which images are one picture, whatever their files are called."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Mapping

from hart_lite.data.images import ImageBytes, ImageFile
from hart_lite.data.tables import ImageCell
from hart_lite.types import Example, ImageSource


def contents(examples: Iterable[Example]) -> Mapping[str, str]:
    """The key of each image -> a name of its content: images of the same bytes share it.

    Only files that have the length of another image are read, so that a set of thousands costs seconds. A picture that
    was saved anew in another format has other bytes, and is another one here.
    """
    images = {image.key: image for example in examples for image in example.images}
    lengths = {key: _length(image) for key, image in images.items()}
    often = Counter(lengths.values())
    return {
        key: _digest(image, key) if isinstance(image, ImageFile) and often[lengths[key]] > 1 else key
        for key, image in images.items()
    }


def _length(image: ImageSource) -> int | str:
    """Bytes as encoded; the key of an image that has none, and of one that cannot be read, which is told elsewhere."""
    if isinstance(image, ImageCell):
        return image.length
    if isinstance(image, ImageBytes):
        return len(image.data)
    try:
        return os.path.getsize(image.path) if isinstance(image, ImageFile) else image.key
    except OSError:
        return image.key


def _digest(file: ImageFile, key: str) -> str:
    """As `content_key` of its bytes."""
    try:
        with open(file.path, "rb") as stream:
            return f"sha256:{hashlib.file_digest(stream, 'sha256').hexdigest()}"
    except OSError:
        return key
