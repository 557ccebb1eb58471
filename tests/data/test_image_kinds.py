"""What an unreadable image is, and HEIC where its library is installed."""

import io
import sys
import types

import numpy as np
import pytest
from PIL import Image

from hart_lite.data import images
from hart_lite.data.image_kinds import is_heic, is_image, what_bytes_are
from hart_lite.data.images import FORMATS, ImageBytes, ImageFile
from hart_lite.errors import HartError

KINDS = {
    b"": r"an empty file \(0 bytes\)",
    bytes(4096): "a file of zeros",
    b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n": "a Git LFS pointer.*git lfs pull",
    b"\n<!DOCTYPE html><html>": "an HTML page: the download failed",
    b"<HTML><body>404": "an HTML page: the download failed",
    b'{"error": "not found"}': "JSON, an answer of a server",
    b"<?xml version='1.0'?><Error/>": "XML",
    b"<svg xmlns='x'/>": "an SVG drawing: save it as PNG",
    b"%PDF-1.7": "a PDF",
    b"PK\x03\x04....": "a ZIP archive",
    b"\0\0\0\x18ftypmp42....": "a video",
    b"data:image/png;base64,iVBORw0K": "a data URI",
}


@pytest.mark.parametrize("data", KINDS)
def test_what_is_no_image_is_named(tmp_path, data):
    (tmp_path / "a.jpg").write_bytes(data)
    for source in (ImageFile(tmp_path / "a.jpg"), ImageBytes(data, "a.jpg")):
        for read in (source.load, source.size, source.checked_size):
            with pytest.raises(HartError, match=rf"a\.jpg: not an image, but {KINDS[data]}"):
                read()


def test_what_shows_nothing_is_no_image():
    assert what_bytes_are(b"some words") == ""
    with pytest.raises(HartError, match=r"x: not an image \(readable are JPEG"):
        ImageBytes(b"some words", "x").load()


@pytest.mark.parametrize("format", FORMATS)
def test_images_are_known_by_their_first_bytes(format):
    file = io.BytesIO()
    Image.new("RGB", (9, 9)).save(file, format)
    data = file.getvalue()
    assert is_image(data) or format == "PPM"
    assert ImageBytes(data, "x").size() == (9, 9)


HEIC = b"\0\0\0\x18ftypheic" + bytes(99)


def test_without_its_library_heic_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    images.heic_formats.cache_clear()
    with pytest.raises(HartError, match=r"x: HEIC, as iPhones save photos, cannot be read\. .*pip install pillow-heif"):
        ImageBytes(HEIC, "x").load()
    images.heic_formats.cache_clear()


def test_with_its_library_heic_alone_is_given_to_it(monkeypatch):
    """A stand-in for the library: what it registers is asked for HEIC, and never for other files."""
    opened = []

    class Plugin(Image.Image):
        pass

    def factory(stream, name):
        opened.append(stream.read(12))
        return Image.new("RGB", (8, 4), "blue")

    library = types.ModuleType("pillow_heif")
    library.register_heif_opener = lambda: Image.register_open("HEIF", factory, is_heic)
    monkeypatch.setitem(sys.modules, "pillow_heif", library)
    monkeypatch.setattr(Image, "OPEN", dict(Image.OPEN))
    monkeypatch.setattr(Image, "ID", list(Image.ID))
    images.heic_formats.cache_clear()
    try:
        assert ImageBytes(HEIC, "x").load().getpixel((0, 0)) == (0, 0, 255)
        with pytest.raises(HartError, match="not an image"):
            ImageBytes(b"some words", "x").load()
    finally:
        images.heic_formats.cache_clear()
    assert opened == [HEIC[:12]]


def test_a_photo_in_heic_is_read_as_its_jpeg_is(tmp_path):
    """The left half red, turned by EXIF so that red is on top."""
    library = pytest.importorskip("pillow_heif")
    library.register_heif_opener()
    images.heic_formats.cache_clear()
    pixels = np.zeros((64, 96, 3), dtype=np.uint8)
    pixels[:, :48, 0] = 255
    exif = Image.Exif()
    exif[0x0112] = 6
    sizes, tops = [], []
    for name, format in (("a.jpg", "JPEG"), ("a.heic", "HEIF")):
        Image.fromarray(pixels).save(tmp_path / name, format, exif=exif.tobytes(), quality=95)
        source = ImageFile(tmp_path / name)
        sizes.append((source.size(), source.checked_size(), source.load().size))
        tops.append([source.load().getpixel((30, y))[0] > 200 for y in (10, 80)])
    assert sizes[0] == sizes[1] == ((64, 96),) * 3
    assert tops[0] == tops[1] == [True, False]


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_grey_of_fewer_bits_than_its_file_runs_from_black_to_white(tmp_path, bits, format):
    ramp = np.linspace(0, 2**bits - 1, 256).astype(np.uint16)
    Image.fromarray(np.tile(ramp, (4, 1))).save(tmp_path / "ramp", format)
    shown = np.asarray(ImageFile(tmp_path / "ramp").load())[0, :, 0].astype(int)
    assert shown[0] == 0 and shown[-1] == 255
    assert abs(shown - np.arange(256)).max() <= 1
