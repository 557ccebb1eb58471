"""How one question becomes a conversation: a protocol is a generator that yields what to say and is sent the answers.

A protocol knows nothing of where the model runs: the engine that drives it may hold the weights (and then answers many
protocols at once, every shared prefix read once) or send the conversation to a server.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass, field

from hart_lite.config.prompts import Prompts
from hart_lite.models.families.base import Content, ImageInterface
from hart_lite.types import Box, Example, ImageView


@dataclass(frozen=True)
class Say:
    """One user message. The engine sends back the model's response as text, cut after the first of `stop`.

    `fresh` begins a new conversation (with `system`, or the family's own system words where that is empty); otherwise
    the message continues the last one, in which the model's last response stands as `keep` says (None: as it was).
    `goes_on` says that a next message may continue this one: what was read of it is worth keeping until then.
    """

    content: Content
    kind: str = "answer"  # "locate" | "verify" | "answer" | "tool": names the turn in the predictions
    system: str = ""
    fresh: bool = True
    keep: str | None = None
    max_tokens: int = 512
    stop: tuple[str, ...] = ()
    goes_on: bool = False


@dataclass(frozen=True)
class Outcome:
    """What a conversation came to: the text to grade, the boxes that were looked at (original pixels, unpadded)."""

    text: str
    boxes: tuple[Box, ...] = ()
    crops: tuple[ImageView, ...] = ()  # the views of them that the last turn was shown
    counts: dict[str, int] = field(default_factory=dict)  # e.g. {"rejected_boxes": 1, "tool_errors": 2}


@dataclass(frozen=True)
class Setting:
    """All that a protocol may depend on besides the question. Pixels are budgets (width x height the model sees)."""

    interface: ImageInterface
    prompts: Prompts
    wording: Callable[[Example], str]  # question and choices of a conversation of one turn; a benchmark has its own
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
