"""What an engine is: it answers protocols and says how each conversation went."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol as Interface

from hart_lite.inference.protocols.base import Outcome, ProtocolRun
from hart_lite.models.families.base import ImageInterface
from hart_lite.types import Turn


@dataclass(frozen=True)
class Decoding:
    """How responses are drawn; `temperature` 0 is greedy.

    What the n-th of several conversations draws follows from `seed`, the number of the turn and `first + n` alone, not
    from what is answered along with it.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    first: int = 0

    def turn_seed(self, turn: int) -> int:
        """Two turns of a conversation draw independently."""
        return 2 * self.seed + turn


GREEDY = Decoding()


@dataclass(frozen=True)
class Conversation:
    """`outcome` is None where the model could not be reached; `failure` says why."""

    turns: tuple[Turn, ...]
    outcome: Outcome | None
    failure: str = ""


class Engine(Interface):
    interface: ImageInterface
    max_batch: int  # questions that are worth handing over together
    batch_dependent: bool  # the last digits of an answer depend on what is answered along with it

    def forget_images(self) -> None:
        """Let go of what is kept of the images that were asked about."""

    def answer(self, runs: Sequence[ProtocolRun], decoding: Decoding = GREEDY) -> Iterator[tuple[int, Conversation]]:
        """(number of the run, how it went), each as soon as it has ended. Raises `HartError` where none can go on."""


def cut_after(text: str, stops: Sequence[str]) -> str:
    """The text up to and with the first of `stops` in it."""
    ends = [text.index(stop) + len(stop) for stop in stops if stop in text]
    return text[: min(ends)] if ends else text
