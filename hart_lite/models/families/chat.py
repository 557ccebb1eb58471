"""What families with a chat template share: text to ids and back, image slots, a checkpoint read whole or refused."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn
from transformers import AutoTokenizer, PreTrainedModel

# By the module's own name: at the top, transformers 5.17 hides it behind torchvision.
from transformers.models.auto.image_processing_auto import AutoImageProcessor
from transformers.utils import cached_file

from hart_lite.box_formats import BoxFormat, to_original
from hart_lite.errors import HartError
from hart_lite.models.families.base import Content
from hart_lite.types import ImageView, Slot, Tokens
from hart_lite.utils.text import shown

_MARK = "\u241f"  # a symbol no template writes


class ChatFamily:
    """A family of its own adds the names below, fit, image_tokens, features, positions, vision, lora_targets,
    written_boxes, box_to_text, and `_pixels`: what the model's own forward takes of images."""

    name: str
    title: str  # for messages
    model_class: type[PreTrainedModel]
    position_rows: int
    box_format: BoxFormat
    placeholder: str  # one image in what the chat template renders; its id fills the slots
    around: tuple[str, str] = ("", "")  # what the family's processor writes before and after the tokens of an image
    banned: tuple[str, ...]  # tokens never sampled
    tile: int  # side in pixels of what an image is cut into
    min_pixels: int  # of the smallest image that can be shown
    published: dict[str, object]  # sizes that the checkpoints of the family's makers have in common
    control: tuple[str, ...] = ("<|",)  # how control tokens begin, or one as a whole: no text may write them

    def __init__(self, source: str, revision: str | None = None) -> None:
        self.source, self.revision = source, revision
        self.tokenizer = AutoTokenizer.from_pretrained(source, revision=revision, trust_remote_code=False)
        self.processor = AutoImageProcessor.from_pretrained(
            source, revision=revision, backend="pil", trust_remote_code=False
        )
        ids = self.tokenizer.convert_tokens_to_ids
        for token in (self.placeholder, *self.banned, "<|im_end|>", "<|endoftext|>"):
            if len(self._ids(token)) != 1 or ids(token) == self.tokenizer.unk_token_id:
                raise HartError(f"the tokenizer of {source} is missing or no {self.title} tokenizer: it has no {token}")
        self.image_id = ids(self.placeholder)
        self.eos_ids = (ids("<|im_end|>"), ids("<|endoftext|>"))
        self.pad_id = ids("<|endoftext|>")
        self.banned_ids = tuple(ids(token) for token in self.banned)

    @classmethod
    def by_published_sizes(cls) -> ChatFamily:
        """How it sees images and writes boxes, for a model whose files are elsewhere: no tokenizer, no weights."""
        family = cls.__new__(cls)
        vars(family).update(cls.published)
        return family

    # -- model -----------------------------------------------------------------------------------------------------

    def load_model(self, **how) -> nn.Module:
        model, report = self.model_class.from_pretrained(
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
                f"it is not a whole {self.title} checkpoint"
            )
        return model

    def language(self, model: nn.Module) -> nn.Module:
        return model.model.language_model

    def rotary_rows(self, language: nn.Module) -> torch.Tensor:
        return torch.zeros(len(language.rotary_emb.inv_freq), dtype=torch.long)

    def speed_up_vision(self, model: nn.Module, attention: str) -> None:
        pass

    def save_processor(self, folder: Path) -> None:
        self.tokenizer.save_pretrained(folder)
        self.processor.save_pretrained(folder)

    def _file(self, name: str) -> Path | None:
        """A file of the base's repository, or None where it has none of that name."""
        found = cached_file(self.source, name, revision=self.revision, _raise_exceptions_for_missing_entries=False)
        return Path(found) if found else None

    # -- text ------------------------------------------------------------------------------------------------------

    def _use_template_of_processor(self) -> None:
        """Where it is there, the stock processor goes by it, and the tokenizer may hold the language model's own."""
        template = self._file("chat_template.json")
        if template:
            self.tokenizer.chat_template = json.loads(template.read_text(encoding="utf-8"))["chat_template"]

    def chat(self, content: Content, system: str = "") -> Tokens:
        messages = [self._message("system", [system])] if system else []
        return self._tokens(self._render([*messages, self._message("user", content)]), content)

    def reply(self, content: Content, ended: bool) -> Tokens:
        messages = [
            self._message("user", ["?"]),
            self._message("assistant", [_MARK]),
            self._message("user", content),
        ]
        after = self._render(messages).partition(_MARK)[2]  # the first mark: the content may hold one, too
        if ended:
            after = after.removeprefix("<|im_end|>")
        return self._tokens(after, content)

    def text(self, ids: Sequence[int]) -> str:
        return self.tokenizer.decode(list(ids), skip_special_tokens=True).strip()

    def response_ids(self, text: str) -> tuple[int, ...]:
        return (*self._ids(self.plain(text)), self.eos_ids[0])

    def plain(self, text: str) -> str:
        """Text that cannot write control tokens: a question saying <|im_end|> stays a question."""
        for token in self.control:
            text = text.replace(token, f"{token[0]} {token[1:]}")
        return text

    def _message(self, role: str, content: Content) -> dict:
        parts = [
            {"type": "text", "text": self.plain(part)} if isinstance(part, str) else {"type": "image"}
            for part in content
        ]
        return {"role": role, "content": parts}

    def _render(self, messages: list[dict]) -> str:
        return self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)

    def _ids(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def _tokens(self, rendered: str, content: Content) -> Tokens:
        """Each image placeholder becomes as many slots as its view has tokens."""
        views = [part for part in content if isinstance(part, ImageView)]
        texts = rendered.split(self.placeholder)
        if len(texts) != len(views) + 1:
            raise HartError(f"the chat template of {self.source} wrote {len(texts) - 1} images for {len(views)}")
        before, after = self.around
        out = Tokens()
        for n, text in enumerate(texts):
            text = (after if n else "") + text + (before if n < len(views) else "")
            out = out + Tokens(tuple(self._ids(text)))
            if n < len(views):
                length = self.image_tokens(views[n].size)
                out = out + Tokens((self.image_id,) * length, (Slot(0, length, views[n]),))
        return out

    # -- images ----------------------------------------------------------------------------------------------------

    def _check_budget(self, pixels: int) -> None:
        if pixels < self.min_pixels:
            raise HartError(
                f"{self.title} is shown tiles of {self.tile} x {self.tile}, {self.min_pixels} pixels at least, and a "
                f"budget is {pixels}; raise pixels.full and pixels.crop to {self.min_pixels} or more"
            )

    def collate(self, sequences: Sequence[Tokens]) -> dict[str, torch.Tensor]:
        longest = max(map(len, sequences))
        ids = torch.full((len(sequences), longest), self.pad_id)
        real = torch.zeros_like(ids)
        positions = torch.zeros(self.position_rows, len(sequences), longest, dtype=torch.long)
        for n, tokens in enumerate(sequences):
            ids[n, : len(tokens)] = torch.tensor(tokens.ids)
            real[n, : len(tokens)] = 1
            positions[:, n, : len(tokens)] = self.positions(tokens)
        if self.position_rows == 1:
            positions = positions[0]
        batch = {"input_ids": ids, "attention_mask": real, "position_ids": positions}
        views = [slot.view for tokens in sequences for slot in tokens.slots]
        return batch | (self._pixels([view.load() for view in views], ids) if views else {})

    # -- boxes -----------------------------------------------------------------------------------------------------

    def use_box_format(self, box_format: BoxFormat) -> None:
        """Read and write boxes in another format than the family's own."""
        raise HartError(
            f"model.box_format = {shown(box_format)}, but the boxes of {self.title} are known to be {self.box_format}; "
            "leave model.box_format out"
        )

    def boxes_from_text(
        self, text: str, seen: Sequence[tuple[int, int]], original: Sequence[tuple[int, int]]
    ) -> list[tuple[float, float, float, float, int]]:
        return [
            (*to_original(self.box_format, corners, seen[image], original[image]), image)
            for *corners, image in self.written_boxes(text, len(seen))
        ]
