"""How a model in a run directory was made, in the words of the paper's tables."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from hart_lite.config.schema import Recipe, Stage
from hart_lite.config.sections import RLStage
from hart_lite.runs.layout import is_run, read_recipe


@dataclass(frozen=True)
class Trained:
    """How a model of ours was made: "AP-GRPO + SFT", its k, and whether the closed loop took part."""

    method: str
    k: float | None
    hart: bool


def trained(model: str) -> Trained | None:
    """What the recipe says of a model in a run directory: the stages up to it. None for a model from elsewhere."""
    place = Path(model)
    run = next((folder for folder in (place, *place.parents[:3]) if is_run(folder)), None)
    if run is None or not place.exists():  # a Hub id has a parent, too: the folder one works in
        return None
    recipe = read_recipe(run)
    stage = re.match(r"stages/(\d+)-", place.relative_to(run).as_posix())
    stages = recipe.stages[: int(stage[1]) if stage else None]
    rl = [stage for stage in stages if isinstance(stage, RLStage)]
    weighted = any((stage.objective or recipe.objective) == "ap_grpo" for stage in rl)
    return Trained(
        " + ".join(stage_method(recipe, stage) for stage in stages),
        recipe.k if weighted else None,
        any((stage.loop or recipe.loop) == "hart" for stage in rl),
    )


def stage_method(recipe: Recipe, stage: Stage) -> str:
    """In the words of the paper where it has any: what goes beyond it is named as well."""
    if not isinstance(stage, RLStage):
        return {"sft": "SFT", "distil": "distillation"}[stage.kind]
    loop, objective = stage.loop or recipe.loop, stage.objective or recipe.objective
    usual = {("hart", "ap_grpo"): "AP-GRPO", ("mgpo", "grpo"): "MGPO", ("direct", "grpo"): "GRPO"}
    beyond = {"scored": recipe.rollout.verify == "score", "control region": recipe.rollout.control_region}
    method = usual.get((loop, objective), f"{objective} in the loop {loop}")
    return ", ".join([method, *(name for name, on in beyond.items() if on)])
