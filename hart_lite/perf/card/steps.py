"""Whole optimizer steps at full size: `hart` on photos, SFT, and stock TRL beside ours."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import PrinterCallback, TrainingArguments

from hart_lite.config.schema import Recipe
from hart_lite.config.sections import SFTStage
from hart_lite.models.packing import pack
from hart_lite.perf.card.context import GIB, Card, watched
from hart_lite.perf.card.stages import part
from hart_lite.perf.memory_plan import plan
from hart_lite.perf.step_time.count import sequences_of
from hart_lite.perf.step_time.models import Workload, random_model
from hart_lite.perf.step_time.presets import FixedLength, question
from hart_lite.perf.step_time.steps import Ours, Stock, arguments
from hart_lite.training.sft_data import SFTRows
from hart_lite.training.sft_trainer import SFTStageTrainer
from hart_lite.types import Box

LOGGED = ("loss", "grad_norm", "reward", "skipped", "flat_groups", "valid_box", "tokens_locate", "tokens_verify")
LOGGED += ("packed_tokens", "tokens_per_pack", "tokens_per_batch")


def rl(card: Card, found: dict[str, Any]) -> None:
    """Steps of 8 questions x 8 samples: one that does not count, one more, and one that decodes from a CUDA graph. All
    read their JPEGs anew."""
    work = card.work()
    part(found, "planned", planned, card, work)
    ours = card_steps(card, work)
    found["first, eager"] = measured(card, work, ours)
    card.sequences = sequences_of(ours.groups)
    part(found, "packs", packs_of, card)
    found["eager"] = measured(card, work, ours)
    if card.cuda:
        graph = card.work(cuda_graph=True)
        part(found, "graph", measured, card, graph, card_steps(card, graph))


def card_steps(card: Card, work: Workload) -> Ours:
    return Ours(work, "hart", card.folder, card.sizes.questions, card.sizes.tokens_per_pack)


def measured(card: Card, work: Workload, ours: Ours) -> dict[str, Any]:
    """One step: seconds by phase and by part, memory, what it logged."""
    photos = card.photos()
    card.reset()
    with watched(work) as parts:
        laps = ours.step(*photos)
    logged = {name: ours.figures[name] for name in LOGGED if name in ours.figures}
    return {"seconds": dict(laps), "of them": dict(parts), "gib": card.memory(), "logged": logged}


def planned(card: Card, work: Workload) -> dict[str, float]:
    """GiB of `hart-lite plan` for these settings and one box a sample, by phase."""
    sizes = card.sizes
    stage = {"kind": "rl", "questions_per_step": sizes.questions, "tokens_per_pack": sizes.tokens_per_pack}
    recipe = Recipe.model_validate(
        {
            "name": "card",
            "model": card.section,
            "pixels": work.runner.model.pixels,
            "rollout": work.runner.model.rollout,
            "stages": [stage],
        }
    )
    return {phase.name: phase.total / GIB for phase in plan(recipe, work.dims, boxes=1).phases}


def packs_of(card: Card) -> dict[str, Any]:
    """Of the step's packs: number, tokens, and seconds of one thread to lay them out and to say what sees what."""
    start = time.perf_counter()
    packs = pack(card.sequences, card.work().runner.policy.family.positions, card.sizes.tokens_per_pack)
    laid = time.perf_counter()
    pairs = sum(packed.tree(card.device).pairs for packed in packs)
    return {
        "packs": len(packs),
        "tokens": sum(map(len, packs)),
        "pairs": pairs,
        "lay out seconds": laid - start,
        "tree seconds": time.perf_counter() - laid,
    }


# -- SFT ---------------------------------------------------------------------------------------------------------------


def sft(card: Card, found: dict[str, Any]) -> None:
    """Two steps of four rows each, a row at a time and then two, with a crop of each photo in sight."""
    work = card.work()
    with ending(work.runner.policy.family):
        _sft(card, work, found)


@contextmanager
def ending(family: FixedLength) -> Iterator[None]:
    """Responses end within, as those that are taught must."""
    family.eos_ids = (family.tokenizer.eos_token_id,)
    try:
        yield
    finally:
        family.eos_ids = ()


def _sft(card: Card, work: Workload, found: dict[str, Any]) -> None:
    rows = sft_rows(card, work)
    found["row tokens"] = [len(rows[n]) for n in range(len(rows))]
    for micro in (1, 2):
        card.reset()
        stage = SFTStage(kind="sft", batch_size=4, micro_batch_size=micro)
        args = arguments(TrainingArguments, work, card.folder, max_steps=2)
        trainer = SFTStageTrainer(work.runner, rows, stage, args)
        trainer.remove_callback(PrinterCallback)
        card.photos()
        seconds = card.seconds(trainer.train)
        losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
        found[f"micro batch of {micro}"] = {"seconds of 2 steps": seconds, "losses": losses, "gib": card.memory()}
    card.photos()
    start = time.perf_counter()
    for slot in rows[0].slots:
        slot.view.load()
    found["seconds to make a row"] = time.perf_counter() - start
    found["adapters"] = sorted({str(p.dtype) for p in work.runner.policy.adapter_parameters})


def sft_rows(card: Card, work: Workload) -> SFTRows:
    """Answers to the photos' questions beside a crop, and locate turns of half of them."""
    (width, height), examples, family = card.sizes.photo, card.photos(), work.runner.policy.family
    box = Box(width * 0.3, height * 0.3, width * 0.5, height * 0.5)
    seen = family.fit((width, height), work.runner.setting.full_pixels, work.runner.setting.min_pixels)
    said = family.response_ids(family.box_to_text([box], [seen], [(width, height)]))
    located = {e.id: {"said": list(said), "right": n % 2 == 0} for n, e in enumerate(examples)}
    return SFTRows(work.runner, examples, located, SFTStage(kind="sft", keep_locate=0.2), seed=0)


# -- beside TRL --------------------------------------------------------------------------------------------------------


def stock(card: Card, found: dict[str, Any]) -> None:
    """One question with 8 samples of 64 tokens a turn: stock TRL, `direct` and `hart`; a first step does not count."""
    work = card.bench_work()
    work.runner.policy.family.seen = work.runner.policy.family.fit(
        (work.preset.image_side,) * 2, work.runner.model.pixels.full, work.runner.model.pixels.min
    )
    makers = {
        "direct": lambda: Ours(work, "direct", card.folder),
        "hart": lambda: Ours(work, "hart", card.folder),
        "stock": lambda: Stock(work, random_model(work.preset), card.folder),
    }
    examples = [question(work.preset, card.folder, n) for n in range(2)]
    seconds = {}
    for name, make in makers.items():
        system = make()
        card.reset()
        first, second = (dict(system.step(example)) for example in examples)
        found[name] = {"first": first, "second": second, "gib": card.memory()}
        seconds[name] = second["step"]
        del system
    found["/ stock"] = {name: seconds[name] / seconds["stock"] for name in ("direct", "hart")}
    found["finite"] = all(bool(torch.isfinite(p).all()) for p in work.runner.policy.adapter_parameters)
