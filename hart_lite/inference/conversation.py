"""What an engine makes of a protocol: the conversation as it went. Engines hold a model or reach one over a network."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol as Interface

from hart_lite.inference.protocols.base import Frame, Outcome, ProtocolRun


@dataclass(frozen=True)
class Spoken:
    """One message and its response. `prompt_tokens` and `images` count all that was in sight, earlier turns included;
    tokens are None where a server does not tell."""

    kind: str
    text: str
    prompt_tokens: int | None
    response_tokens: int | None
    images: int


@dataclass(frozen=True)
class Conversation:
    """`outcome` is None where the model could not be reached; `failure` says why."""

    turns: tuple[Spoken, ...]
    outcome: Outcome | None
    failure: str = ""


class Engine(Interface):
    frame: Frame
    at_once: int  # questions that are worth handing over together
    in_company: bool  # the last digits of an answer depend on what is answered along with it

    def answer(self, runs: Sequence[ProtocolRun]) -> Iterator[tuple[int, Conversation]]:
        """(number of the run, how it went), each as soon as it has ended. Raises `HartError` where none can go on."""


def cut_after(text: str, stops: Sequence[str]) -> str:
    """The text up to and with the first of `stops` in it."""
    ends = [text.index(stop) + len(stop) for stop in stops if stop in text]
    return text[: min(ends)] if ends else text
