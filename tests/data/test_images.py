"""Decoding, sizes and crops, on rulers: images whose pixel values are their own coordinates."""

import io
import os
import struct
import zlib

import numpy as np
import PIL
import pytest
from PIL import Image

from hart_lite.boxes import rescale
from hart_lite.data import images
from hart_lite.data.images import ImageBytes, ImageFile
from hart_lite.errors import HartError
from hart_lite.types import Box, ImageView


def ruler(width: int, height: int) -> np.ndarray:
    """(H, W, 3): 24 bits that hold x and y, each modulo 4096."""
    y, x = np.mgrid[0:height, 0:width] % 4096
    return np.stack([x % 256, y % 256, x // 256 + 16 * (y // 256)], axis=-1).astype(np.uint8)


def read_ruler(image: Image.Image, pixel: tuple[int, int]) -> tuple[int, int]:
    low_x, low_y, high = image.getpixel(pixel)
    return low_x + 256 * (high % 16), low_y + 256 * (high // 16)


# Where the upright picture's rows and columns lie in the file, from the EXIF specification: orientation -> stored.
STORED = {
    1: lambda u: u,
    2: lambda u: u[:, ::-1],
    3: lambda u: u[::-1, ::-1],
    4: lambda u: u[::-1],
    5: lambda u: u.transpose(1, 0, 2),
    6: lambda u: u.transpose(1, 0, 2)[::-1],
    7: lambda u: u.transpose(1, 0, 2)[::-1, ::-1],
    8: lambda u: u.transpose(1, 0, 2)[:, ::-1],
}


def encode(image: Image.Image, format: str, orientation: int = 1, **options) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    stream = io.BytesIO()
    image.save(stream, format, exif=exif, **options) if orientation > 1 else image.save(stream, format, **options)
    return stream.getvalue()


def cut(source, small: tuple[int, int], box: tuple[int, int, int, int]) -> Image.Image:
    """The crop for a box drawn in a frame of size `small`, at its own resolution."""
    size = source.size()
    original = rescale(Box(*box), small, size)
    left, top, right, bottom = original.whole_pixels(size)
    return ImageView(source, (right - left, bottom - top), original).load()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("size", "small", "box"),
    [
        ((700, 1240), (112, 196), (13, 29, 57, 101)),  # portrait
        ((1240, 700), (196, 112), (29, 13, 101, 57)),  # landscape
        ((1000, 1000), (336, 336), (0, 0, 336, 336)),  # everything
        ((7680, 4320), (1204, 672), (1101, 601, 1204, 672)),  # 8K, into the corner
        ((50, 40), (100, 80), (33, 21, 34, 22)),  # enlarged: a box of half an original pixel
    ],
)
def test_ruler_cut_by_a_box_of_the_small_frame(tmp_path, size, small, box):
    (width, height), (w, h) = size, small
    Image.fromarray(ruler(width, height)).save(tmp_path / "ruler.bmp")
    crop = cut(ImageFile(tmp_path / "ruler.bmp"), small, box)
    x1, y1, x2, y2 = box
    left, top = x1 * width // w, y1 * height // h
    right, bottom = -(-x2 * width // w), -(-y2 * height // h)
    assert crop.size == (right - left, bottom - top)
    assert read_ruler(crop, (0, 0)) == (left % 4096, top % 4096)
    last = (crop.width - 1, crop.height - 1)
    assert read_ruler(crop, last) == ((right - 1) % 4096, (bottom - 1) % 4096)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["PNG", "TIFF", "JPEG"])
def test_ruler_in_a_rotated_file(tmp_path, format, orientation):
    width, height, small, box = 240, 152, (60, 38), (11, 5, 31, 20)
    y, x = np.mgrid[0:height, 0:width]
    upright = np.stack([x, y, np.full_like(x, 99)], axis=-1).astype(np.uint8)  # smooth, so that JPEG keeps it
    options = {"quality": 100, "subsampling": 0} if format == "JPEG" else {}
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](upright)))
    (tmp_path / "ruler").write_bytes(encode(stored, format, orientation, **options))
    source = ImageFile(tmp_path / "ruler")
    assert source.size() == (width, height)
    crop = np.asarray(cut(source, small, box), dtype=float)
    error = crop - upright[20:80, 44:124]
    assert abs(error).max() <= (3 if format == "JPEG" else 0)
    assert abs(error.mean(axis=(0, 1))).max() < 0.5  # a shift by one pixel would be 1


def test_png_orientation_behind_the_pixels():
    data = encode(Image.fromarray(ruler(30, 20)), "PNG", 6)
    start = data.index(b"eXIf") - 4
    stop = start + 12 + struct.unpack(">I", data[start : start + 4])[0]
    moved = data[:start] + data[stop:-12] + data[start:stop] + data[-12:]  # IEND takes 12 bytes
    source = ImageBytes(moved, "late.png")
    assert source.size() == (20, 30)
    assert source.load().size == (20, 30)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_damaged_exif_counts_as_none():
    image = Image.fromarray(ruler(30, 20))
    stream = io.BytesIO()
    image.save(stream, "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff junk")
    assert ImageBytes(stream.getvalue(), "x").load().size == (30, 20)


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF"])
def test_size_does_not_decode(monkeypatch, format):
    source = ImageBytes(encode(Image.new("RGB", (31, 17)), format), "x")
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda self: pytest.fail("decoded"))
    assert source.size() == (31, 17)


def _array(values, dtype):
    return Image.fromarray(np.array([values], dtype=dtype))


def _palette(transparent: bool) -> tuple[Image.Image, dict]:
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putpixel((1, 0), 1)
    return image, {"transparency": 1} if transparent else {}


MODES = {
    "RGB": (Image.new("RGB", (2, 1), (9, 8, 7)), "PNG", {}, [(9, 8, 7), (9, 8, 7)]),
    "1": (Image.new("1", (2, 1), 1), "PNG", {}, [(255,) * 3] * 2),
    "L": (_array([0, 200], np.uint8), "PNG", {}, [(0,) * 3, (200,) * 3]),
    "L with a transparent grey": (_array([0, 200], np.uint8), "PNG", {"transparency": 0}, [(255,) * 3, (200,) * 3]),
    "RGB with a transparent colour": (
        Image.new("RGB", (2, 1), (9, 8, 7)), "PNG", {"transparency": (9, 8, 7)}, [(255,) * 3] * 2),
    "P": (*_palette(False)[:1], "PNG", {}, [(255, 0, 0), (0, 0, 255)]),
    "P with transparency": (_palette(True)[0], "PNG", _palette(True)[1], [(255, 0, 0), (255, 255, 255)]),
    "LA": (Image.new("LA", (2, 1), (0, 51)), "PNG", {}, [(204,) * 3] * 2),
    "RGBA": (Image.new("RGBA", (2, 1), (255, 0, 0, 51)), "PNG", {}, [(255, 204, 204)] * 2),
    "CMYK": (Image.new("CMYK", (2, 1), (255, 0, 0, 0)), "TIFF", {}, [(0, 255, 255)] * 2),
    "CMYK JPEG": (Image.new("CMYK", (16, 16), (0, 0, 0, 255)), "JPEG", {}, [(0, 0, 0)] * 2),
    "YCbCr": (Image.new("YCbCr", (2, 1), (100, 128, 128)), "TIFF", {}, [(100,) * 3] * 2),
    "LAB": (Image.new("LAB", (2, 1), (255, 128, 128)), "TIFF", {}, [(255,) * 3] * 2),
    "I;16": (_array([257, 65535], np.uint16), "PNG", {}, [(1,) * 3, (255,) * 3]),
    "I up to 255": (_array([3, 255], np.int32), "TIFF", {}, [(3,) * 3, (255,) * 3]),
    "I up to 65535": (_array([257, 65535], np.int32), "TIFF", {}, [(1,) * 3, (255,) * 3]),
    "I negative": (_array([-1000, 1000], np.int32), "TIFF", {}, [(0,) * 3, (255,) * 3]),
    "F up to 1": (_array([0.2, 1.0], np.float32), "TIFF", {}, [(51,) * 3, (255,) * 3]),
    "F up to 255": (_array([51.0, 200.0], np.float32), "TIFF", {}, [(51,) * 3, (200,) * 3]),
    "F with NaN": (_array([np.nan, 0.4], np.float32), "TIFF", {}, [(0,) * 3, (102,) * 3]),
}  # fmt: skip


@pytest.mark.parametrize("name", MODES)
def test_every_mode_becomes_rgb(name):
    if name == "YCbCr" and PIL.__version__ < "13":
        pytest.skip("Pillow before 13 cannot read the YCbCr TIFF it writes")
    image, format, options, expected = MODES[name]
    loaded = ImageBytes(encode(image, format, **options), name).load()
    assert loaded.mode == "RGB"
    pixels = [loaded.getpixel((0, 0)), loaded.getpixel((1, 0))]
    assert np.abs(np.array(pixels) - np.array(expected)).max() <= 2, pixels


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF", "GIF"])
def test_truncated_image_names_the_file(tmp_path, format):
    noise = np.random.default_rng(0).integers(0, 255, (200, 200, 3), dtype=np.uint8)
    data = encode(Image.fromarray(noise), format)
    path = tmp_path / "cut.img"
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(HartError, match=r"cut\.img: (damaged|not an) image"):
        ImageFile(path).load()


def test_what_is_no_image_names_the_file(tmp_path):
    (tmp_path / "notes.jpg").write_text("not a picture")
    (tmp_path / "empty.jpg").touch()
    for name, message in [("notes.jpg", "not an image"), ("empty.jpg", "not an image"), ("gone.jpg", "no such image")]:
        for read in (ImageFile(tmp_path / name).load, ImageFile(tmp_path / name).size):
            with pytest.raises(HartError, match=f"{name}: {message}"):
                read()
    with pytest.raises(HartError, match="not a file, but a folder"):
        ImageFile(tmp_path).size()


def test_postscript_is_never_run():
    with pytest.raises(HartError, match="not an image"):
        ImageBytes(encode(Image.new("RGB", (9, 9)), "EPS"), "drawing.eps").load()


def bomb(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"0")) + chunk(b"IEND", b"")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [18_000, 100_000])  # 324 million pixels: over our limit; 10^10: PIL itself refuses
def test_bomb_is_refused_before_decoding(monkeypatch, side):
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda self: pytest.fail("decoded"))
    source = ImageBytes(bomb(side, side), "bomb.png")
    for read in (source.load, source.size):
        with pytest.raises(HartError, match=r"bomb\.png: .*at most 300,000,000") as caught:
            read()
        assert str(side) in str(caught.value) or str(side * side) in str(caught.value)


def test_identity(tmp_path):
    data = encode(Image.new("RGB", (4, 4)), "PNG")
    (tmp_path / "a.png").write_bytes(data)
    os.symlink(tmp_path / "a.png", tmp_path / "b.png")
    assert ImageFile(tmp_path / "a.png").key == ImageFile(tmp_path / ".." / tmp_path.name / "b.png").key
    assert ImageBytes(data, "one").key == ImageBytes(data, "two").key != ImageBytes(data + b"0", "one").key


def test_decoded_images_are_kept_within_bounds_and_never_stale(tmp_path, monkeypatch):
    cache = images._DecodedImages(limit=2 * 100 * 100 * 4)
    monkeypatch.setattr(images, "DECODED", cache)
    for i in range(4):
        Image.new("RGB", (100, 100), (i, 0, 0)).save(tmp_path / f"{i}.png")
    files = [ImageFile(tmp_path / f"{i}.png") for i in range(4)]
    first = files[0].load()
    assert files[0].load() is first
    for file in files:
        assert file.load().getpixel((0, 0)) == (files.index(file), 0, 0)
        assert cache.used <= cache.limit
    assert files[0].load() is not first  # pushed out by the others
    Image.new("RGB", (90, 90), (77, 0, 0)).save(tmp_path / "3.png")
    assert files[3].load().getpixel((0, 0)) == (77, 0, 0)
    Image.new("RGB", (200, 200)).save(tmp_path / "large.png")
    ImageFile(tmp_path / "large.png").load()
    assert cache.used <= cache.limit


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        (Box(1.2, 2.9, 3.1, 4.0), (1, 2, 4, 4)),
        (Box(3.0000000004, 0, 6.9999999996, 9), (3, 0, 7, 9)),
        (Box(2.9999999996, 0, 7.0000000004, 9), (3, 0, 7, 9)),
        (Box(5.4, 5.4, 5.5, 5.5), (5, 5, 6, 6)),
        (Box(-4, -4, 99, 99), (0, 0, 10, 20)),
        (Box(30, 40, 50, 60), (9, 19, 10, 20)),
    ],
)
def test_crop_pixels(box, expected):
    assert box.whole_pixels((10, 20)) == expected


def test_view_is_bicubic_of_the_crop_alone():
    pixels = np.random.default_rng(0).integers(0, 255, (60, 80, 3), dtype=np.uint8)
    box, size = Box(10, 20, 50, 60), (28, 28)

    def view(array: np.ndarray) -> np.ndarray:
        return np.asarray(ImageView(ImageBytes(encode(Image.fromarray(array), "PNG"), "x"), size, box).load())

    expected = Image.fromarray(pixels[20:60, 10:50]).resize(size, Image.Resampling.BICUBIC)
    assert np.array_equal(view(pixels), np.asarray(expected))
    outside = 255 - pixels
    outside[20:60, 10:50] = pixels[20:60, 10:50]
    assert np.array_equal(view(outside), view(pixels))


def test_whole_view_is_bicubic():
    image = Image.fromarray(ruler(500, 300))
    view = ImageView(ImageBytes(encode(image, "PNG"), "x"), (84, 56)).load()
    assert np.array_equal(np.asarray(view), np.asarray(image.resize((84, 56), Image.Resampling.BICUBIC)))


def test_a_photo_of_an_iphone_is_told_apart_from_what_is_no_image():
    """The brand of the container says so; AVIF, which can be read, has the same kind of container."""
    for brand in (b"heic", b"heix", b"mif1"):
        with pytest.raises(HartError, match="x: HEIC, as iPhones save photos, cannot be read"):
            ImageBytes(b"\0\0\0\x18ftyp" + brand + bytes(60), "x").load()
    with pytest.raises(HartError, match="x: not an image"):
        ImageBytes(b"\0\0\0\x18ftypmp42" + bytes(60), "x").load()
    avif = Image.new("RGB", (20, 10), "red")
    assert ImageBytes(encode(avif, "AVIF"), "x").load().size == (20, 10)
