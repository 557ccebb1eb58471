"""What the bytes of an image say before anything is decoded: how long they are, which way up, how many passes."""

from __future__ import annotations

import os
import re
import struct
import zlib
from typing import BinaryIO

from PIL import Image

from hart_lite.errors import DataError

MAX_SCANS = 100  # passes of a JPEG over its pixels, of which ten are usual; libtiff has the same limit

# What PIL's decoders raise on damaged files (RuntimeError: AVIF; TypeError: TIFF headers).
DECODE_ERRORS = (OSError, SyntaxError, ValueError, TypeError, RuntimeError, EOFError, OverflowError)
DECODE_ERRORS += (struct.error, zlib.error)

_MARKER = re.compile(rb"\xff([^\x00\x01\xd0-\xd7\xff])")  # of a JPEG; those left out have no length behind them
_JPEG_BEGINS, _JPEG_ENDS, _SCAN = b"\xd8", b"\xd9", b"\xda"
_ORIENTATION = 0x0112
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def length_of(stream: BinaryIO) -> int:
    position = stream.tell()
    length = stream.seek(0, os.SEEK_END)
    stream.seek(position)
    return length


def check_scans(stream: BinaryIO, name: str) -> None:
    """A JPEG of a kilobyte can ask for thousands of passes over millions of pixels: minutes for nothing."""
    position = stream.tell()
    stream.seek(0)
    data = stream.read()
    stream.seek(position)
    scans = at = 0
    while (marker := _MARKER.search(data, at)) and marker[1] != _JPEG_ENDS:
        scans += marker[1] == _SCAN
        if scans > MAX_SCANS:
            raise DataError(f"{name}: a JPEG of over {MAX_SCANS} scans; no camera writes that many. Save it anew")
        skipped = 0 if marker[1] == _JPEG_BEGINS else int.from_bytes(data[marker.end() : marker.end() + 2])
        at = marker.end() + skipped


def orientation(image: Image.Image, stream: BinaryIO) -> int:
    """EXIF orientation 1..8, without decoding. Damaged EXIF data counts as none: viewers show such files as stored."""
    if image.format == "TIFF":
        return 1  # the one format that PIL turns by itself, its size in the header included
    try:
        if image.format == "PNG" and "exif" not in image.info and (data := _png_exif(stream)):
            image.info["exif"] = data
        # Not image.getexif(): a PNG without EXIF data would be decoded in search of it.
        value = Image.Image.getexif(image).get(_ORIENTATION, 1)
    except DECODE_ERRORS:
        return 1
    return value if value in UPRIGHT else 1


def _png_exif(stream: BinaryIO) -> bytes:
    """The eXIf chunk wherever it stands: behind the pixels PIL would decode the whole image to reach it."""
    position = stream.tell()
    stream.seek(8)
    data = b""
    while not data and len(head := stream.read(8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        if kind == b"eXIf":
            data = stream.read(min(length, length_of(stream)))  # room is made for as much as is asked for
        stream.seek(length + 4, os.SEEK_CUR)
    stream.seek(position)
    return data
