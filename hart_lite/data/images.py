"""Pixels: decode safely, crop from the original, show at the size the model sees.

Whatever a decoder is given ends as upright RGB (EXIF orientation applied) or as one `DataError` naming the file.
"""

from __future__ import annotations

import hashlib
import io
import os
import stat
import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps

from hart_lite.data.image_headers import DECODE_ERRORS, UPRIGHT, check_scans, length_of, orientation
from hart_lite.data.image_kinds import NO_HEIC, is_heic, what_bytes_are, why_missing
from hart_lite.errors import DataError
from hart_lite.utils.text import cut, printable

MAX_PIXELS = 300_000_000  # 1.2 GB as RGB; the largest images of the benchmarks have about a tenth of it
# What is larger than an 8K frame must have a byte for every so many pixels; a true JPEG has 512 at most, a bit for each
# block. One whose header lies decodes without an error, as grey: from 600 bytes 300 million pixels.
FREE_PIXELS, PIXELS_A_BYTE = 2**25, 1000
CACHE_BYTES = 512 * 2**20  # decoded images kept: one 8K frame takes 127 MiB
# Named so that PIL never tries the rest: EPS, for one, would start Ghostscript on a file from a data set.
FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "AVIF", "JPEG2000", "PPM")

# PIL warns from 89 million pixels and refuses from 179 million, for the whole process; the limit here is our own.
Image.MAX_IMAGE_PIXELS = MAX_PIXELS
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # between the limit and its double we refuse

_BOMB = (Image.DecompressionBombError, Image.DecompressionBombWarning)

# How a file begins -> how it ends when it was written to its end.
_ENDS = {b"\xff\xd8\xff": b"\xff\xd9", b"\x89PNG": b"IEND\xaeB`\x82", b"GIF8": b";"}
_PADDING = b"\0\r\n"
_HEAD = 256  # bytes that tell what a file is
_TOPS = (255.0, 1023.0, 4095.0, 16383.0, 65535.0)  # the largest grey of 8 to 16 bits


class _DecodedImages:
    """The images decoded last, bounded by bytes: many questions share one image, and locate and crop read the same."""

    def __init__(self, limit: int):
        self.limit = limit
        self.used = 0
        self._images: OrderedDict[tuple, Image.Image] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: tuple, decode: Callable[[], Image.Image]) -> Image.Image:
        with self._lock:
            if key in self._images:
                self._images.move_to_end(key)
                return self._images[key]
        image = decode()
        with self._lock:
            if key not in self._images and _nbytes(image) <= self.limit:
                self._images[key] = image
                self.used += _nbytes(image)
            while self.used > self.limit:
                self.used -= _nbytes(self._images.popitem(last=False)[1])
        return image


def _nbytes(image: Image.Image) -> int:
    return image.width * image.height * 4  # PIL keeps RGB in 4 bytes


DECODED = _DecodedImages(CACHE_BYTES)


@dataclass(frozen=True)
class ImageFile:
    """An image file. Its identity is the file it leads to, however the path is written. `given`: the name in a row."""

    path: Path
    given: str = field(default="", compare=False)

    @property
    def name(self) -> str:
        """For messages."""
        return cut(printable(str(self.path)).replace("\n", "\N{REPLACEMENT CHARACTER}"))

    @cached_property
    def key(self) -> str:
        return os.path.realpath(self.path)

    def load(self) -> Image.Image:
        """RGB, upright, shared with other callers: do not draw on it. Raises `DataError` naming the file."""
        with self._stream() as stream:
            found = os.fstat(stream.fileno())  # a file written anew is read anew
            version = (self.key, found.st_mtime_ns, found.st_size)
            return DECODED.get(version, lambda: decode(stream, self.name))

    def size(self) -> tuple[int, int]:
        with self._stream() as stream:
            return upright_size(stream, self.name)

    def checked_size(self) -> tuple[int, int]:
        with self._stream() as stream:
            return checked_size(stream, self.name)

    def _stream(self) -> BinaryIO:
        if os.path.exists(self.path) and not os.path.isfile(self.path):  # a pipe would be waited for without end
            raise DataError(f"{self.name}: not a file" + (", but a folder" if os.path.isdir(self.path) else ""))
        try:
            if not stat.S_ISREG(os.stat(self.path).st_mode):  # a pipe would be waited for
                raise DataError(f"{self.name}: cannot be read: it is no regular file")
            return open(self.path, "rb")
        except FileNotFoundError:
            raise DataError(f"{self.name}: no such image file{why_missing(self.given or str(self.path))}") from None
        except OSError as error:
            raise DataError(f"{self.name}: cannot be read: {error.strerror}") from error


@dataclass(frozen=True)
class ImageBytes:
    """An encoded image in memory. Its identity is its content; `name` is for messages."""

    data: bytes = field(repr=False)
    name: str

    @cached_property
    def key(self) -> str:
        return content_key(self.data)

    def load(self) -> Image.Image:
        """RGB, upright, shared with other callers: do not draw on it. Raises `DataError` with the name."""
        return DECODED.get((self.key,), lambda: decode(io.BytesIO(self.data), self.name))

    def size(self) -> tuple[int, int]:
        return upright_size(io.BytesIO(self.data), self.name)

    def checked_size(self) -> tuple[int, int]:
        return checked_size(io.BytesIO(self.data), self.name)

    def encoded(self) -> bytes:
        return self.data


class LoadedImage:
    """An image that is decoded already, as a notebook has it. Its identity is its pixels."""

    def __init__(self, image: Image.Image) -> None:
        self.image = _rgb(ImageOps.exif_transpose(image))
        self.key = content_key(repr(self.image.size).encode() + self.image.tobytes())

    def load(self) -> Image.Image:
        """RGB, upright, shared with other callers: do not draw on it."""
        return self.image

    def size(self) -> tuple[int, int]:
        return self.image.size


def content_key(data: bytes) -> str:
    """The identity of an image that has no file of its own."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def encoded_as(data: bytes, name: str) -> str:
    """PIL's name of an encoded image's format, such as "JPEG". Raises `DataError` starting with `name`."""
    with _opened(io.BytesIO(data), name) as image:
        return image.format


def decode(stream: BinaryIO, name: str) -> Image.Image:
    """The first frame of an encoded image as upright RGB. Raises `DataError` starting with `name`."""
    with _opened(stream, name) as image:
        turn = UPRIGHT.get(orientation(image, stream))
        if image.format in ("JPEG", "MPO"):
            check_scans(stream, name)
        image.load()
        image = _rgb(image)
        return image.transpose(turn) if turn is not None else image


def upright_size(stream: BinaryIO, name: str) -> tuple[int, int]:
    """(width, height) after EXIF orientation, read from the header. Raises `DataError` starting with `name`."""
    with _opened(stream, name) as image:
        width, height = image.size
        return (height, width) if orientation(image, stream) >= 5 else (width, height)


def checked_size(stream: BinaryIO, name: str) -> tuple[int, int]:
    """`upright_size` of an image that does not break off. Its last bytes tell; one that ends in others (a phone may
    append a film) is decoded. Raises `DataError` starting with `name`."""
    size = upright_size(stream, name)
    stream.seek(0)
    head = stream.read(8)
    end = next((end for start, end in _ENDS.items() if head.startswith(start)), b"")
    length = stream.seek(0, os.SEEK_END)
    stream.seek(max(length - 64, 0))
    if not stream.read().rstrip(_PADDING).endswith(end):
        decode(stream, name)
    return size


@cache
def heic_formats() -> tuple[str, ...]:
    """PIL's name for HEIC where pillow-heif is installed."""
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        return ()
    register_heif_opener()
    return ("HEIF",)


@contextmanager
def _opened(stream: BinaryIO, name: str) -> Iterator[Image.Image]:
    stream.seek(0)
    head = stream.read(_HEAD)
    stream.seek(0)
    try:
        with Image.open(stream, formats=FORMATS + (heic_formats() if is_heic(head) else ())) as image:
            if image.width * image.height > MAX_PIXELS:
                raise DataError(
                    f"{name}: {image.width} x {image.height} pixels; at most {MAX_PIXELS:,} are decoded. Scale it down"
                )
            if image.width * image.height > max(FREE_PIXELS, PIXELS_A_BYTE * length_of(stream)):
                raise DataError(
                    f"{name}: {image.width} x {image.height} pixels in {length_of(stream):,} bytes: its header is "
                    f"damaged, or it is made to fill the memory. Over {FREE_PIXELS:,} pixels need a byte for "
                    f"{PIXELS_A_BYTE:,}"
                )
            yield image
    except _BOMB as error:
        raise DataError(f"{name}: {error}; at most {MAX_PIXELS:,} pixels are decoded. Scale it down") from error
    except Image.UnidentifiedImageError as error:
        if is_heic(head):
            raise DataError(f"{name}: {NO_HEIC}") from error
        if what := what_bytes_are(head):
            raise DataError(f"{name}: not an image, but {what}") from error
        raise DataError(f"{name}: not an image (readable are {', '.join(FORMATS)})") from error
    except DECODE_ERRORS as error:
        raise DataError(f"{name}: damaged image: {error}") from error


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return Image.fromarray(_eight_bit(np.asarray(image), image.mode)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        page = Image.new("RGBA", image.size, "white")  # see-through drawings are mostly dark lines on nothing
        return Image.alpha_composite(page, image).convert("RGB")
    return image.convert("RGB")


def _eight_bit(values: np.ndarray, mode: str) -> np.ndarray:
    """Grey values of any range as uint8, from black to white: by the bits that the largest value needs, as X-rays and
    microscopes write 10 to 14 bits into 16, and stretched where no number of bits is meant."""
    values = np.nan_to_num(values.astype(np.float32), posinf=0.0, neginf=0.0)
    low, high = float(values.min()), float(values.max())
    if low >= 0:
        usual = (1.0, *_TOPS) if mode == "F" else _TOPS
        low, high = 0.0, next((top for top in usual if high <= top), high)
    return np.rint((values - low) * (255.0 / max(high - low, 1e-12))).astype(np.uint8)


def jpeg(image: Image.Image, quality: int) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return file.getvalue()
