"""Bytes a model with LoRA holds while it computes, from its dimensions alone.

The counts are those of the tensors that autograd keeps and of the largest temporaries beside them, in the decoder and
the adapters of `hart_lite.models`; tests/perf/test_plan.py holds them against the allocator on CPU. A card's kernels
keep the same tensors, but for copies that the CPU makes and `cpu` marks. Images that threads have read, and
the features of images between two passes, wait in the host's memory.
"""

from __future__ import annotations

from dataclasses import dataclass

from hart_lite.config.limits import HEAD_TILE
from hart_lite.config.sections import ModelSection
from hart_lite.perf.model_sizes import Dimensions
from hart_lite.perf.vision_sizes import InternVit, Qwen3Vit, Vision

SINGLE = 4  # bytes of a float32: norms, adapters, logits
NF4 = 0.5 + (1 + 4 / 256) / 64  # bytes of a weight: 4 bits, one byte per 64 and one float32 per 256 of those
PLACE = 8  # bytes of an index
DRAW = (
    3 * SINGLE + 2 * 8
)  # bytes of a logit while drawing: it, it unless banned, its probability, that and its sum in double


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

    @property
    def cpu(self) -> bool:
        return self.model.device == "cpu"

    # -- what is held all the time ---------------------------------------------------------------------------------

    def weights(self) -> int:
        d = self.dims
        linear = NF4 if self.model.quant == "nf4" else self.compute
        return round(d.linears * linear) + (d.words + d.small + d.tower) * self.compute

    @property
    def adapter_numbers(self) -> int:
        return self.dims.adapters(self.model.lora.r, self.model.lora.parts)

    def adapters(self) -> int:
        """The parameters alone: float32 whatever the base is in, as are their gradients and the two AdamW moments."""
        return SINGLE * self.adapter_numbers

    def dequantised(self) -> int:
        """A 4-bit linear is unpacked whole for a matrix product; the largest one counts."""
        return self.compute * self.dims.hidden * self.dims.intermediate if self.model.quant == "nf4" else 0

    def kv(self, tokens: int) -> int:
        return tokens * 2 * self.dims.layers * self.dims.kv_width * self.compute

    def features(self, image_tokens: int) -> int:
        return image_tokens * self.dims.vision.levels * self.dims.hidden * self.compute

    # -- the language model ----------------------------------------------------------------------------------------

    @property
    def normed(self) -> int:
        """Bytes of a number of what a norm keeps of its input: the CPU keeps float32."""
        return SINGLE if self.cpu else self.compute

    @property
    def casts(self) -> int:
        """Adapters in 16 bits, beside the float32 ones: a rollout leaves its own, the update makes them again."""
        return self.compute * self.adapter_numbers if self.half and not self.model.lora.dropout else 0

    def layer_kept(self, tokens: int) -> int:
        """What autograd keeps of one layer. Attention keeps no scores: its backward pass makes them again by blocks."""
        d, c = self.dims, self.compute
        norms = 2 * self.normed * d.hidden + 2 * SINGLE
        attention = c * 2 * (d.q_width + d.kv_width) + SINGLE * d.heads  # q, output, k, v; log-sum-exps
        if d.qk_norm:  # q and k before their norms
            norms += self.normed * (d.q_width + d.kv_width) + SINGLE * (d.heads + d.kv_heads)
        # q, k and v share an input, gate and up share one, and o's is the attention's output.
        adapters = self._inputs(5 * d.hidden + d.q_width + d.intermediate, 2 * d.hidden + d.intermediate, 7)
        return tokens * (norms + attention + 2 * c * d.intermediate + adapters)

    def kept(self, tokens: int) -> int:
        """What is kept from the forward pass for the backward pass, over all layers: everything, or their inputs."""
        if self.model.gradient_checkpointing:
            return self.dims.layers * tokens * self.dims.hidden * self.compute
        return self.dims.layers * self.layer_kept(tokens) + self.casts

    def layer_backward(self, tokens: int) -> int:
        """Beside that, while the gradient of one layer is computed; it is made again first where only inputs are kept.

        Most is held at the MLP's last linear, by the gradient of its input, which comes from the base and from the
        adapter, and at its activation.
        """
        d, c = self.dims, self.compute
        again = 0
        if self.model.gradient_checkpointing:
            input_kept = tokens * c * d.hidden if self.normed == c else 0  # by its norm, and with the other layers'
            again = self.layer_kept(tokens) + self.casts // d.layers - input_kept
        states = (SINGLE * 3 if self.model.lora.dropout else c) * d.hidden
        return again + tokens * (states + 2 * c * d.intermediate) + self.dequantised()

    def around(self, tokens: int, sampled: int) -> int:
        """Rotary angles, places of the runs, and the states that the head scores."""
        d, c = self.dims, self.compute
        return tokens * (2 * d.head_dim * c + 2 * PLACE) + sampled * d.hidden * c

    def head_backward(self, tokens: int, sampled: int) -> int:
        """At the head: the final norm's input, and gradients of the scored states. Without the logits."""
        return tokens * self.normed * self.dims.hidden + sampled * self.dims.hidden * self.compute

    def logits(self, sampled: int, copies: int = 4) -> int:
        """One tile of float32 logits: 4 copies in the backward pass, 2 without one."""
        return copies * SINGLE * min(sampled, HEAD_TILE) * self.dims.vocab

    def drawing(self, rows: int) -> int:
        return rows * self.dims.vocab * DRAW

    def stepping(self, rows: int, seen: int) -> int:
        """The pass that samples one token for each row, which sees so many: scores in float32, in four copies (of each
        part, together, scaled, as weights), or the MLP. A recorded graph holds this until the next one is recorded."""
        d, c = self.dims, self.compute
        scores = 4 * SINGLE * d.heads * seen
        return rows * max(scores, 2 * c * d.intermediate) + self.dequantised()

    def reading(self, tokens: int) -> int:
        """Most of a forward pass that keeps nothing: in the MLP, or where attention merges its two parts (16 bits in
        float32), beside the states and what the norm made of them."""
        d, c = self.dims, self.compute
        attention = (10 if self.half else 9 if self.cpu else 6) * d.q_width + 3 * d.kv_width
        widest = max(2 * d.intermediate, attention)
        return tokens * c * (widest + 2 * d.hidden + 2 * d.head_dim) + self.dequantised()

    # -- the vision tower ------------------------------------------------------------------------------------------

    def encoding(self, patches: float) -> int:
        """Most of one call of the tower without gradient, all windows and images in one call of attention."""
        v, c = self.dims.vision, self.compute
        if isinstance(v, Vision):
            # Its rotation computes in float32, beside the states, what the norm made of them, q, k, v and the turned q.
            rotation = (6 * c + (4 if self.half else 3) * SINGLE) * v.hidden
            attention = (13 if self.cpu else 9) * c * v.hidden  # the CPU's kernel wants copies
            widest = max(rotation, attention, 2 * c * v.hidden + 3 * c * v.intermediate)
            widest += 2 * SINGLE * v.hidden // v.heads + c * v.patch_values
            return round(patches * max(widest, 2 * SINGLE * v.patch_values))  # pixels come in float32, in two copies
        if isinstance(v, InternVit):
            widest = c * max(8 * v.hidden, 5 * v.hidden + 2 * v.intermediate)
        else:  # its projector works on patches, and its tokens are put in order in copies
            widest = c * max(8 * v.hidden, 4 * v.hidden + 2 * v.intermediate, 2 * v.hidden + 3 * self.dims.hidden)
        return round(patches * (widest + c * v.patch_values))

    def tower_kept(self, patches: float) -> int:
        """What autograd keeps of the tower where it carries adapters: of all blocks, or their inputs and one block."""
        lora = self.model.lora
        if "vision" not in lora.parts:
            return 0
        v, c = self.dims.vision, self.compute
        attention = 4 * c * v.hidden + SINGLE * v.heads  # q, k, v, output; log-sum-exps
        if isinstance(v, Qwen3Vit):
            norms, mlp, inputs, linears = 2 * c, c * v.intermediate, 3 * v.hidden + v.intermediate, 4
        elif isinstance(v, Vision):  # of the MLP's gate: it, and its activation; then up
            norms, mlp, inputs, linears = 2 * self.normed, 3 * c * v.intermediate, 4 * v.hidden + v.intermediate, 5
        else:
            norms = 2 * c
            if isinstance(v, InternVit) and v.rms_norm:
                norms = 2 * self.normed
            if isinstance(v, InternVit) and v.qk_norm:
                norms += 2 * self.normed
            mlp, inputs, linears = c * v.intermediate, 5 * v.hidden + v.intermediate, 6
        block = norms * v.hidden + attention + mlp + self._inputs(inputs, 2 * v.hidden + v.intermediate, linears)
        casts = self.compute * self.dims.adapters(lora.r, ["vision"]) if self.half and not lora.dropout else 0
        if self.model.gradient_checkpointing:
            return round(patches * (v.depth * c * v.hidden + block)) + casts // v.depth
        return round(patches * v.depth * block) + casts

    def _inputs(self, dropped: int, shared: int, linears: int) -> int:
        """Bytes a token that adapters keep: inputs of so many numbers, and what A makes of them for each linear.

        With dropout PEFT computes: each adapter keeps its own input in float32, and which of it was dropped. Without,
        those that read the same share it, in the model's precision.
        """
        lora, c = self.model.lora, self.compute
        if lora.dropout:
            mask = SINGLE if self.cpu else 1  # the CPU keeps factors
            return (SINGLE + mask) * dropped + linears * SINGLE * lora.r
        return c * (shared + linears * lora.r)
