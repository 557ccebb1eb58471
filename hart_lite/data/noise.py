"""An image of nothing, to show in place of one."""

from __future__ import annotations

import random
from dataclasses import dataclass

from PIL import Image


@dataclass(frozen=True)
class Noise:
    """Every pixel is drawn from `seed` alone: the same on every machine."""

    seed: str
    width: int
    height: int

    @property
    def key(self) -> str:
        return f"noise {self.seed} {self.width} x {self.height}"

    def size(self) -> tuple[int, int]:
        return self.width, self.height

    def load(self) -> Image.Image:
        pixels = random.Random(self.seed).randbytes(3 * self.width * self.height)
        return Image.frombytes("RGB", self.size(), pixels)
