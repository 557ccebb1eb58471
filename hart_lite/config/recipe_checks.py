"""What a recipe may not hold at once: checks over several of its keys, none of which needs a model."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hart_lite.config.schema import Recipe, RLStage, SFTStage


def contradictions(recipe: Recipe) -> list[str]:
    """Values that are fine alone and wrong together, each with the way out."""
    problems = []
    lists = {"train_turns": recipe.train_turns, "model.lora.parts": recipe.model.lora.parts}
    lists |= {"evaluate.modes": recipe.evaluate.modes, "report_to": recipe.report_to}
    for key, names in lists.items():
        if len(set(names)) < len(names):
            problems.append(f"{key} = {names} names one twice; name each once")
    for small, large in (("min", "crop"), ("min", "full")):
        low, high = getattr(recipe.pixels, small), getattr(recipe.pixels, large)
        if low > high:
            problems.append(f"pixels.{small} = {low} is over pixels.{large} = {high}; lower the one or raise the other")
    for key, world in (("world", recipe.data.world), ("eval_world", recipe.data.eval_world)):
        if world and world.objects[0] > world.objects[1]:
            problems.append(f"data.{key}.objects = {list(world.objects)} should be [fewest, most]")
    if recipe.data.eval is not None and recipe.data.eval_world is not None:
        problems.append(f"data.eval = {recipe.data.eval!r} and data.eval_world both say what to evaluate on; set one")
    if recipe.data.sft is not None and _same_source(recipe.data.sft, recipe.data.train):
        problems.append(
            f"data.sft = {recipe.data.sft!r} is data.train as well, so RL and SFT would share questions; leave "
            "data.sft out, and data.train is divided by image"
        )
    if (recipe.data.format == "mme_realworld") != (recipe.data.lite is not None):
        problems.append(
            "data.format = 'mme_realworld' and data.lite (the JSON of Lite) belong together; set both or neither"
        )
    for index, stage in enumerate(recipe.stages):
        problems += [f"stages.{index}: {problem}" for problem in _stage_contradictions(recipe, stage)]
    return problems


def _stage_contradictions(recipe: Recipe, stage: RLStage | SFTStage) -> list[str]:
    problems = []
    if stage.lr_scheduler == "constant" and stage.warmup_steps:
        problems.append("lr_scheduler = 'constant' has no warm-up; use 'constant_with_warmup' or warmup_steps = 0")
    if stage.kind == "sft":
        if stage.batch_size % stage.micro_batch_size:
            problems.append(
                f"batch_size = {stage.batch_size} is no multiple of micro_batch_size = {stage.micro_batch_size}"
            )
        return problems
    if recipe.rollout.samples < 2:
        problems.append(
            "RL compares the samples of a question: rollout.samples = 1 gives nothing to compare; use 2 or more"
        )
    if (stage.objective or recipe.objective) == "ap_grpo" and recipe.beta == 0:
        problems.append("objective = 'ap_grpo' with beta = 0 has no KL to weigh; use beta > 0 or objective = 'grpo'")
    if (stage.loop or recipe.loop) == "direct" and "verify" not in recipe.train_turns:
        problems.append("loop = 'direct' has no locate turn; add 'verify' to train_turns or use another loop")
    return problems


def _same_source(a: str, b: str) -> bool:
    return a == b or (os.path.exists(a) and os.path.exists(b) and os.path.samefile(a, b))  # no error for any name
