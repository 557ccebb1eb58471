"""A plan as a table or as JSON: phases, tokens and FLOPs, which cards fit, and which overrides make the others fit."""

from __future__ import annotations

from collections.abc import Iterator

from hart_lite.config.schema import Recipe
from hart_lite.config.sections import SFTStage
from hart_lite.perf.memory_plan import plan
from hart_lite.perf.model_sizes import Dimensions
from hart_lite.perf.pace import SHOWN, known, lasting, rl_seconds
from hart_lite.perf.plan_values import CARDS, GIB, TEXT_TOKENS, Plan, usable

PARTS = {
    "weights": "weights",
    "adapters": "adapters",
    "optimizer": "optimizer",
    "kv": "KV cache",
    "features": "images",
    "activations": "activations",
    "logits": "logits",
}
FEWEST_TOKENS = 64  # visual tokens that no suggestion goes below, and tokens that a pack holds at least
Override = tuple[str, object]


def with_overrides(recipe: Recipe, overrides: dict[str, object]) -> Recipe:
    raw = recipe.model_dump()
    for key, value in overrides.items():
        *parents, last = key.split(".")
        node = raw
        for part in parents:
            node = node[int(part)] if isinstance(node, list) else node[part]
        node[last] = value
    return Recipe.model_validate(raw)


def _gentler(recipe: Recipe, dims: Dimensions) -> Iterator[Override]:
    """One step each, from what costs time to what costs samples and what can be seen."""
    if not recipe.model.gradient_checkpointing:
        yield "model.gradient_checkpointing", True
    if recipe.model.quant == "none":
        yield "model.quant", "nf4"
    for n, stage in enumerate(recipe.stages):
        if not isinstance(stage, SFTStage) and stage.tokens_per_pack >= 2 * FEWEST_TOKENS:
            yield f"stages.{n}.tokens_per_pack", stage.tokens_per_pack // 2
    if recipe.rollout.tokens_per_batch >= 2 * FEWEST_TOKENS:
        yield "rollout.tokens_per_batch", recipe.rollout.tokens_per_batch // 2
    if recipe.rollout.max_boxes > 1:
        yield "rollout.max_boxes", recipe.rollout.max_boxes // 2
    for name in ("crop", "full"):
        half = getattr(recipe.pixels, name) // 2
        if half >= recipe.pixels.min and dims.vision.tokens(half) >= FEWEST_TOKENS and half >= dims.vision.min_pixels:
            yield f"pixels.{name}", half
    for n, stage in enumerate(recipe.stages):
        if isinstance(stage, SFTStage):
            if stage.micro_batch_size % 2 == 0:
                yield f"stages.{n}.micro_batch_size", stage.micro_batch_size // 2
        elif stage.questions_per_step > 1:
            yield f"stages.{n}.questions_per_step", stage.questions_per_step // 2
    if recipe.rollout.samples > 2:
        yield "rollout.samples", recipe.rollout.samples // 2


def suggest(recipe: Recipe, dims: Dimensions, limit: int) -> tuple[dict[str, object], int]:
    """(overrides, their peak): fewest steps of `_gentler`, in its order, that bring the worst case under `limit` bytes.

    Every one was computed to lower the peak, and without any one of them the rest is not enough. Where nothing brings
    it under the limit: what comes nearest.
    """
    chosen: dict[str, object] = {}
    best = plan(recipe, dims)
    while best.peak > limit:
        tried = (
            (k, v, plan(with_overrides(recipe, chosen | {k: v}), dims))
            for k, v in _gentler(with_overrides(recipe, chosen), dims)
        )
        better = next(
            ((k, v, p) for k, v, p in tried if p.peak < best.peak and len(p.problems) <= len(best.problems)), None
        )
        if better is None:
            return chosen, best.peak
        chosen[better[0]], best = better[1], better[2]
    for key in list(chosen):
        fewer = {k: v for k, v in chosen.items() if k != key}
        without = plan(with_overrides(recipe, fewer), dims)
        if without.peak <= limit:
            chosen, best = fewer, without
    return chosen, best.peak


def report(recipe: Recipe, dims: Dimensions) -> dict:
    """Everything that `text` prints, in bytes and plain numbers."""
    worst, typical = plan(recipe, dims), plan(recipe, dims, boxes=1)
    cards = []
    for card in CARDS:
        row: dict = {"card_gb": card, "usable": usable(card), "fits": worst.peak <= usable(card)}
        row["typical_fits"] = typical.peak <= usable(card)
        if not row["fits"]:
            overrides, peak = suggest(recipe, dims, usable(card))
            row |= {"overrides": overrides, "overrides_peak": peak, "overrides_fit": peak <= usable(card)}
        cards.append(row)
    return {
        "recipe": recipe.name,
        "base": recipe.model.base,
        "parameters": dims.parameters,
        "worst": _figures(worst),
        "typical": _figures(typical),
        "cards": cards,
    }


def predicted(recipe: Recipe, dims: Dimensions, card: str = "") -> str:
    """Peak and, on a card whose speed is known, time, in few words. `card` as its driver names it."""
    peak = f"peak {plan(recipe, dims).peak / GIB:.1f} GiB by the plan"
    name = known(card)
    stages = rl_seconds(recipe, dims, name) if name else []
    if not stages:
        return peak
    total = lasting(sum(seconds * steps for _, seconds, steps in stages))
    return f"{peak}, RL about {total} at {lasting(stages[0][1])} a step, not measured on this card"


def _paces(recipe: Recipe, dims: Dimensions) -> list[str]:
    """Seconds of a step on cards, of a base that is worth one."""
    if dims.parameters < 1e9:
        return []
    by_card = {card: rl_seconds(recipe, dims, card) for card in SHOWN}
    return [
        "time with turns as long as allowed, scaled from a step measured on an H200; within a factor of two or so:",
        *(
            f"    {card:>5}: {name}, {lasting(seconds)} a step, {lasting(seconds * steps)} for {steps} steps"
            for card, stages in by_card.items()
            for name, seconds, steps in stages
        ),
        "",
    ]


def _figures(p: Plan) -> dict:
    return {
        "peak": p.peak,
        "reserved": p.reserved,
        "peak_at": p.largest.name,
        "phases": [vars(phase) | {"total": phase.total} for phase in p.phases],
        "steps": [vars(step) for step in p.steps],
        "problems": list(p.problems),
    }


def text(recipe: Recipe, dims: Dimensions) -> str:
    figures = report(recipe, dims)
    worst, typical = figures["worst"], figures["typical"]
    boxes = f"{recipe.rollout.max_boxes} box" + "es" * (recipe.rollout.max_boxes > 1)
    size, unit = (GIB, "GiB") if worst["peak"] >= 4 * GIB else (2**20, "MiB")
    count, name = (1e9, "B") if dims.parameters >= 1e8 else (1e6, "M")
    lines = [
        f"{recipe.name}: {recipe.model.base}, {dims.parameters / count:.2f} {name} parameters, "
        f"quant {recipe.model.quant}",
        f"{unit} at each phase of the worst case: budgets full, turns as long as allowed, {boxes} a sample.",
        f"Computed, not measured; {TEXT_TOKENS} tokens of text in a prompt.",
        "",
        *_phases(worst, size),
        "",
        f"peak {worst['peak'] / size:.1f} {unit} ({worst['peak_at']}); "
        f"with one box a sample {typical['peak'] / size:.1f} {unit} ({typical['peak_at']})",
        f"torch reserves about {worst['reserved'] / size:.1f} and {typical['reserved'] / size:.1f} {unit} for these "
        "where the card has room, and gives back what it does not use where it has not",
        "",
        *(line for step in typical["steps"] for line in _step(step)),
        *_paces(recipe, dims),
        *_cards(figures["cards"]),
        *(f"\nwarning: {problem}" for problem in worst["problems"]),
    ]
    return "\n".join(lines)


def _phases(case: dict, size: int) -> list[str]:
    width = max(len(phase["name"]) for phase in case["phases"])
    lines = [" " * width + "".join(f"{title:>12}" for title in (*PARTS.values(), "total"))]
    for phase in case["phases"]:
        values = "".join(f"{phase[part] / size:12.2f}" for part in (*PARTS, "total"))
        lines.append(f"{phase['name']:{width}}{values}{'  <- peak' * (phase['name'] == case['peak_at'])}")
    return lines


def _step(step: dict) -> list[str]:
    saved = step["unshared"] / step["packed"]
    scale, flop = (1e12, "TFLOP") if step["update_flops"] >= 1e13 else (1e9, "GFLOP")
    return [
        f"a step of {step['stage']} with one box a sample: {step['sampled']:,} tokens sampled; {step['packed']:,} "
        f"trained on, {saved:.1f} times as many without shared prefixes",
        f"    rollout {step['rollout_flops'] / scale:,.0f} {flop}, reference and update "
        f"{step['update_flops'] / scale:,.0f} ({step['update_flops_unshared'] / scale:,.0f} without shared prefixes)",
        "",
    ]


def _cards(cards: list[dict]) -> list[str]:
    lines = [f"{'card':>6}{'usable':>9}  fits"]
    for row in cards:
        start = f"{row['card_gb']:>3} GB{row['usable'] / GIB:9.1f}  "
        if row["fits"]:
            lines.append(start + "yes")
            continue
        says = "with one box a sample" if row["typical_fits"] else "no"
        words = " ".join(f"{key}={str(value).lower()}" for key, value in row["overrides"].items())
        reach = "" if row["overrides_fit"] else ", still too much"
        advice = f"; {words} -> {row['overrides_peak'] / GIB:.1f}{reach}" if words else "; no override helps"
        lines.append(start + says + advice)
    return lines
