"""The families beside Qwen2.5-VL, which has its own tests: their tiny checkpoints and stock processors, and
sequences to feed them.

Their tests have the same questions (tests/models/test_families.py, test_family_chat.py); a `Kit` says what differs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from pictures import Photo, packed_logps
from tiny_families import (
    INTERNVL,
    INTERNVL_TEMPLATE,
    INTERNVL_TILE,
    LLAVA,
    LLAVA_TEMPLATE,
    LLAVA_TILE,
    QWEN3,
    QWEN3_TEMPLATE,
    QWEN3_TEXT,
    QWEN3_TILE,
    StockInternVL,
    StockLlava,
    StockQwen3VL,
    build_internvl,
    build_llava,
    build_qwen3vl,
)
from transformers import ProcessorMixin

from hart_lite.config.sections import Lora, ModelSection
from hart_lite.models.families.chat import ChatFamily
from hart_lite.models.families.internvl3 import InternVL3
from hart_lite.models.families.llava_onevision import LlavaOneVision
from hart_lite.models.families.qwen3_vl import Qwen3VL
from hart_lite.models.loading import load_policy
from hart_lite.models.policy import Policy
from hart_lite.types import Box, ImageView, Tokens

ALL_PARTS = Lora(parts=["language", "vision", "projector"])
BOX_TAGS = {"<ref>", "</ref>", "<box>", "</box>", "<quad>", "</quad>"}


@dataclass(frozen=True)
class Kit:
    """`talkative` is the scale of adapters at which the greedy text varies; `forward` names what the model's forward
    takes of the stock processor's output, which is called with `asked`; `lost` is a tensor to leave out; `seeing` are
    the model's parts that see, and `levels` the widths of the language model that a feature has."""

    name: str
    family: type[ChatFamily]
    build: Callable[..., Path]
    stock: type[ProcessorMixin]
    template: str
    tile: int
    control: tuple[str, ...]  # special tokens that no question may write
    hostile: tuple[str, ...]  # texts that would write one after the first is taken out
    spoken: str  # a box as this family says it
    talkative: float
    asked: dict
    forward: tuple[str, ...]
    image_processors: tuple[str, ...]
    lost: str
    seeing: tuple[str, ...] = ("vision_tower", "multi_modal_projector")
    levels: int = 1

    def stock_inputs(self, policy: Policy, tokens: Tokens) -> dict[str, torch.Tensor]:
        """What the stock processor makes of the same pictures, and plain ids."""
        ids = torch.tensor([tokens.ids])
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        if tokens.slots:
            images = [slot.view.load() for slot in tokens.slots]
            made = policy.family.processor(images=images, return_tensors="pt", **self.asked)
            inputs |= {name: made[name] for name in self.forward}
            if "image_grid_thw" in self.forward:
                inputs["mm_token_type_ids"] = (ids == policy.family.image_id).long()
        return inputs

    def stock_logps(self, policy: Policy, tokens: Tokens, model: torch.nn.Module | None = None) -> torch.Tensor:
        """Log-probs of the sampled tokens by one plain forward of the whole model, which makes its own positions."""
        logits = (model or policy.model)(**self.stock_inputs(policy, tokens), use_cache=False).logits[0].float()
        at = torch.tensor([i for span in tokens.sampled for i in range(span.start, span.stop)])
        return logits.log_softmax(-1)[at - 1, torch.tensor(tokens.ids)[at]]

    def stock_ids(self, family: ChatFamily, messages: Sequence[dict], views: Sequence[ImageView]) -> tuple[int, ...]:
        """The stock processor's ids of a conversation, images and all."""
        processor = self.stock(family.processor, family.tokenizer, self.template)
        text = processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        return tuple(processor(text=text, images=[v.load() for v in views] or None)["input_ids"][0])


KITS = {
    "qwen3_vl": Kit(
        name="Qwen3-VL",
        family=Qwen3VL,
        build=build_qwen3vl,
        stock=StockQwen3VL,
        template=QWEN3_TEMPLATE,
        tile=QWEN3_TILE,
        control=QWEN3,
        hostile=("<<|image_pad|>|image_pad|>",),
        spoken='[{"bbox_2d": [1,2,3,4]}]',
        talkative=1.0,
        asked={"do_resize": False},
        forward=("pixel_values", "image_grid_thw"),
        image_processors=("Qwen2VLImageProcessor", "Qwen2VLImageProcessorFast"),
        lost="model.visual.deepstack_merger_list.1.linear_fc2.weight",
        seeing=("visual",),
        levels=3,
    ),
    "internvl": Kit(
        name="InternVL3",
        family=InternVL3,
        build=build_internvl,
        stock=StockInternVL,
        template=INTERNVL_TEMPLATE,
        tile=INTERNVL_TILE,
        control=tuple(sorted({*INTERNVL, "<video>"} - BOX_TAGS)),
        hostile=("<<img>img>", "<<IMG_CONTEXT>IMG_CONTEXT>"),
        spoken="<ref>it</ref><box>[[1, 2, 3, 4]]</box>",
        talkative=0.4,
        asked={"crop_to_patches": True},
        forward=("pixel_values",),
        image_processors=("GotOcr2ImageProcessor", "GotOcr2ImageProcessorFast"),
        lost="multi_modal_projector.linear_1.weight",
    ),
    "llava": Kit(
        name="LLaVA-OneVision",
        family=LlavaOneVision,
        build=build_llava,
        stock=StockLlava,
        template=LLAVA_TEMPLATE,
        tile=LLAVA_TILE,
        control=LLAVA,
        hostile=("<<image>image>",),
        spoken="[0.1, 0.2, 0.3, 0.4]",
        talkative=0.8,
        asked={},
        forward=("pixel_values", "image_sizes"),
        image_processors=("LlavaOnevisionImageProcessor", "LlavaOnevisionImageProcessorFast"),
        lost="image_newline",
    ),
}

KITS["internvl3.5"] = replace(KITS["internvl"], build=partial(build_internvl, seed=1, text=QWEN3_TEXT))


def loaded(base: Path, adapter_std: float = 0.05, **section) -> Policy:
    """On a tiny base, with adapters that change what the model says."""
    policy = load_policy(ModelSection(base=str(base), **section))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in policy.model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, adapter_std, generator=generator)
    return policy


def view(family, width: int, height: int, seed: int = 0, most: int = 18_000, box: Box | None = None) -> ImageView:
    photo = Photo(width, height, seed)
    size = (round(box.width), round(box.height)) if box else photo.size()
    return ImageView(photo, family.fit(size, most, 1), box)


def said(n: int, seed: int) -> Tokens:
    generator = torch.Generator().manual_seed(seed)
    return Tokens.response(tuple(torch.randint(20, 400, (n,), generator=generator).tolist()))


def first_turns(family) -> list[Tokens]:
    """Two questions with one and with two images, three responses of different lengths each."""
    one = family.chat((view(family, 300, 100, 1), "Which character is on the red square?"))
    two = family.chat((view(family, 60, 200, 2), view(family, 50, 50, 3, 4000), "Which character is on it?"))
    return [prompt + said(n, n) for prompt in (one, two) for n in (5, 1, 8)]


def second_turns(family) -> list[Tokens]:
    """Crops: two samples chose the same crop, one another, one chose two."""
    left, right = (view(family, 400, 300, 4, 9000, Box(x, 10, x + 150, 90)) for x in (20, 200))
    crops = ((left,), (left,), (right,), (left, right))
    return [family.chat(("Answer the question: which?\n", *c)) + said(4, 10 + n) for n, c in enumerate(crops)]


def conversations(family) -> list[Tokens]:
    """Two sampled spans in one sequence, the full image still there."""
    full, crop = view(family, 300, 200, 1), view(family, 90, 80, 5, 4000)
    prompt = family.chat((full, "Where is it?"), "Look closely.")
    return [prompt + said(n, n) + family.reply((crop, "What is it?"), False) + said(3, 20 + n) for n in (4, 2)]


KINDS = {"first turns": first_turns, "second turns": second_turns, "conversations": conversations}


def everything(family) -> list[Tokens]:
    return [tokens for make in KINDS.values() for tokens in make(family)]


@torch.no_grad()
def check_log_probs(policy: Policy, kit: Kit, make: Callable, budget: int) -> torch.Tensor:
    """Of packs and of the stock model. Returns those of packs, of all sequences one after the other."""
    policy.model.eval()
    policy.forget_images()
    sequences = make(policy.family)
    packed = packed_logps(policy, sequences, budget)
    for ours, tokens in zip(packed, sequences, strict=True):
        torch.testing.assert_close(ours, kit.stock_logps(policy, tokens), rtol=0, atol=1e-5)
    return torch.cat(packed)
