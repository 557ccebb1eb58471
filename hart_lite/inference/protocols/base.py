"""How one question becomes a conversation: a protocol is a generator that yields what to say and is sent the answers.

A protocol knows nothing of where the model runs: the engine that drives it may hold the weights (and then answers many
protocols at once, every shared prefix read once) or send the conversation to a server.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Protocol as Interface

from hart_lite.models.families.base import Content
from hart_lite.types import Box, Example


class Frame(Interface):
    """What a protocol must know of a model: how large it sees an image, how it writes boxes. Every `Family` is one."""

    name: str
    locate_words: str
    several_words: str

    def fit(self, size: tuple[int, int], most: int, least: int) -> tuple[int, int]: ...

    def boxes_from_text(
        self, text: str, seen: list[tuple[int, int]], original: list[tuple[int, int]]
    ) -> list[tuple[float, float, float, float, int]]: ...


@dataclass(frozen=True)
class Say:
    """One user message. The engine sends back the model's response as text, cut after the first of `stop`.

    `fresh` begins a new conversation (with `system`, or the family's own system words where that is empty); otherwise
    the message continues the last one, in which the model's last response stands as `keep` says (None: as it was).
    """

    content: Content
    kind: str = "answer"  # "locate" | "verify" | "answer" | "tool": names the turn in the predictions
    system: str = ""
    fresh: bool = True
    keep: str | None = None
    max_tokens: int = 512
    stop: tuple[str, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """What a conversation came to: the text to grade, the boxes that were looked at (original pixels, unpadded)."""

    text: str
    boxes: tuple[Box, ...] = ()
    counts: dict[str, int] = field(default_factory=dict)  # e.g. {"rejected_boxes": 1, "tool_errors": 2}


@dataclass(frozen=True)
class Setting:
    """All that a protocol may depend on besides the question. Pixels are budgets (width x height the model sees)."""

    frame: Frame
    question: str  # the benchmark's own words for one turn at a glance
    full_pixels: int
    crop_pixels: int
    min_pixels: int
    crop_pad: float
    max_boxes: int
    max_box_share: float
    max_tokens_locate: int
    max_tokens_answer: int
    as_published: bool = False  # reproduce a peer's known faults


ProtocolRun = Generator[Say, str, Outcome]
Protocol = Callable[[Example, Setting], ProtocolRun]
