"""What the base holds on this machine, beside what `hart-lite plan` says of the same work."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from hart_lite.config.schema import Recipe
from hart_lite.models.policy import Policy
from hart_lite.perf.memory_plan import plan
from hart_lite.perf.model_sizes import Dimensions
from hart_lite.perf.peak_memory import peak_bytes
from hart_lite.training.metrics import peak_memory

GIB = 2**30


@dataclass(frozen=True)
class Memory:
    """GiB, planned and seen. `load`: weights and adapters; `work`: the most held while rows are drawn and packed.
    `process`: the most that the card's allocator reserved, or that the process held on CPU, libraries included."""

    load_planned: float
    load: float
    work_planned: float
    work: float
    process: float


def planned(recipe: Recipe, policy: Policy, prompts: int, samples: int, longest: int) -> tuple[float, float]:
    """(load, work) in GiB by the plan of a step that asks once, with images that fill their budget; without gradients
    and an optimizer."""
    dtype = str(policy.model.dtype).removeprefix("torch.")
    stage = {"kind": "rl", "questions_per_step": prompts, "loop": "direct"}
    raw = recipe.model_dump() | {"stages": [stage]}
    raw["model"] |= {"dtype": dtype, "device": policy.device.type}
    raw["rollout"] |= {"samples": samples, "max_tokens_answer": longest}
    dims = Dimensions.of(recipe.model.base, recipe.model.revision)
    phases = [m for m in plan(Recipe.model_validate(raw), dims).phases if m.name.startswith("1-rl")]
    forward = [m for m in phases if "update" not in m.name]
    load = forward[0].weights + forward[0].adapters
    return load / GIB, max(m.total - m.optimizer for m in forward) / GIB


def measured(policy: Policy, held: int, work: Callable[[], object], of_plan: tuple[float, float]) -> Memory:
    """`held`: bytes after loading. `work` begins without features of images."""
    policy.forget_images()
    peak = held + peak_bytes(work, policy.device)
    seen = peak_memory(policy.device)
    return Memory(
        of_plan[0], held / GIB, of_plan[1], peak / GIB, seen.get("peak_reserved_gib", seen["peak_memory_gib"])
    )


def held_bytes(model: nn.Module, device: torch.device) -> int:
    """After loading: what a card's allocator has given out, or the model's tensors on CPU."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    tensors = {t.data_ptr(): t.nbytes for t in (*model.parameters(), *model.buffers())}  # a shared one comes once
    return sum(tensors.values())
