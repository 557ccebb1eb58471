"""Trainers of both kinds on the toy base, as a run makes them."""

from __future__ import annotations

from pathlib import Path

import torch

from hart_lite.config.schema import Recipe
from hart_lite.inference.load import recipe_model
from hart_lite.inference.rollout import Runner
from hart_lite.models.loading import load_policy
from hart_lite.runs.splits import load_splits
from hart_lite.training.evaluation import RunEvaluator
from hart_lite.training.stage import Stage
from hart_lite.training.step_trainer import StepTrainer

RL = {"kind": "rl", "steps": 12, "questions_per_step": 8, "lr": 1e-3, "save_every": 0, "log_rollouts_every": 0}
SFT = {"kind": "sft", "steps": 12, "batch_size": 16, "micro_batch_size": 16, "lr": 1e-3, "save_every": 0}


def new_trainer(folder: Path, stage: dict, dtype: str = "float32") -> StepTrainer:
    recipe = Recipe.model_validate(
        {
            "name": "reliability",
            "output": str(folder),
            "model": {"dtype": dtype, "device": "cpu"},
            "pixels": {"full": 12544, "crop": 4704, "min": 784},
            "data": {"toy": {"scenes": 24, "eval_scenes": 0}},
            "rollout": {"tokens_per_batch": 2048, "max_tokens_locate": 24, "max_tokens_answer": 8},
            "stages": [stage],
        }
    )
    model = recipe_model(recipe.model.base, load_policy(recipe.model), recipe, {})
    made, splits = Stage(recipe, 0, folder), load_splits(recipe)
    made.folder.mkdir(parents=True)
    return made.trainer(Runner(model), splits.rl or splits.sft, RunEvaluator(folder, recipe, model, []))


def trained(trainer: StepTrainer) -> list[torch.Tensor]:
    """Copies of the adapters and of the optimizer's moments."""
    states = trainer.optimizer.state.values() if trainer.optimizer else ()
    moments = [value for state in states for _, value in sorted(state.items())]
    adapters = [parameter for parameter in trainer.model.parameters() if parameter.requires_grad]
    return [tensor.detach().clone() for tensor in (*adapters, *moments)]
