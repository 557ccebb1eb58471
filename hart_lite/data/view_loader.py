"""Views are decoded, cut and resized by threads: PIL lets go of the interpreter meanwhile, and a card computes."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from PIL import Image

from hart_lite.types import ImageView

THREADS = 8  # more than the images of a step do not help; fewer where a machine has fewer


class ViewLoader:
    """`waited` counts the seconds that a caller was kept waiting."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(min(THREADS, os.cpu_count() or 1), "views")
        self._ahead: dict[ImageView, Future[Image.Image]] = {}
        self.waited = 0.0

    def ahead(self, views: Sequence[ImageView]) -> None:
        """Begin to load what will be asked for soon; whatever was begun before and not asked for is let go."""
        for view in self._ahead.keys() - set(views):
            self._ahead.pop(view).cancel()
        for view in views:
            if view not in self._ahead:
                self._ahead[view] = self._threads.submit(view.load)

    def load(self, views: Sequence[ImageView]) -> list[Image.Image]:
        """Their pixels, in order. Raises `BrokenImageError` for an image that can no longer be read."""
        began = time.perf_counter()
        futures = [self._ahead.pop(view, None) or self._threads.submit(view.load) for view in views]
        try:
            return [future.result() for future in futures]
        finally:
            self.waited += time.perf_counter() - began
