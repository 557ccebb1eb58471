"""Damaged images and bombs: a typed error within a second, and what is good is still read. `make trust` tries more."""

import io
import os
import time

import numpy as np
import pytest
from PIL import Image

from hart_lite.data import image_headers, images
from hart_lite.data.images import ImageBytes, ImageFile
from hart_lite.errors import HartError
from tests.reliability import fuzz_images
from tests.reliability.fuzz_watch import LIMIT_S, Target, Watch

pytestmark = pytest.mark.filterwarnings("ignore")  # PIL warns of much that it then raises
BOMBS = fuzz_images.bombs()


def jpeg(image: Image.Image, **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "JPEG", **options)
    return stream.getvalue()


@pytest.mark.parametrize("kind", fuzz_images.seeds())
def test_what_is_damaged_was_good(kind):
    fuzz_images.read_image(fuzz_images.seeds()[kind])


def test_damaged_images_are_read_or_refused(tmp_path):
    watch = Watch(tmp_path)
    target = Target("images", fuzz_images.read_image, ())
    for data in fuzz_images.mutants(seed=1, count=400):
        watch.give(target, data)
    assert not watch.faults
    assert watch.outcomes["read"] > 40 and watch.outcomes["HartError"] > 40, "both ways are gone"


@pytest.mark.parametrize("name", [name for name in BOMBS if name not in fuzz_images.HARMLESS])
def test_bombs_are_refused_at_once(name):
    began = time.process_time()
    with pytest.raises(HartError, match="image: "):
        fuzz_images.read_image(BOMBS[name])
    assert time.process_time() - began < LIMIT_S


def test_a_header_that_lies_is_refused_before_anything_is_decoded(monkeypatch):
    """PIL decodes it without an error: 867 MB of grey from 631 bytes."""
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda self: pytest.fail("decoded"))
    with pytest.raises(HartError, match=r"17000 x 17000 pixels in \d+ bytes: its header is damaged"):
        ImageBytes(BOMBS["jpeg, 17,000 x 17,000 of 16 x 16"], "x").load()


def test_a_large_image_needs_a_byte_for_a_thousand_pixels(monkeypatch):
    monkeypatch.setattr(images, "FREE_PIXELS", 10_000)
    flat = ImageBytes(fuzz_images.encoded(Image.new("1", (4000, 3000)), "PNG"), "flat")
    assert len(flat.data) * 1000 < 4000 * 3000
    with pytest.raises(HartError, match="Over 10,000 pixels need a byte for 1,000"):
        flat.load()
    noise = np.random.default_rng(0).integers(0, 256, (200, 200), dtype=np.uint8)
    assert ImageBytes(jpeg(Image.fromarray(noise)), "noise").load().size == (200, 200)
    monkeypatch.setattr(images, "FREE_PIXELS", 4000 * 3000)
    assert flat.load().size == (4000, 3000)


def test_scans_are_counted_up_to_the_end_of_the_picture():
    """A phone appends a film, and what looks like a scan there is none."""
    photo = jpeg(Image.new("RGB", (64, 48), "red"), progressive=True, exif=b"Exif\0\0" + b"\xff\xda" * 150)
    assert ImageBytes(photo + b"\xff\xda" * 5000, "photo").load().size == (64, 48)


def test_a_chunk_that_claims_gigabytes_takes_none(monkeypatch):
    asked = []

    class Stream(io.BytesIO):
        def read(self, n=-1):
            asked.append(n)
            return super().read(n)

    stream = Stream(BOMBS["png, a chunk of 2 GiB"])
    assert image_headers._png_exif(stream) == b"" and max(asked) < 1000


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.png")
    for read in (ImageFile(tmp_path / "a.png").size, ImageFile(tmp_path / "a.png").load):
        with pytest.raises(HartError, match=r"a\.png: not a file"):
            read()
