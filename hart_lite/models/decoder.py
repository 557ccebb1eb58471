"""The layers of a language model as this project runs them: the library's modules and weights, our own order of calls.

All families here have the decoder of Qwen2 or Qwen3, so one forward serves them: attention is the caller's (packs,
prompts, samples), rotary angles are computed once a pass instead of once a layer, and a layer makes as few calls as it
can, which is what a sampled token costs. Checked against the library's own forward by the tests of every family.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import rms_norm
from torch.utils.checkpoint import checkpoint

from hart_lite.errors import ModelError

# (layer, q (N, T, heads, D), k, v (N, T, key heads, D)) -> (N, T, heads, D)
Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]


class Decoder:
    """`language` is the model without its head; `rows_F` names for each rotary frequency the row of the positions that
    it turns by (families with one row: 0 everywhere)."""

    def __init__(self, language: nn.Module, rows_F: Tensor, checkpointing: bool = False) -> None:
        self.language, self.checkpointing = language, checkpointing
        self.layers = language.layers
        _check(language)
        self.rows_F = rows_F.to(language.rotary_emb.inv_freq.device)  # a pass that is recorded may not move it there
        self.hidden = language.config.hidden_size
        self.width = self.layers[0].self_attn.head_dim
        self.normed = hasattr(self.layers[0].self_attn, "q_norm")
        self.scale = self.layers[0].self_attn.scaling

    def __call__(self, inputs_N_T_E: Tensor, positions_R_N_T: Tensor, attend: Attend) -> Tensor:
        """(N, T, H) hidden states after the last norm. An input is an embedding of H numbers, and behind it what is
        added to the hidden states after the first layers, H numbers for each (see `Policy.embed`)."""
        hidden, *added = inputs_N_T_E.split(self.hidden, -1)
        hidden, turn = hidden.contiguous(), self._angles(positions_R_N_T, hidden.dtype)
        recompute = self.checkpointing and torch.is_grad_enabled()
        for number, layer in enumerate(self.layers):
            if recompute:
                hidden = checkpoint(self._layer, layer, number, hidden, turn, attend, use_reentrant=False)
            else:
                hidden = self._layer(layer, number, hidden, turn, attend)
            if number < len(added):
                hidden = hidden + added[number]
        return _norm(self.language.norm, hidden)

    def _angles(self, positions_R_N_T: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """(N, T, 1, D) cosines, and sines of which the first half is negative: x cos + roll(x) sin turns x."""
        rotary = self.language.rotary_emb
        angles = positions_R_N_T[self.rows_F].float().permute(1, 2, 0) * rotary.inv_freq.float()
        scaling = getattr(rotary, "attention_scaling", 1.0)
        cos, sin = angles.cos() * scaling, angles.sin() * scaling
        both = torch.cat([cos, cos], -1), torch.cat([-sin, sin], -1)
        return tuple(part[:, :, None].to(dtype) for part in both)

    def _layer(
        self, layer: nn.Module, number: int, hidden: Tensor, turn: tuple[Tensor, Tensor], attend: Attend
    ) -> Tensor:
        mlp = layer.mlp
        hidden = hidden + self._mixed(layer.self_attn, number, _norm(layer.input_layernorm, hidden), turn, attend)
        x = _norm(layer.post_attention_layernorm, hidden)
        return hidden + mlp.down_proj(_swiglu(mlp.gate_proj(x), mlp.up_proj(x)))

    def _mixed(self, block: nn.Module, number: int, x: Tensor, turn: tuple[Tensor, Tensor], attend: Attend) -> Tensor:
        """Its queries, keys and values are let go before the MLP, which holds most, begins."""
        q, k, v = (part(x).unflatten(-1, (-1, self.width)) for part in (block.q_proj, block.k_proj, block.v_proj))
        if self.normed:
            q, k = _norm(block.q_norm, q), _norm(block.k_norm, k)
        return block.o_proj(attend(number, self._turned(q, turn), self._turned(k, turn), v).flatten(-2))

    def _turned(self, x: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
        cos, sin = turn
        return torch.addcmul(x * cos, x.roll(self.width // 2, -1), sin)


def _swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) * up. What no gradient needs is overwritten."""
    if torch.is_grad_enabled():
        return _SwiGLU.apply(gate, up)
    return nn.functional.silu(gate, inplace=True).mul_(up)


class _SwiGLU(torch.autograd.Function):
    """silu(gate) * up, of which the two factors are kept and not what lies between. Both passes hold as little beside
    them as they can: this is where a layer holds most."""

    @staticmethod
    def forward(ctx, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return nn.functional.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = ctx.saved_tensors
        return torch.ops.aten.silu_backward(grad * up, gate), nn.functional.silu(gate).mul_(grad)


def _norm(norm: nn.Module, x: Tensor) -> Tensor:
    return rms_norm(x, norm.weight.shape, norm.weight, norm.variance_epsilon)


PARTS = (
    *("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"),
    *("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj", "input_layernorm", "post_attention_layernorm"),
)
QK_NORMS = {"self_attn.q_norm", "self_attn.k_norm"}  # Qwen3's, each over one head


def _check(language: nn.Module) -> None:
    """Raises `ModelError` for a decoder that this forward would run wrongly in silence."""
    config, layer = language.config, language.layers[0]
    kinds = set(getattr(config, "layer_types", None) or ()) - {"full_attention"}
    if kinds or getattr(config, "use_sliding_window", False):
        raise ModelError(
            f"layers of kind {', '.join(sorted(kinds)) or 'sliding window'}: only causal attention over all that "
            "stands before is supported, since a shared prefix is attended to whole"
        )
    found = {name for name, _ in layer.named_modules() if name.count(".") == 1 or name.endswith("norm")}
    found -= {"mlp.act_fn"}
    if not found >= set(PARTS) or config.hidden_act != "silu":
        lacking = sorted(set(PARTS) - found) or [f"activation silu (it has {config.hidden_act})"]
        raise ModelError(f"a decoder without {', '.join(lacking)} is none of the supported families'")
    norms = {name for name in QK_NORMS & found if _is_of_one_head(layer.self_attn, layer.get_submodule(name))}
    known = {*PARTS, *(norms if norms == QK_NORMS else ())}
    if unknown := sorted(name for name in found - known if "lora" not in name):
        raise ModelError(f"a decoder with {', '.join(unknown)} is none of the supported families'")


def _is_of_one_head(block: nn.Module, norm: nn.Module) -> bool:
    """An RMSNorm, and no norm of all heads together."""
    return hasattr(norm, "variance_epsilon") and norm.weight.shape == (block.head_dim,)
