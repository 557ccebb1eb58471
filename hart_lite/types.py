"""The nouns of the project: frozen values that every room passes on and none changes.

Frames: a `Box` is in ORIGINAL pixels (after EXIF orientation), xyxy, unless a function inside a family says
otherwise. An `ImageView` names what the model is shown: a source, the part of it, and the size it is shown at.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from hart_lite.errors import BrokenImageError, HartError

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

    def to_list(self) -> list[float]:
        """[x1, y1, x2, y2, image], as files have it."""
        return [*self.xyxy, self.image]

    @classmethod
    def from_list(cls, values: Sequence[float]) -> Box:
        return cls(*values[:4], image=int(values[4]))

    def whole_pixels(self, size: tuple[int, int]) -> tuple[int, int, int, int]:
        """Whole pixels (left, top, right, bottom) that the box touches in an image of `size`; at least one pixel."""
        width, height = size
        noise = 1e-6  # 3.0000000004 left by mapping between frames does not touch a fourth pixel
        left = min(max(math.floor(self.x1 + noise), 0), width - 1)
        top = min(max(math.floor(self.y1 + noise), 0), height - 1)
        right = max(min(math.ceil(self.x2 - noise), width), left + 1)
        bottom = max(min(math.ceil(self.y2 - noise), height), top + 1)
        return left, top, right, bottom


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

    def load(self) -> Image.Image:
        """The pixels the model sees, RGB at `size`: plain bicubic of the whole image or of the crop from the original.

        The crop is cut first, since `resize(box=...)` would let pixels from outside the box into its edges. Raises
        `BrokenImageError` for an image that can no longer be read.
        """
        from PIL import Image  # here, so that what only names images starts at once

        image = load_checked(self.source)
        if self.box is not None:
            image = image.crop(self.box.whole_pixels(image.size))
        return image.resize(self.size, Image.Resampling.BICUBIC)


def load_checked(source: ImageSource) -> Image.Image:
    """The decoded image of a source that was fine when its data set was read. Raises `BrokenImageError` where it no
    longer is."""
    try:
        return source.load()
    except HartError as error:
        raise BrokenImageError(source.key, str(error)) from error


@dataclass(frozen=True)
class Slot:
    """`length` image tokens from position `start` of a sequence, filled with the features of `view`."""

    start: int
    length: int
    view: ImageView


@dataclass(frozen=True)
class Span:
    """Ids `start` to `stop` of a sequence, drawn by the policy in a turn of this kind. `logps` has the log-prob that
    each was drawn with, or nothing where it is not known."""

    start: int
    stop: int
    kind: str = ""
    logps: tuple[float, ...] = ()

    def __len__(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True)
class Tokens:
    """One sequence as the model reads it. `sampled` holds the spans that the policy itself produced.

    Sampled ids are kept as they were drawn and never tokenised again.
    """

    ids: tuple[int, ...] = ()
    slots: tuple[Slot, ...] = ()
    sampled: tuple[Span, ...] = ()

    def __len__(self) -> int:
        return len(self.ids)

    def __add__(self, other: Tokens) -> Tokens:
        n = len(self.ids)
        return Tokens(
            self.ids + other.ids,
            self.slots + tuple(Slot(s.start + n, s.length, s.view) for s in other.slots),
            self.sampled + tuple(Span(s.start + n, s.stop + n, s.kind, s.logps) for s in other.sampled),
        )

    @classmethod
    def response(cls, ids: Sequence[int], kind: str = "", logps: Sequence[float] = ()) -> Tokens:
        """Ids drawn by the policy in a turn of this kind, with their log-probs where they are known."""
        return cls(tuple(ids), (), (Span(0, len(ids), kind, tuple(logps)),) if ids else ())


@dataclass(frozen=True)
class Turn:
    """One call of a model: the prompt it was given, all that was in sight, and its response.

    A model behind a server may tell no ids: prompt and response are then empty, and the counts are what the server says
    of them, None where it says nothing. A turn that is not `fresh` continues the conversation of the turn before it.
    """

    kind: str  # "locate" | "verify" | "answer" | "tool"
    prompt: Tokens
    response: tuple[int, ...]
    text: str
    prompt_tokens: int | None = None
    response_tokens: int | None = None
    images: int = 0
    fresh: bool = True
    logps: tuple[float, ...] = ()  # that the response was drawn with, where they are known

    @property
    def tokens(self) -> Tokens:
        return self.prompt + Tokens.response(self.response, self.kind, self.logps)


@dataclass(frozen=True)
class Trajectory:
    """One pass through a loop: its turns, the boxes it chose (original pixels, unpadded) and what it earned.

    `crops` are the views that the last turn was shown of the boxes: `crop.load()` gives an image.
    """

    turns: tuple[Turn, ...]
    boxes: tuple[Box, ...] = ()
    answer: str = ""
    reward: float = 0.0
    rejected: int = 0  # boxes the text named that were refused
    crops: tuple[ImageView, ...] = ()
    # What the reward was made of, where it is more than the grade of an answer, by the name of its metric.
    terms: dict[str, float] = field(default_factory=dict)
    # Sequences to train on. A turn that continues the one before it is part of that turn's sequence.
    sequences: tuple[Tokens, ...] = field(default=(), repr=False)

    @property
    def answered(self) -> bool:
        """False where a trajectory ended before it was asked for the answer, for want of a usable box."""
        return bool(self.turns) and self.turns[-1].kind != "locate"


@dataclass(frozen=True)
class Group:
    """G trajectories of one question. Rewards that differ by less than `flat_below` are taken for equal: the spread of
    a group is divided by, so that a tiny one would make much of noise."""

    example: Example
    trajectories: tuple[Trajectory, ...]
    flat_below: float = 0.0

    @property
    def rewards(self) -> list[float]:
        return [t.reward for t in self.trajectories]

    @property
    def flat(self) -> bool:
        spread = max(self.rewards) - min(self.rewards)
        return spread == 0 or spread < self.flat_below
