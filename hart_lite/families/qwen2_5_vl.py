"""Qwen2.5-VL: absolute pixels of the resized image, m-RoPE, one merged token for each 28 x 28 pixels.

Works without torchvision: the stock processor class wants a video processor, so the tokenizer and the PIL image
processor are used on their own (transformers #48558).
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import nn
from transformers import AutoImageProcessor, AutoTokenizer, Qwen2_5_VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

from hart_lite.families.base import Content
from hart_lite.images import view_pixels
from hart_lite.types import Box, HartError, ImageView, Slot, Tokens

MAX_ASPECT = 100  # smart_resize refuses 200; other engines break earlier
_IMAGE = "<|vision_start|><|image_pad|><|vision_end|>"
_PAD = "<|image_pad|>"
_MARK = "\u241f"  # a symbol no template writes
_NUMBER = r"\s{0,4}(-?\d{1,7}(?:\.\d{1,6})?)\s{0,4}"
_ANYTHING = r"\s{0,4}([^\s,\[\]]{1,40})\s{0,4}"  # a named box of NaN is a box, to be refused and counted
_FOUR = re.compile(r"\[" + ",".join([_NUMBER] * 4) + r"\]")
_NAMED = re.compile(r"bbox_2d[\"']?\s{0,4}:\s{0,4}\[" + ",".join([_ANYTHING] * 4) + r"\]")
_IMAGE_INDEX = re.compile(r"[\"']image[\"']\s{0,4}:\s{0,4}(\d{1,20})")
_ENTRY_REACH = 200  # characters on each side of a box in which its entry may name the image


class Qwen25VL:
    """Implements `hart_lite.families.base.Family`."""

    name = "qwen2_5_vl"
    position_rows = 3  # m-RoPE
    locate_words = ' in JSON format: [{"bbox_2d": [x1, y1, x2, y2]}]'
    several_words = '; add "image": n to a box on the n-th image'

    def __init__(self, source: str, revision: str | None = None) -> None:
        self.source, self.revision = source, revision
        self.tokenizer = AutoTokenizer.from_pretrained(source, revision=revision, trust_remote_code=False)
        self.processor = AutoImageProcessor.from_pretrained(
            source, revision=revision, backend="pil", trust_remote_code=False
        )
        self.factor = self.processor.patch_size * self.processor.merge_size
        ids = self.tokenizer.convert_tokens_to_ids
        self.image_id = ids(_PAD)
        if self.tokenizer.unk_token_id == self.image_id or len(self._ids(_PAD)) != 1:
            raise HartError(f"the tokenizer of {source} is missing or no Qwen2.5-VL tokenizer: it has no {_PAD}")
        self.eos_ids = (ids("<|im_end|>"), ids("<|endoftext|>"))
        self.pad_id = ids("<|endoftext|>")
        self.banned_ids = tuple(
            ids(t) for t in ("<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>", "<|im_start|>")
        )

    # -- model -----------------------------------------------------------------------------------------------------

    def load_model(self, **how) -> nn.Module:
        model, report = Qwen2_5_VLForConditionalGeneration.from_pretrained(
            self.source,
            revision=self.revision,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
            **how,
        )
        missing = sorted(report["missing_keys"])
        if missing:  # the library would draw them at random and go on
            raise HartError(
                f"base {self.source!r} lacks {len(missing)} of the model's tensors, {missing[0]} among them; "
                "it is not a whole Qwen2.5-VL checkpoint"
            )
        return model

    def save_processor(self, folder: Path) -> None:
        self.tokenizer.save_pretrained(folder)
        self.processor.save_pretrained(folder)

    def lora_targets(self, parts: Sequence[str]) -> str:
        patterns = {
            "language": r".*language_model\.layers\.\d+\.(self_attn\.[qkvo]_proj|mlp\.(gate|up|down)_proj)",
            "vision": r".*visual\.blocks\.\d+\.(attn\.(qkv|proj)|mlp\.(gate|up|down)_proj)",
            "projector": r".*visual\.merger\.mlp\.[02]",
        }
        return "|".join(f"(?:{patterns[part]})" for part in parts)

    # Modules kept in 16 bit under 4-bit quantisation: patterns match from the start of a name or as its suffix, and
    # giving any list drops the default exclusion of lm_head.
    unquantised = ("model.visual", "lm_head")

    # -- images ----------------------------------------------------------------------------------------------------

    def fit(self, size: tuple[int, int], most: int, least: int) -> tuple[int, int]:
        """Both sides multiples of 28. An aspect ratio above 100 is squeezed to it rather than refused."""
        width, height = size
        width, height = max(width, height / MAX_ASPECT), max(height, width / MAX_ASPECT)
        least = max(least, self.factor**2)
        h, w = smart_resize(
            max(round(height), 1),
            max(round(width), 1),
            factor=self.factor,
            min_pixels=least,
            max_pixels=most * (1 + 1e-9),  # its rounding takes a row from every tenth square at a square budget
        )
        h, w = max(h, self.factor), max(w, self.factor)
        while h * w > most:  # a thin image: smart_resize keeps at least one token a side and may overshoot
            h, w = (h - self.factor, w) if h > w else (h, w - self.factor)
        return w, h

    def image_tokens(self, size: tuple[int, int]) -> int:
        return (size[0] // self.factor) * (size[1] // self.factor)

    def features(self, model: nn.Module, images: Sequence[Image.Image]) -> list[torch.Tensor]:
        batch = self.processor(images=list(images), do_resize=False, return_tensors="pt")
        parameter = next(model.model.visual.parameters())
        out = model.model.get_image_features(
            batch["pixel_values"].to(parameter.device, parameter.dtype),
            batch["image_grid_thw"].to(parameter.device),
            return_dict=True,
        )
        return list(out.pooler_output)

    # -- text ------------------------------------------------------------------------------------------------------

    def chat(self, content: Content, system: str = "") -> Tokens:
        before = [self._message("system", [system])] if system else []
        return self._tokens(self._render([*before, self._message("user", content)]), content)

    def reply(self, content: Content, ended: bool) -> Tokens:
        messages = [
            self._message("user", ["?"]),
            {"role": "assistant", "content": _MARK},
            self._message("user", content),
        ]
        after = self._render(messages).partition(_MARK)[2]  # the first mark: the content may hold one, too
        if ended:
            after = after.removeprefix("<|im_end|>")
        return self._tokens(after, content)

    def text(self, ids: Sequence[int]) -> str:
        return self.tokenizer.decode(list(ids), skip_special_tokens=True).strip()

    def response_ids(self, text: str) -> tuple[int, ...]:
        return (*self._ids(_plain(text)), self.eos_ids[0])

    def _message(self, role: str, content: Content) -> dict:
        parts = [
            {"type": "text", "text": _plain(part)} if isinstance(part, str) else {"type": "image"} for part in content
        ]
        return {"role": role, "content": parts}

    def _render(self, messages: list[dict]) -> str:
        return self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)

    def _ids(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def _tokens(self, rendered: str, content: Content) -> Tokens:
        """Each image placeholder becomes as many slots as its view has tokens."""
        views = [part for part in content if isinstance(part, ImageView)]
        texts = rendered.split(_PAD)
        if len(texts) != len(views) + 1:
            raise HartError(f"the chat template of {self.source} wrote {len(texts) - 1} images for {len(views)}")
        out = Tokens(tuple(self._ids(texts[0])))
        for view, text in zip(views, texts[1:], strict=True):
            n = self.image_tokens(view.size)
            out = out + Tokens((self.image_id,) * n, (Slot(0, n, view),)) + Tokens(tuple(self._ids(text)))
        return out

    def collate(self, sequences: Sequence[Tokens]) -> dict[str, torch.Tensor]:
        longest = max(map(len, sequences))
        ids = torch.full((len(sequences), longest), self.pad_id)
        real = torch.zeros_like(ids)
        positions = torch.zeros(self.position_rows, len(sequences), longest, dtype=torch.long)
        for n, tokens in enumerate(sequences):
            ids[n, : len(tokens)] = torch.tensor(tokens.ids)
            real[n, : len(tokens)] = 1
            positions[:, n, : len(tokens)] = self.positions(tokens)
        batch = {"input_ids": ids, "attention_mask": real, "position_ids": positions}
        images = [view_pixels(slot.view) for tokens in sequences for slot in tokens.slots]
        if images:
            batch["mm_token_type_ids"] = (ids == self.image_id).long()
            batch |= self.processor(images=images, do_resize=False, return_tensors="pt")
        return batch

    # -- positions -------------------------------------------------------------------------------------------------

    def positions(self, tokens: Tokens) -> torch.Tensor:
        """(3, T): time, height, width. Text counts on from the largest position before it."""
        rows, next_position, cursor = [], 0, 0
        for slot in tokens.slots:
            n = slot.start - cursor
            rows.append(torch.arange(next_position, next_position + n).expand(3, n))
            next_position += n
            w, h = slot.view.size[0] // self.factor, slot.view.size[1] // self.factor
            ys, xs = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
            rows.append(torch.stack([torch.zeros(h * w, dtype=torch.long), ys.flatten(), xs.flatten()]) + next_position)
            next_position += max(h, w)
            cursor = slot.start + slot.length
        n = len(tokens) - cursor
        rows.append(torch.arange(next_position, next_position + n).expand(3, n))
        return torch.cat(rows, dim=1)

    # -- boxes -----------------------------------------------------------------------------------------------------

    def boxes_from_text(
        self, text: str, seen: Sequence[tuple[int, int]], original: Sequence[tuple[int, int]]
    ) -> list[tuple[float, float, float, float, int]]:
        """Reads `"bbox_2d": [x1, y1, x2, y2]`, or any lists of four numbers when no box is named so.

        An entry may add `"image": n` (counting from 1) to point into the n-th of several images. What is no number, and
        a box on an image that is not there, comes as NaN.
        """
        out = []
        named = list(_NAMED.finditer(text))
        for match in named or _FOUR.finditer(text):
            index, corners = _image_index(text, match), [_number(value) for value in match.groups()]
            if not 0 <= index < len(seen):
                index, corners = 0, [math.nan] * 4
            (w, h), (width, height) = seen[index], original[index]
            x1, y1, x2, y2 = corners
            out.append((x1 * width / w, y1 * height / h, x2 * width / w, y2 * height / h, index))
        return out

    def box_to_text(
        self, boxes: Sequence[Box], seen: Sequence[tuple[int, int]], original: Sequence[tuple[int, int]]
    ) -> str:
        entries = []
        for box in boxes:
            (w, h), (width, height) = seen[box.image], original[box.image]
            scale = (w / width, h / height, w / width, h / height)
            numbers = ",".join(str(round(v * s)) for v, s in zip(box.xyxy, scale, strict=True))
            entries.append(f'{{"bbox_2d": [{numbers}]' + (f', "image": {box.image + 1}' if box.image else "") + "}")
        return "[" + ", ".join(entries) + "]"


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _image_index(text: str, box: re.Match) -> int:
    """Index of the image that the entry around a box names; the first one when it names none."""
    before = re.split("[{}]", text[max(box.start() - _ENTRY_REACH, 0) : box.start()])[-1]
    after = re.split("[{}]", text[box.end() : box.end() + _ENTRY_REACH])[0]
    named = _IMAGE_INDEX.search(before) or _IMAGE_INDEX.search(after)
    return int(named[1]) - 1 if named else 0


def _plain(text: str) -> str:
    """Text that cannot write control tokens: a question saying <|im_end|> stays a question."""
    return text.replace("<|", "< |")
