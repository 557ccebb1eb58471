"""What a model family must offer. Everything above works on token ids, image slots, embeddings and positions.

Frames: a family alone knows which pixels the numbers in its text mean; it takes and gives ORIGINAL pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from hart_lite.box_formats import BoxFormat
from hart_lite.types import Box, ImageView, Tokens

if TYPE_CHECKING:  # what speaks of families alone, such as a list of benchmarks, answers without torch
    import torch
    from PIL import Image
    from torch import nn

Content = Sequence[str | ImageView]  # what one message shows, in order


class ImageInterface(Protocol):
    """How a model sees images and writes boxes, which is all that a protocol needs of it. Every `Family` is one."""

    name: str
    locate_words: str
    several_words: str

    def fit(self, size: tuple[int, int], max_pixels: int, min_pixels: int) -> tuple[int, int]: ...

    def boxes_from_text(
        self, text: str, seen: list[tuple[int, int]], original: list[tuple[int, int]]
    ) -> list[tuple[float, float, float, float, int]]: ...


class Family(Protocol):
    name: str
    source: str  # folder or Hub id of the base, and which commit of it
    revision: str | None
    position_rows: int  # 3 for m-RoPE, else 1
    box_format: BoxFormat  # which numbers its text has for a box
    locate_words: str  # appended to the locate instruction: the box format this family speaks
    several_words: str  # appended to that when there are several images: how to say which one
    eos_ids: tuple[int, ...]  # a response ends with one of these
    pad_id: int
    banned_ids: tuple[int, ...]  # image placeholders and the like: never sampled

    def load_model(self, **how) -> nn.Module:
        """The base model, frozen, on its device."""

    def language(self, model: nn.Module) -> nn.Module:
        """The decoder without its head: embeddings and positions in, hidden states out."""

    def rotary_rows(self, language: nn.Module) -> torch.Tensor:
        """(F,) for each rotary frequency of `language(model)` the row of the positions that it turns by."""

    def vision(self, model: nn.Module) -> nn.Module:
        """All that makes features of pixels: the tower and its projector."""

    def speed_up_vision(self, model: nn.Module, attention: str) -> None:
        """Let the tower compute the same in fewer calls, where `model.attention` leaves room for it."""

    def save_processor(self, folder: Path) -> None:
        """Tokenizer, image processor and chat template, as the base's repository has them."""

    def lora_targets(self, parts: Sequence[str]) -> str:
        """Regular expression over module names that carry adapters; parts: language, vision, projector."""

    def fit(self, size: tuple[int, int], max_pixels: int, min_pixels: int) -> tuple[int, int]:
        """(width, height) the model sees of an image of this size within a budget of pixels."""

    def image_tokens(self, size: tuple[int, int]) -> int:
        """Number of image tokens at a size that `fit` gave."""

    def chat(self, content: Content, system: str = "") -> Tokens:
        """A conversation of one user message, up to where the assistant begins to speak.

        `system` stands ahead of it, in place of the system words that the family's template has of its own.
        """

    def reply(self, content: Content, ended: bool) -> Tokens:
        """The next user message after an assistant's response (`ended`: that response closed itself)."""

    def plain(self, text: str) -> str:
        """A text as a conversation holds it: it cannot write control tokens."""

    def text(self, ids: Sequence[int]) -> str:
        """Sampled ids as text, without control tokens."""

    def response_ids(self, text: str) -> tuple[int, ...]:
        """An assistant's response as ids, closed by the end token (for supervised targets)."""

    def features(self, model: nn.Module, images: Sequence[Image.Image]) -> list[torch.Tensor]:
        """One (tokens, E) tensor per image. E is the language model's width H, or a multiple of it: embeddings, and
        behind them what is added to the hidden states after the first layers."""

    def collate(self, sequences: Sequence[Tokens]) -> dict[str, torch.Tensor]:
        """Right-padded inputs of the model's own forward: ids, mask, positions, pixels."""

    def positions(self, tokens: Tokens) -> torch.Tensor:
        """(rows, T) rotary positions: 3 rows for m-RoPE, 1 otherwise."""

    def use_box_format(self, box_format: BoxFormat) -> None:
        """Read and write boxes in another format. Raises `HartError` where the family's own is known."""

    def written_boxes(self, text: str, images: int) -> list[tuple[float, float, float, float, int]]:
        """(x1, y1, x2, y2, image index) for every box the text names, unchecked and in order: the numbers as they stand
        there. What is no number, or lies on an image that is not among the `images`, comes as NaN on the first."""

    def boxes_from_text(
        self, text: str, seen: Sequence[tuple[int, int]], original: Sequence[tuple[int, int]]
    ) -> list[tuple[float, float, float, float, int]]:
        """`written_boxes` in original pixels."""

    def box_to_text(
        self, boxes: Sequence[Box], seen: Sequence[tuple[int, int]], original: Sequence[tuple[int, int]]
    ) -> str:
        """The text this family would answer to point at these boxes."""
