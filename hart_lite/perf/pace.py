"""How long a step of RL may take on a card, from the one step that was measured on one.

An H200 took 16.8 s for a step of Qwen2.5-VL-7B in 4 bits (experiments/results/card-h200.md): 8 questions with 8 samples
of 64 + 16 tokens, 3.0 s of it to read eight photos, 8.9 s for reference and update, 4.9 s to read prompts and sample.
Held against the plan's operations (3.13e15 and 1.06e15) these are the constants below.
Other cards are taken to be slower by what their makers say of them: reading prompts, reference and update by products
of matrices a second, sampling by bytes a second. None of them was measured; a factor of two either way is to be
expected.
"""

from __future__ import annotations

from collections.abc import Sequence

from hart_lite.config.schema import Recipe
from hart_lite.config.sections import RLStage
from hart_lite.perf.memory_plan import plan
from hart_lite.perf.model_sizes import Dimensions
from hart_lite.perf.plan_values import Step

# As a card is named by its driver -> 16-bit TFLOP/s of dense products, GB/s of its memory.
SPEEDS = {
    "T4": (65, 320),
    "V100": (125, 900),
    "L4": (121, 300),
    "A10": (125, 600),
    "3090": (71, 936),
    "4090": (165, 1008),
    "A100": (312, 1555),
    "H100": (989, 3350),
    "H200": (989, 4800),
}
SHOWN = ("T4", "L4", "A100", "H100")
FLOPS = 3.13e15 / 8.9  # a second, which the H200 came to in reference and update
TOKEN = (4.9 - 1.06e15 / FLOPS) / 80  # seconds in which it sampled one token of each of 64 rows
PHOTO = 3.0 / 8  # seconds to read a photo of 12 megapixels
WEIGHTS = 8.3e9  # of the model that it sampled from


def known(name: str) -> str | None:
    """The card of SPEEDS that a driver's name means: "NVIDIA L40S" is no L4."""
    words = name.replace("-", " ").split()
    return next((card for card in SPEEDS if card in words), None)


def step_seconds(recipe: Recipe, stage: RLStage, step: Step, dims: Dimensions, card: str) -> float:
    """Of a step with one box a sample, every turn as long as allowed."""
    flops, memory = SPEEDS[card]
    products = (step.rollout_flops + step.update_flops) / (FLOPS * flops / SPEEDS["H200"][0])
    rollout = recipe.rollout
    loop = stage.loop or recipe.loop
    tokens = rollout.max_tokens_answer + (rollout.max_tokens_locate if loop != "direct" else 0)
    sampling = tokens * TOKEN * (dims.parameters / WEIGHTS) * SPEEDS["H200"][1] / memory
    return products + sampling + stage.questions_per_step * PHOTO


def rl_seconds(recipe: Recipe, dims: Dimensions, card: str) -> Sequence[tuple[str, float, int]]:
    """(stage, seconds of a step, steps) of each stage of RL."""
    stages = [stage for stage in recipe.stages if isinstance(stage, RLStage)]
    steps = plan(recipe, dims, boxes=1).steps
    return [
        (step.stage, step_seconds(recipe, stage, step, dims, card), stage.steps)
        for step, stage in zip(steps, stages, strict=True)
    ]


def lasting(seconds: float) -> str:
    """About how long, to two digits at most."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.0f} h"
