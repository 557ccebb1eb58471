"""Bytes a model with LoRA holds while it computes, from its dimensions alone.

The counts are those of the tensors that autograd keeps and of the largest temporaries beside them, in the library's own
modules; `tests/test_plan.py` holds them against the allocator on CPU. CUDA's memory-efficient attention keeps the same
tensors (queries, keys repeated for every query head, values, output, the mask as numbers) by assumption: not measured.
"""

from __future__ import annotations

from dataclasses import dataclass

from hart_lite.config.limits import HEAD_TILE
from hart_lite.config.sections import ModelSection
from hart_lite.perf.model_sizes import Dimensions
from hart_lite.perf.vision_sizes import InternVit, Vision

SINGLE = 4  # bytes of a float32: norms, adapters, logits
NF4 = 0.5 + (1 + 4 / 256) / 64  # bytes of a weight: 4 bits, one byte per 64 and one float32 per 256 of those
DRAW = 3 * SINGLE + 2 * 8 - SINGLE  # bytes of a logit while drawing: it, its probability, that and its sum in double


@dataclass(frozen=True)
class Cost:
    """Sizes in bytes; arguments count tokens. `compute` is the size of a number in what the model computes in."""

    dims: Dimensions
    model: ModelSection

    @property
    def compute(self) -> int:
        """`auto` is float32 on CPU only; cards compute in 16 bits."""
        dtype, cpu = self.model.dtype, self.model.device == "cpu"
        return SINGLE if dtype == "float32" or (dtype == "auto" and cpu) else 2

    @property
    def half(self) -> bool:
        return self.compute < SINGLE

    # -- what is held all the time ---------------------------------------------------------------------------------

    def weights(self) -> int:
        d = self.dims
        linear = NF4 if self.model.quant == "nf4" else self.compute
        return round(d.linears * linear) + (d.words + d.small + d.tower) * self.compute

    def adapters(self) -> int:
        """The parameters alone: float32 whatever the base is in, as are their gradients and the two AdamW moments."""
        return SINGLE * self.dims.adapters(self.model.lora.r, self.model.lora.parts)

    def dequantised(self) -> int:
        """A 4-bit linear is unpacked whole for a matrix product; the largest one counts."""
        return self.compute * self.dims.hidden * self.dims.intermediate if self.model.quant == "nf4" else 0

    def kv(self, tokens: int) -> int:
        return tokens * 2 * self.dims.layers * self.dims.kv_width * self.compute

    def features(self, image_tokens: int) -> int:
        return image_tokens * self.dims.hidden * self.compute

    # -- the language model ----------------------------------------------------------------------------------------

    def layer_kept(self, tokens: int, row: int) -> int:
        """What autograd keeps of one layer, for `tokens` tokens that attend within rows of `row`."""
        d, c, lora = self.dims, self.compute, self.model.lora
        norms = 2 * SINGLE * d.hidden
        attention = 4 * c * d.hidden + SINGLE * d.heads + c * row  # q, k, v, output; normaliser; mask as numbers
        mlp = 3 * c * d.intermediate  # gate, its SiLU, up
        if self.half or lora.dropout:  # every adapter keeps an input of its own, converted or dropped out
            inputs = SINGLE * (6 * d.hidden + d.intermediate)
        else:  # q, k and v share one, gate and up share one, and o's is the attention's output
            inputs = SINGLE * (2 * d.hidden + d.intermediate)
        if lora.dropout:
            mask = SINGLE if self.model.device == "cpu" else 1  # which were dropped: the CPU keeps factors
            inputs += mask * (6 * d.hidden + d.intermediate)
        return tokens * (norms + attention + mlp + inputs + 7 * SINGLE * lora.r)

    def kept(self, tokens: int, row: int) -> int:
        """What is kept from the forward pass for the backward pass, over all layers."""
        if self.model.gradient_checkpointing:
            return self.dims.layers * tokens * self.dims.hidden * self.compute
        return self.dims.layers * self.layer_kept(tokens, row)

    def layer_backward(self, tokens: int, row: int) -> int:
        """Beside that, while one layer's gradient is computed: measured 8 bytes a number of the MLP's width."""
        d = self.dims
        again = self.layer_kept(tokens, row) if self.model.gradient_checkpointing else 0
        return again + tokens * (8 * d.intermediate + (12 * d.hidden if self.half else 0)) + self.dequantised()

    def around(self, tokens: int, row: int, sampled: int) -> int:
        """Mask, rotary angles, and the states that the head scores."""
        d, c = self.dims, self.compute
        return tokens * (row + 2 * d.head_dim * c) + sampled * d.hidden * c

    def head_backward(self, tokens: int, sampled: int) -> int:
        """At the head: the final norm's input, and gradients of the scored states. Without the logits."""
        return tokens * SINGLE * self.dims.hidden + sampled * self.dims.hidden * self.compute

    def logits(self, sampled: int, copies: int = 4) -> int:
        """One tile of float32 logits: 4 copies in the backward pass, 2 without one."""
        return copies * SINGLE * min(sampled, HEAD_TILE) * self.dims.vocab

    def drawing(self, rows: int) -> int:
        return rows * self.dims.vocab * DRAW

    def reading(self, tokens: int, row: int, adapters: bool = True) -> int:
        """Most of a forward pass that keeps nothing: in the MLP, where adapters add two float32 copies of its width."""
        d, c = self.dims, self.compute
        mixed = SINGLE if self.half and self.model.device == "cpu" else 0  # the CPU converts before adding to 16 bits
        wide = (2 * c + 2 * SINGLE + mixed if adapters else 3 * c) * d.intermediate
        states = (2 * c + (SINGLE if self.half else 0)) * d.hidden
        return tokens * (wide + states + row + 2 * d.head_dim * c) + self.dequantised()

    # -- the vision tower ------------------------------------------------------------------------------------------

    def encoding(self, patches: float) -> int:
        """Most of one call of the tower without gradient."""
        v, c = self.dims.vision, self.compute
        if isinstance(v, Vision):  # its rotation computes in float32
            attention = (6 * c + 4 * SINGLE + (2 * SINGLE if self.half else 0)) * v.hidden
            widest = max(attention, 3 * c * (v.hidden + v.intermediate)) + 2 * SINGLE * v.hidden // v.heads
        elif isinstance(v, InternVit):
            widest = c * max(8 * v.hidden, 5 * v.hidden + 2 * v.intermediate)
        else:  # its projector works on patches, and its tokens are put in order in copies
            widest = c * max(8 * v.hidden, 4 * v.hidden + 2 * v.intermediate, 2 * v.hidden + 3 * self.dims.hidden)
        return round(patches * (widest + c * v.patch_values))

    def tower_kept(self, patches: float) -> int:
        """What autograd keeps of the tower where it carries adapters: of all blocks, or their inputs and one block."""
        if "vision" not in self.model.lora.parts:
            return 0
        v, c = self.dims.vision, self.compute
        if isinstance(v, Vision):
            copies = 4 if self.half else 2
            block = (2 * SINGLE + 7 * c + copies * SINGLE) * v.hidden + (3 * c + SINGLE) * v.intermediate
        else:
            normed = (3 if self.half else 2) * SINGLE * (isinstance(v, InternVit) and v.qk_norm)
            block = (8 * SINGLE + normed) * v.hidden + (c + SINGLE) * v.intermediate + 6 * SINGLE * self.model.lora.r
        checkpointed = self.model.gradient_checkpointing
        return round(patches * (v.depth * c * v.hidden + block if checkpointed else v.depth * block))
