"""What the card can do before anything of ours runs, and the model drawn on it."""

from __future__ import annotations

import time
from typing import Any

import torch

from hart_lite.perf.card.context import GIB, Card
from hart_lite.perf.memory_model import Cost


def ceilings(card: Card, found: dict[str, Any]) -> None:
    """A copy counts bytes read and written; products are of random numbers, since zeros run faster."""
    source = torch.randn(card.sizes.copied // 4, device=card.device)
    target = torch.empty_like(source)
    seconds = card.milliseconds(lambda: target.copy_(source)) / 1e3
    found["copy_tb_s"] = 2 * source.nbytes / seconds / 1e12
    found["sum_tb_s"] = source.nbytes / (card.milliseconds(source.sum) / 1e3) / 1e12
    source = target = None
    side = card.sizes.product
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        a, b = (torch.randn(side, side, device=card.device, dtype=dtype) for _ in range(2))
        seconds = card.milliseconds(lambda a=a, b=b: a @ b, 5) / 1e3
        found[f"product_tflop_s_{str(dtype).removeprefix('torch.')}"] = 2 * side**3 / seconds / 1e12
    found["empty_launch_us"] = 1e3 * card.milliseconds(torch.ones(1, device=card.device).neg_, 2000)


def load(card: Card, found: dict[str, Any]) -> None:
    """Seconds and bytes of the model, against what the plan has for its weights and adapters."""
    card.forget()
    card.reset()
    start = time.perf_counter()
    work = card.bench_work()
    card.wait()
    found["seconds"] = time.perf_counter() - start
    cost = Cost(work.dims, card.section)
    found["planned_gib"] = {"weights": cost.weights() / GIB, "adapters": cost.adapters() / GIB}
    if card.cuda:
        held = torch.cuda.memory_allocated()
        found["held_gib"] = held / GIB
        found["held / planned"] = held / (cost.weights() + cost.adapters())
        found["peak"] = card.memory()
    start = time.perf_counter()
    card.photos()
    found["photos_seconds"] = time.perf_counter() - start
    found["photo_mib"] = sum(path.stat().st_size for path in card.folder.glob("*.jpg")) / 2**20 / card.sizes.questions
