"""Images to damage, of every format and kind that is decoded, and bombs: small files that ask for much."""

from __future__ import annotations

import io
import random
import struct
import zlib
from collections.abc import Iterator

import numpy as np
from PIL import Image, ImageCms, PngImagePlugin

from hart_lite.data.images import ImageBytes
from tests.reliability.fuzz_bytes import damaged

SIZE = (40, 28)
_PNG = b"\x89PNG\r\n\x1a\n"


def read_image(data: bytes) -> None:
    """As the check of a data set and then training read it: the ends, the header, the pixels."""
    source = ImageBytes(data, "image")
    size = source.checked_size()
    image = source.load()
    assert image.mode == "RGB" and image.size == size, (image.mode, image.size, size)


def encoded(image: Image.Image, format: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format, **options)
    return stream.getvalue()


def seeds() -> dict[str, bytes]:
    noise = np.random.default_rng(0).integers(0, 256, (SIZE[1], SIZE[0], 4), dtype=np.uint8)
    rgba = Image.fromarray(noise)
    rgb, grey, palette = rgba.convert("RGB"), rgba.convert("L"), rgba.convert("RGB").quantize(16)
    deep = Image.fromarray(noise[:, :, 0].astype(np.uint16) * 257)
    real = Image.fromarray(noise[:, :, 0].astype(np.float32))
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "maker"
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    text = PngImagePlugin.PngInfo()
    text.add_text("a", "b" * 50, zip=True)
    text.add_itxt("c", "d", zip=True)
    frames = [rgb.rotate(90 * n) for n in range(3)]
    many = {"save_all": True, "append_images": frames[1:], "duration": 9}
    return {
        "png": encoded(rgb, "PNG"),
        "png-text": encoded(rgb, "PNG", pnginfo=text, exif=exif, icc_profile=profile),
        "png-alpha": encoded(rgba, "PNG"),
        "png-grey-alpha": encoded(rgba.convert("LA"), "PNG"),
        "png-palette": encoded(palette, "PNG", transparency=3),
        "png-16": encoded(deep, "PNG"),
        "png-1": encoded(grey.convert("1"), "PNG"),
        "png-animated": encoded(rgb, "PNG", **many),
        "jpeg": encoded(rgb, "JPEG", exif=exif, icc_profile=profile),
        "jpeg-progressive": encoded(rgb, "JPEG", progressive=True, quality=95),
        "jpeg-grey": encoded(grey, "JPEG"),
        "jpeg-cmyk": encoded(rgb.convert("CMYK"), "JPEG"),
        "jpeg-restarts": encoded(rgb, "JPEG", restart_marker_blocks=1),
        "webp": encoded(rgb, "WEBP", exif=exif, icc_profile=profile),
        "webp-lossless": encoded(rgba, "WEBP", lossless=True),
        "webp-alpha": encoded(rgba, "WEBP"),
        "webp-animated": encoded(rgb, "WEBP", **many),
        "gif": encoded(palette, "GIF"),
        "gif-animated": encoded(rgb, "GIF", **many),
        "tiff": encoded(rgb, "TIFF"),
        "tiff-lzw": encoded(rgba, "TIFF", compression="tiff_lzw"),
        "tiff-deflate": encoded(rgb, "TIFF", compression="tiff_adobe_deflate", exif=exif),
        "tiff-jpeg": encoded(rgb, "TIFF", compression="jpeg"),
        "tiff-fax": encoded(grey.convert("1"), "TIFF", compression="group4"),
        "tiff-16": encoded(deep, "TIFF"),
        "tiff-real": encoded(real, "TIFF"),
        "tiff-cmyk": encoded(rgb.convert("CMYK"), "TIFF", compression="packbits"),
        "tiff-pages": encoded(rgb, "TIFF", save_all=True, append_images=frames),
        "bmp": encoded(rgb, "BMP"),
        "bmp-palette": encoded(palette, "BMP"),
        "bmp-rle": _rle_bmp(),
        "avif": encoded(rgb, "AVIF", exif=exif),
        "avif-alpha": encoded(rgba, "AVIF"),
        "jpeg2000": encoded(rgb, "JPEG2000"),
        "jpeg2000-codestream": encoded(rgb, "JPEG2000", no_jp2=True, tile_size=(16, 16)),
        "ppm": encoded(rgb, "PPM"),
        "ppm-words": b"P3\n# a\n4 3\n255\n" + b"1 22 255 " * 12,
        "ppm-bits": b"P1\n6 2\n101010 010101\n",
        "ppm-deep": b"P5\n4 2\n65535\n" + bytes(range(16)),
        "ppm-real": encoded(real, "PPM"),
    }


def _rle_bmp() -> bytes:
    rows = b"".join(bytes([8, n]) + b"\0\0" for n in range(6)) + b"\0\1"
    palette = b"".join(bytes([n, n, n, 0]) for n in range(256))
    header = struct.pack("<IiiHHIIiiII", 40, 8, 6, 1, 8, 1, len(rows), 0, 0, 256, 0)
    return b"BM" + struct.pack("<IHHI", 54 + 1024 + len(rows), 0, 0, 54 + 1024) + header + palette + rows


def mutants(seed: int, count: int) -> Iterator[bytes]:
    """Every seed in turn. Half of the damaged PNGs get their checksums right: else nothing behind them is reached."""
    rng = random.Random(seed)
    found = list(seeds().values())
    for n in range(count):
        data = damaged(rng, found[n % len(found)], rng.choice(found))
        yield with_checksums(data) if data.startswith(_PNG) and rng.random() < 0.5 else data


def with_checksums(data: bytes) -> bytes:
    out, at = bytearray(data[:8]), 8
    while at + 12 <= len(data):
        length = struct.unpack_from(">I", data, at)[0]
        body = data[at + 4 : at + 8 + length]
        if len(body) != 4 + length:
            break
        out += struct.pack(">I", length) + body + struct.pack(">I", zlib.crc32(body))
        at += 12 + length
    return bytes(out + data[at:])


# -- bombs ---------------------------------------------------------------------------------------------------------


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _png(size: tuple[int, int], *before: bytes, bits: int = 8, kind: int = 2, pixels: bytes = b"0") -> bytes:
    header = struct.pack(">IIBBBBB", *size, bits, kind, 0, 0, 0)
    return _PNG + _chunk(b"IHDR", header) + b"".join(before) + _chunk(b"IDAT", pixels) + _chunk(b"IEND", b"")


def _zeros(count: int) -> bytes:
    packer = zlib.compressobj(9)
    return b"".join(packer.compress(bytes(1 << 20)) for _ in range(count >> 20)) + packer.flush()


def _sized(data: bytes, old: bytes, new: bytes) -> bytes:
    assert data.count(old) >= 1, "the header is not where it was"
    return data.replace(old, new, 1)


def _jpeg(size: tuple[int, int], **options: object) -> bytes:
    """Its header says `size`; the pixels of a small image follow, and then the end."""
    data = encoded(Image.new("RGB", (16, 16)), "JPEG", **options)
    return _sized(data, struct.pack(">HH", 16, 16), struct.pack(">HH", size[1], size[0]))


def _scans(count: int) -> bytes:
    """A progressive JPEG that is told to go over all its pixels again and again."""
    size = (2000, 2000)
    data = encoded(Image.new("L", size), "JPEG", progressive=True, optimize=True)
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * count + data[-2:]


# What is too much stands behind the pixels of a small image, and is not decoded.
HARMLESS = {"png, 80 MiB of pixels too many"}


def bombs() -> dict[str, bytes]:
    """Each holds more than a file of its length should: pixels, text, passes over the pixels."""
    rgb = Image.new("RGB", SIZE)
    text = _zeros(80 << 20)
    at = struct.pack
    tiff = encoded(rgb, "TIFF")
    return {
        "png, 324 million pixels": _png((18_000, 18_000)),
        "png, 10^10 pixels": _png((100_000, 100_000)),
        "png, 289 million pixels of one bit": _png((17_000, 17_000), bits=1, kind=0, pixels=_zeros(17_000 * 2126)),
        "png, 80 MiB of zTXt": _png((8, 8), _chunk(b"zTXt", b"a\0\0" + text)),
        "png, 80 MiB of iTXt": _png((8, 8), _chunk(b"iTXt", b"a\0\1\0\0\0" + text)),
        "png, 80 MiB of iCCP": _png((8, 8), _chunk(b"iCCP", b"a\0\0" + text)),
        "png, 80 MiB of pixels too many": _png((8, 8), pixels=text),
        "png, a chunk of 2 GiB": _png((8, 8)) + at(">I", 2**31 - 1) + b"eXIf",
        "jpeg, 17,000 x 17,000 of 16 x 16": _jpeg((17_000, 17_000)),
        "jpeg, progressive, 17,000 x 17,000 of 16 x 16": _jpeg((17_000, 17_000), progressive=True),
        "jpeg, 65,535 x 65,535": _jpeg((65_535, 65_535)),
        "jpeg, 2,000 scans": _scans(2_000),
        "gif, 65,535 x 65,535": _sized(encoded(rgb.quantize(2), "GIF"), at("<HH", *SIZE), at("<HH", 65_535, 65_535)),
        "gif, 17,000 x 17,000": _sized(encoded(rgb.quantize(2), "GIF"), at("<HH", *SIZE), at("<HH", 17_000, 17_000)),
        "bmp, 2^31 x 2^31": _sized(encoded(rgb, "BMP"), at("<ii", *SIZE), at("<ii", 2**31 - 1, 2**31 - 1)),
        "bmp, 17,000 x 17,000": _sized(encoded(rgb, "BMP"), at("<ii", *SIZE), at("<ii", 17_000, 17_000)),
        "tiff, 2^31 wide": _sized(tiff, at("<HHIHH", 256, 4, 1, *SIZE[:1], 0), at("<HHII", 256, 4, 1, 2**31)),
        "webp, canvas of 16,777,216 x 200": _canvas(2**24, 200),
        "webp, canvas of 16,384 x 16,384": _canvas(2**14, 2**14),
        "jpeg2000, 2^31 wide": _sized(encoded(rgb, "JPEG2000"), at(">II", SIZE[1], SIZE[0]), at(">II", 2**31, 2**31)),
        "avif, 60,000 x 60,000": encoded(rgb, "AVIF").replace(at(">II", *SIZE), at(">II", 60_000, 60_000)),
        "ppm, 10^10 pixels": b"P6 100000 100000 255\n" + bytes(99),
        "ppm, a size of 10,000 digits": b"P6 " + b"9" * 10_000 + b" 9 255\n",
    }


def _canvas(width: int, height: int) -> bytes:
    data = bytearray(
        encoded(Image.new("RGB", SIZE), "WEBP", save_all=True, append_images=[Image.new("RGB", SIZE, "red")])
    )
    at = data.index(b"VP8X") + 12
    data[at : at + 6] = struct.pack("<I", width - 1)[:3] + struct.pack("<I", height - 1)[:3]
    return bytes(data)
