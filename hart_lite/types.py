"""The nouns of the project: frozen values that every room passes on and none changes.

Frames: a `Box` is in ORIGINAL pixels (after EXIF orientation), xyxy, unless a function inside a family says
otherwise. An `ImageView` names what the model is shown: a source, the part of it, and the size it is shown at.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True)
class Box:
    """A rectangle in original pixels, `x1 < x2`, `y1 < y2`; `image` is the index of the image it lies on."""

    x1: float
    y1: float
    x2: float
    y2: float
    image: int = 0

    @property
    def width(self) -> float:
        return self.x2 - self.x1

    @property
    def height(self) -> float:
        return self.y2 - self.y1

    @property
    def area(self) -> float:
        return max(self.width, 0.0) * max(self.height, 0.0)

    @property
    def xyxy(self) -> tuple[float, float, float, float]:
        return (self.x1, self.y1, self.x2, self.y2)


class ImageSource(Protocol):
    """Where pixels come from. `key` is the image's identity: splits and caches go by it."""

    @property
    def key(self) -> str: ...

    def load(self) -> Image.Image:
        """Decoded RGB image, EXIF orientation applied. Raises `HartError` naming the file."""
        ...

    def size(self) -> tuple[int, int]:
        """(width, height) in original pixels after EXIF orientation, cheaply (no full decode)."""
        ...


@dataclass(frozen=True)
class Example:
    """One question about one or more images. `boxes` serve evaluation only and never reach training."""

    id: str
    images: tuple[ImageSource, ...]
    question: str
    answer: str
    choices: tuple[str, ...] = ()
    boxes: tuple[Box, ...] = ()
    category: str = ""
    wording: str = ""  # a benchmark's own text of question and choices, where it cannot be made from the two


@dataclass(frozen=True)
class ImageView:
    """What the model sees of an image: the whole (`box` None) or a crop cut from the original, shown at `size`."""

    source: ImageSource
    size: tuple[int, int]  # (width, height) in the pixels the model sees
    box: Box | None = None


@dataclass(frozen=True)
class Slot:
    """`length` image tokens from position `start` of a sequence, filled with the features of `view`."""

    start: int
    length: int
    view: ImageView


@dataclass(frozen=True)
class Tokens:
    """One sequence as the model reads it. `sampled` holds (start, stop) spans that the policy itself produced.

    Sampled ids are kept as they were drawn and never tokenised again.
    """

    ids: tuple[int, ...] = ()
    slots: tuple[Slot, ...] = ()
    sampled: tuple[tuple[int, int], ...] = ()

    def __len__(self) -> int:
        return len(self.ids)

    def __add__(self, other: Tokens) -> Tokens:
        n = len(self.ids)
        return Tokens(
            self.ids + other.ids,
            self.slots + tuple(Slot(s.start + n, s.length, s.view) for s in other.slots),
            self.sampled + tuple((a + n, b + n) for a, b in other.sampled),
        )

    @classmethod
    def response(cls, ids: tuple[int, ...]) -> Tokens:
        """Ids drawn by the policy."""
        return cls(tuple(ids), (), ((0, len(ids)),) if ids else ())


@dataclass(frozen=True)
class Turn:
    """One call of the model: the prompt it was given and the response it sampled."""

    kind: str  # "locate" | "verify" | "answer"
    prompt: Tokens
    response: tuple[int, ...]
    text: str

    @property
    def tokens(self) -> Tokens:
        return self.prompt + Tokens.response(self.response)


@dataclass(frozen=True)
class Trajectory:
    """One pass through a loop: its turns, the boxes it chose (original pixels, unpadded) and what it earned."""

    turns: tuple[Turn, ...]
    boxes: tuple[Box, ...] = ()
    answer: str = ""
    reward: float = 0.0
    rejected: int = 0  # boxes the text named that were refused
    # Sequences to train on. A turn that continues the one before it is part of that turn's sequence.
    sequences: tuple[Tokens, ...] = field(default=(), repr=False)


@dataclass(frozen=True)
class Group:
    """G trajectories of one question."""

    example: Example
    trajectories: tuple[Trajectory, ...]

    @property
    def rewards(self) -> list[float]:
        return [t.reward for t in self.trajectories]

    @property
    def flat(self) -> bool:
        return len(set(self.rewards)) <= 1
