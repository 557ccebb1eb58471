"""Out of memory on a card: a step that has half of what it takes computes in smaller pieces, to the same result."""

from __future__ import annotations

import logging
from typing import Any

import torch

from hart_lite.perf.card.context import Card
from hart_lite.perf.card.stages import part
from hart_lite.perf.step_time.steps import Ours

SHARE = 0.6  # of what the step takes beyond what is there before it


class _Messages(logging.Handler):
    """What the budgets say when they are halved."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage().split(": again")[0])


def memory(card: Card, found: dict[str, Any]) -> None:
    """Two questions: freely, then within `SHARE`, eager and from a graph."""
    start = [p.detach().clone() for p in card.bench_work().runner.policy.adapter_parameters]
    free = found["free"] = step(card, start, False)
    if not card.cuda:
        return
    card.reset()
    before, total = torch.cuda.memory_reserved(), torch.cuda.mem_get_info()[1]
    limit = before + SHARE * (free["gib"]["peak_reserved"] * 2**30 - before)
    found["limit_gib"] = limit / 2**30
    for name, graph in (("within", False), ("within, graph", True)):
        card.reset()
        torch.cuda.set_per_process_memory_fraction(limit / total)
        part(found, name, step, card, start, graph)
        torch.cuda.set_per_process_memory_fraction(1.0)


def step(card: Card, start: list[torch.Tensor], graph: bool) -> dict[str, Any]:
    """One step from the same adapters, with new budgets."""
    work = card.work(cuda_graph=graph)
    with torch.no_grad():
        for parameter, value in zip(work.runner.policy.adapter_parameters, start, strict=True):
            parameter.copy_(value)
    photos = card.photos()[:2]
    ours = Ours(work, "hart", card.folder, len(photos), card.sizes.tokens_per_pack)
    messages, logger = _Messages(), logging.getLogger("hart_lite.models.oom")
    logger.addHandler(messages)
    card.reset()
    try:
        laps = ours.step(*photos)
    finally:
        logger.removeHandler(messages)
    named = ("loss", "tokens_per_pack", "tokens_per_batch", "packed_tokens", "skipped")
    logged = {name: ours.figures[name] for name in named}
    return {"seconds": laps["step"], "logged": logged, "gib": card.memory(), "said": messages.texts}
