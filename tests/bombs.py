"""Small files that ask for much: images whose headers lie, and YAML whose aliases multiply."""

from __future__ import annotations

import io
import struct
import zlib

from PIL import Image

SIZE = (40, 28)
_PNG = b"\x89PNG\r\n\x1a\n"


def yaml_bombs() -> dict[str, str]:
    names = list(zip("abcdefgh", "bcdefghi", strict=True))
    lists = "".join(f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n" for old, new in names)
    merges = "".join(f"{new}: &{new}\n  <<: [{', '.join([f'*{old}'] * 9)}]\n" for old, new in names)
    return {
        "aliases of aliases": "a: &a [x, x, x, x, x, x, x, x, x]\n" + lists,
        "merges of merges": "a: &a {x: 1}\n" + merges,
        "a list that holds itself": "a: &a [*a]",
        "60 levels": "a: " + "[" * 60 + "]" * 60,
        "30,000 levels": "a: " + "[" * 30_000,
        "100,000 characters": "a: " + "x" * 100_000,
        "a number of 9,000 digits": "a: 0x" + "f" * 9000,
        "a number of 30,000 parts": "a: 1" + ":1" * 30_000,
    }


def encode(image: Image.Image, format: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format, **options)
    return stream.getvalue()


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _png(size: tuple[int, int], *before: bytes, bits: int = 8, kind: int = 2, pixels: bytes = b"0") -> bytes:
    header = struct.pack(">IIBBBBB", *size, bits, kind, 0, 0, 0)
    return _PNG + _chunk(b"IHDR", header) + b"".join(before) + _chunk(b"IDAT", pixels) + _chunk(b"IEND", b"")


def _zeros(count: int) -> bytes:
    packer = zlib.compressobj(9)
    pieces = [packer.compress(bytes(1 << 20)) for _ in range(count >> 20)]
    return b"".join(pieces) + packer.compress(bytes(count % (1 << 20))) + packer.flush()


def flat_png(size: tuple[int, int]) -> bytes:
    """A black image of one bit a pixel, made without holding its pixels in memory."""
    width, height = size
    return _png(size, bits=1, kind=0, pixels=_zeros(height * (1 + (width + 7) // 8)))


def _sized(data: bytes, old: bytes, new: bytes) -> bytes:
    assert data.count(old) >= 1, "the header is not where it was"
    return data.replace(old, new, 1)


def _jpeg(size: tuple[int, int], **options: object) -> bytes:
    """Its header says `size`; the pixels of a small image follow, and then the end."""
    data = encode(Image.new("RGB", (16, 16)), "JPEG", **options)
    return _sized(data, struct.pack(">HH", 16, 16), struct.pack(">HH", size[1], size[0]))


def _scans(count: int) -> bytes:
    """A progressive JPEG that is told to go over all its pixels again and again."""
    size = (2000, 2000)
    data = encode(Image.new("L", size), "JPEG", progressive=True, optimize=True)
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * count + data[-2:]


# What is too much stands behind the pixels of a small image, and is not decoded.
HARMLESS = {"png, 80 MiB of pixels too many"}


def image_bombs() -> dict[str, bytes]:
    """Each holds more than a file of its length should: pixels, text, passes over the pixels."""
    rgb = Image.new("RGB", SIZE)
    text = _zeros(80 << 20)
    at = struct.pack
    tiff = encode(rgb, "TIFF")
    return {
        "png, 324 million pixels": _png((18_000, 18_000)),
        "png, 10^10 pixels": _png((100_000, 100_000)),
        "png, 289 million pixels of one bit": flat_png((17_000, 17_000)),
        "png, 80 MiB of zTXt": _png((8, 8), _chunk(b"zTXt", b"a\0\0" + text)),
        "png, 80 MiB of iTXt": _png((8, 8), _chunk(b"iTXt", b"a\0\1\0\0\0" + text)),
        "png, 80 MiB of iCCP": _png((8, 8), _chunk(b"iCCP", b"a\0\0" + text)),
        "png, 80 MiB of pixels too many": _png((8, 8), pixels=text),
        "png, a chunk of 2 GiB": _png((8, 8)) + at(">I", 2**31 - 1) + b"eXIf",
        "jpeg, 17,000 x 17,000 of 16 x 16": _jpeg((17_000, 17_000)),
        "jpeg, progressive, 17,000 x 17,000 of 16 x 16": _jpeg((17_000, 17_000), progressive=True),
        "jpeg, 65,535 x 65,535": _jpeg((65_535, 65_535)),
        "jpeg, 2,000 scans": _scans(2_000),
        "gif, 65,535 x 65,535": _sized(encode(rgb.quantize(2), "GIF"), at("<HH", *SIZE), at("<HH", 65_535, 65_535)),
        "gif, 17,000 x 17,000": _sized(encode(rgb.quantize(2), "GIF"), at("<HH", *SIZE), at("<HH", 17_000, 17_000)),
        "bmp, 2^31 x 2^31": _sized(encode(rgb, "BMP"), at("<ii", *SIZE), at("<ii", 2**31 - 1, 2**31 - 1)),
        "bmp, 17,000 x 17,000": _sized(encode(rgb, "BMP"), at("<ii", *SIZE), at("<ii", 17_000, 17_000)),
        "tiff, 2^31 wide": _sized(tiff, at("<HHIHH", 256, 4, 1, *SIZE[:1], 0), at("<HHII", 256, 4, 1, 2**31)),
        "webp, canvas of 16,777,216 x 200": _canvas(2**24, 200),
        "webp, canvas of 16,384 x 16,384": _canvas(2**14, 2**14),
        "jpeg2000, 2^31 wide": _sized(encode(rgb, "JPEG2000"), at(">II", SIZE[1], SIZE[0]), at(">II", 2**31, 2**31)),
        "avif, 60,000 x 60,000": encode(rgb, "AVIF").replace(at(">II", *SIZE), at(">II", 60_000, 60_000)),
        "ppm, 10^10 pixels": b"P6 100000 100000 255\n" + bytes(99),
        "ppm, a size of 10,000 digits": b"P6 " + b"9" * 10_000 + b" 9 255\n",
    }


def _canvas(width: int, height: int) -> bytes:
    data = bytearray(
        encode(Image.new("RGB", SIZE), "WEBP", save_all=True, append_images=[Image.new("RGB", SIZE, "red")])
    )
    at = data.index(b"VP8X") + 12
    data[at : at + 6] = struct.pack("<I", width - 1)[:3] + struct.pack("<I", height - 1)[:3]
    return bytes(data)
