"""Images of every kind that is decoded, damaged, and bombs: read, or refused with an error that names the image."""

import io
import os
import struct
import zlib
from contextlib import suppress

import numpy as np
import pytest
from bombs import HARMLESS, SIZE, encode, image_bombs
from damage import check_reader, damaged, processor_seconds
from hypothesis import given
from PIL import Image, ImageCms, PngImagePlugin

from hart_lite.data import images
from hart_lite.data.images import ImageBytes, ImageFile, decode
from hart_lite.errors import HartError

pytestmark = pytest.mark.filterwarnings("ignore")  # PIL warns of much that it then raises
BOMBS = image_bombs()


def read_image(data: bytes) -> bool:
    """As the check of a data set and then training read it: the ends, the header, the pixels."""
    source = ImageBytes(data, "image")
    size = source.checked_size()
    image = source.load()
    assert image.mode == "RGB" and image.size == size
    return True


def every_kind() -> dict[str, bytes]:
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
        "png": encode(rgb, "PNG"),
        "png-text": encode(rgb, "PNG", pnginfo=text, exif=exif, icc_profile=profile),
        "png-alpha": encode(rgba, "PNG"),
        "png-grey-alpha": encode(rgba.convert("LA"), "PNG"),
        "png-palette": encode(palette, "PNG", transparency=3),
        "png-16": encode(deep, "PNG"),
        "png-1": encode(grey.convert("1"), "PNG"),
        "png-animated": encode(rgb, "PNG", **many),
        "jpeg": encode(rgb, "JPEG", exif=exif, icc_profile=profile),
        "jpeg-progressive": encode(rgb, "JPEG", progressive=True, quality=95),
        "jpeg-grey": encode(grey, "JPEG"),
        "jpeg-cmyk": encode(rgb.convert("CMYK"), "JPEG"),
        "jpeg-restarts": encode(rgb, "JPEG", restart_marker_blocks=1),
        "webp": encode(rgb, "WEBP", exif=exif, icc_profile=profile),
        "webp-lossless": encode(rgba, "WEBP", lossless=True),
        "webp-alpha": encode(rgba, "WEBP"),
        "webp-animated": encode(rgb, "WEBP", **many),
        "gif": encode(palette, "GIF"),
        "gif-animated": encode(rgb, "GIF", **many),
        "tiff": encode(rgb, "TIFF"),
        "tiff-lzw": encode(rgba, "TIFF", compression="tiff_lzw"),
        "tiff-deflate": encode(rgb, "TIFF", compression="tiff_adobe_deflate", exif=exif),
        "tiff-jpeg": encode(rgb, "TIFF", compression="jpeg"),
        "tiff-fax": encode(grey.convert("1"), "TIFF", compression="group4"),
        "tiff-16": encode(deep, "TIFF"),
        "tiff-real": encode(real, "TIFF"),
        "tiff-cmyk": encode(rgb.convert("CMYK"), "TIFF", compression="packbits"),
        "tiff-pages": encode(rgb, "TIFF", save_all=True, append_images=frames),
        "bmp": encode(rgb, "BMP"),
        "bmp-palette": encode(palette, "BMP"),
        "bmp-rle": _rle_bmp(),
        "avif": encode(rgb, "AVIF", exif=exif),
        "avif-alpha": encode(rgba, "AVIF"),
        "jpeg2000": encode(rgb, "JPEG2000"),
        "jpeg2000-codestream": encode(rgb, "JPEG2000", no_jp2=True, tile_size=(16, 16)),
        "ppm": encode(rgb, "PPM"),
        "ppm-words": b"P3\n# a\n4 3\n255\n" + b"1 22 255 " * 12,
        "ppm-bits": b"P1\n6 2\n101010 010101\n",
        "ppm-deep": b"P5\n4 2\n65535\n" + bytes(range(16)),
        "ppm-real": encode(real, "PPM"),
    }


def _rle_bmp() -> bytes:
    rows = b"".join(bytes([8, n]) + b"\0\0" for n in range(6)) + b"\0\1"
    palette = b"".join(bytes([n, n, n, 0]) for n in range(256))
    header = struct.pack("<IiiHHIIiiII", 40, 8, 6, 1, 8, 1, len(rows), 0, 0, 256, 0)
    return b"BM" + struct.pack("<IHHI", 54 + 1024 + len(rows), 0, 0, 54 + 1024) + header + palette + rows


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


KINDS = every_kind()


@pytest.mark.parametrize("format", sorted({kind.partition("-")[0] for kind in KINDS}))
def test_damaged_images_are_read_or_refused(format):
    check_reader(read_image, *(data for kind, data in KINDS.items() if kind.partition("-")[0] == format))


@given(damaged(*(data for kind, data in KINDS.items() if kind.startswith("png"))))
def test_damage_behind_checksums_that_are_right_is_read_or_refused(data):
    """Else no damage reaches what stands behind a PNG's checksums."""
    with processor_seconds(), suppress(HartError):
        read_image(with_checksums(data))


def test_damage_leaves_some_images_readable():
    """Else the tests above show the refusals alone."""
    outcomes = []

    @given(damaged(*KINDS.values()))
    def note(data):
        try:
            outcomes.append(read_image(data))
        except HartError:
            outcomes.append(False)

    note()
    assert outcomes.count(True) > 5 and outcomes.count(False) > 5


@pytest.mark.parametrize("name", [name for name in BOMBS if name not in HARMLESS])
def test_bombs_are_refused_at_once(name):
    with processor_seconds(1.0), pytest.raises(HartError, match="image: "):
        read_image(BOMBS[name])


def test_a_header_that_lies_is_refused_before_anything_is_decoded(monkeypatch):
    """PIL decodes it without an error: 867 MB of grey from 631 bytes."""
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda self: pytest.fail("decoded"))
    with pytest.raises(HartError, match=r"17000 x 17000 pixels in \d+ bytes: its header is damaged"):
        ImageBytes(BOMBS["jpeg, 17,000 x 17,000 of 16 x 16"], "x").load()


def test_a_large_image_needs_a_byte_for_a_thousand_pixels(monkeypatch):
    monkeypatch.setattr(images, "FREE_PIXELS", 10_000)
    flat = ImageBytes(encode(Image.new("1", (4000, 3000)), "PNG"), "flat")
    assert len(flat.data) * 1000 < 4000 * 3000
    with pytest.raises(HartError, match="Over 10,000 pixels need a byte for 1,000"):
        flat.load()
    noise = np.random.default_rng(0).integers(0, 256, (200, 200), dtype=np.uint8)
    assert ImageBytes(encode(Image.fromarray(noise), "JPEG"), "noise").load().size == (200, 200)
    monkeypatch.setattr(images, "FREE_PIXELS", 4000 * 3000)
    assert flat.load().size == (4000, 3000)


def test_scans_are_counted_up_to_the_end_of_the_picture():
    """A phone appends a film, and what looks like a scan there is none."""
    photo = encode(Image.new("RGB", (64, 48), "red"), "JPEG", progressive=True, exif=b"Exif\0\0" + b"\xff\xda" * 150)
    assert ImageBytes(photo + b"\xff\xda" * 5000, "photo").load().size == (64, 48)


def test_a_chunk_that_claims_gigabytes_takes_none(monkeypatch):
    asked = []

    class Stream(io.BytesIO):
        def read(self, n=-1):
            asked.append(n)
            return super().read(n)

    with suppress(HartError):
        decode(Stream(BOMBS["png, a chunk of 2 GiB"]), "x")
    assert 0 < max(asked) <= 2**16


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.png")
    for read in (ImageFile(tmp_path / "a.png").size, ImageFile(tmp_path / "a.png").load):
        with pytest.raises(HartError, match=r"a\.png: not a file"):
            read()
