"""Pixels are read by threads, ahead of time where it is known what will be asked for."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

import pytest
from PIL import Image

from hart_lite.data.view_loader import ViewLoader
from hart_lite.errors import BrokenImageError, DataError
from hart_lite.types import ImageView

SLOW = 0.05


@dataclass(frozen=True)
class Slow:
    """An image that takes its time, as 12 megapixels do; each is read once at most before `loads` is looked at."""

    key: str
    loads: list = None
    broken: bool = False

    def __hash__(self):
        return hash(self.key)

    def size(self):
        return 28, 28

    def load(self):
        self.loads.append((self.key, threading.current_thread().name))
        time.sleep(SLOW)
        if self.broken:
            raise DataError(f"{self.key} is broken")
        return Image.new("RGB", (28, 28), (int(self.key), 0, 0))


def views(numbers, loads, broken=()) -> list[ImageView]:
    return [ImageView(Slow(str(n), loads, n in broken), (28, 28)) for n in numbers]


def reds(images) -> list[int]:
    return [image.getpixel((0, 0))[0] for image in images]


def test_pixels_come_in_the_order_asked_for():
    loads = []
    assert reds(ViewLoader().load(views([3, 1, 2, 1], loads))) == [3, 1, 2, 1]
    assert all(name.startswith("views") for _, name in loads)


def test_what_was_begun_ahead_is_not_waited_for_and_not_read_again():
    """Eight images, and a step of the card that takes as long as they do: under 5 % of it is waiting."""
    loads, loader = [], ViewLoader()
    asked = views(range(8), loads)
    loader.ahead(asked)
    time.sleep(8 * SLOW)  # the card computes, the host waits for it
    assert reds(loader.load(asked)) == list(range(8))
    assert loader.waited < 0.05 * 8 * SLOW
    assert len(loads) == 8
    loader.load(asked)
    assert len(loads) == 16  # pixels are handed over, not kept
    assert loader.waited > SLOW


def test_what_was_begun_and_not_asked_for_is_let_go():
    loads, loader = [], ViewLoader()
    loader.ahead(views(range(4), loads))
    loader.ahead(views([9], loads))
    assert reds(loader.load(views([0, 9], loads))) == [0, 9]
    assert [key for key, _ in loads].count("9") == 1


def test_a_broken_image_fails_when_it_is_asked_for():
    loads, loader = [], ViewLoader()
    asked = views([1, 2], loads, broken={2})
    loader.ahead(asked)
    time.sleep(2 * SLOW)
    with pytest.raises(BrokenImageError, match="2 is broken"):
        loader.load(asked)
