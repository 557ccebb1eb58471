"""How large numbers become inside a base, layer by layer: what decides whether float16, which ends at 65,504, will do.

Seen from outside: hooks on the linear layers of the decoder and a wrapper around its attention. The decoder's norms are
not called as modules, so the residual stream is added up again from what its two sources, `o_proj` and `down_proj`,
return, and what an image adds to it after the first layers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hart_lite.models.policy import Policy
from hart_lite.models.tree_attention import Tree, attend
from hart_lite.types import Tokens

COLUMNS = ("|q.k|", "|key|", "residual", "MLP product")
SCORES, KEY, RESIDUAL, PRODUCT = range(len(COLUMNS))


@dataclass(frozen=True)
class Largest:
    """Largest absolute values, NaN where one is no number. `layers`: for each layer those of `COLUMNS`, |q.k| before it
    is scaled. `vision`: of what any module of the vision tower returns. `scale`: what |q.k| is multiplied by."""

    layers: tuple[tuple[float, ...], ...]
    vision: float
    scale: float


@torch.no_grad()
def largest_values(policy: Policy, prompts: Sequence[Tokens]) -> Largest:
    """Over a forward pass of each prompt alone, images included. Leaves the model in evaluation mode."""
    policy.model.eval()
    policy.forget_images()
    watch = _Watch(policy)
    with watch.hooked():
        for prompt in prompts:
            watch.read(prompt)
    return Largest(tuple(map(tuple, watch.layers.tolist())), watch.vision.item(), policy.decoder.scale)


class _Watch:
    """Maxima as tensors on the device: NaN comes through them, and no layer waits for the host."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.layers = torch.zeros(len(policy.decoder.layers), len(COLUMNS), device=policy.device)
        self.vision = torch.zeros((), device=policy.device)
        self.stream = torch.zeros((), device=policy.device)
        self.added: list[Tensor] = []

    @contextmanager
    def hooked(self) -> Iterator[None]:
        with ExitStack() as stack:
            for n, layer in enumerate(self.policy.decoder.layers):
                down, out = layer.mlp.down_proj, layer.self_attn.o_proj
                hooks = [down.register_forward_pre_hook(lambda _, given, n=n: self._note(n, PRODUCT, given[0]))]
                hooks.append(out.register_forward_hook(lambda *a, n=n: self._add(n, a[-1])))
                hooks.append(down.register_forward_hook(lambda *a, n=n: self._add(n, a[-1] + self._of_images(n))))
                for hook in hooks:
                    stack.callback(hook.remove)
            for module in self.policy.family.vision(self.policy.model).modules():
                stack.callback(module.register_forward_hook(self._see).remove)
            yield

    def read(self, prompt: Tokens) -> None:
        policy = self.policy
        tree = Tree.of([len(prompt)], [[]], policy.device)

        def watched(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            self._note(layer, KEY, k)
            self._note(layer, SCORES, largest_scores(q[0], k[0]))
            return attend(q[0], k[0], v[0], tree, policy.decoder.scale)[None]

        inputs = policy.embed(torch.tensor(prompt.ids), prompt.slots)[None]
        self.stream, *self.added = inputs.split(policy.decoder.hidden, -1)
        policy.decoder(inputs, policy.family.positions(prompt)[:, None].to(policy.device), watched)

    def _of_images(self, layer: int) -> Tensor | int:
        return self.added[layer] if layer < len(self.added) else 0

    def _note(self, layer: int, column: int, values: Tensor) -> None:
        self.layers[layer, column] = torch.maximum(self.layers[layer, column], values.abs().amax().float())

    def _add(self, layer: int, values: Tensor) -> None:
        self.stream = self.stream + values
        self._note(layer, RESIDUAL, self.stream)

    def _see(self, _: nn.Module, __: tuple, out: object) -> None:
        if isinstance(out, Tensor) and out.is_floating_point():
            self.vision = torch.maximum(self.vision, out.abs().amax().float())


def largest_scores(q: Tensor, k: Tensor) -> Tensor:
    """Largest |q.k| in float32 of a token's query (T, heads, D) and the keys (T, key heads, D) up to its own."""
    shared = q.shape[1] // k.shape[1]
    heads = [q[:, n].float() @ k[:, n // shared].float().T for n in range(q.shape[1])]
    return torch.stack([products.tril().abs().amax() for products in heads]).amax()
