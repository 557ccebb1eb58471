"""Trainers of both kinds on the embedded base, as a run makes them."""

from __future__ import annotations

from pathlib import Path

import torch

from hart_lite.config.schema import Recipe
from hart_lite.inference.load import recipe_model
from hart_lite.inference.rollout import Runner
from hart_lite.models.loading import load_policy
from hart_lite.runs.splits import load_splits
from hart_lite.training.step_trainer import StepTrainer
from hart_lite.training.train import Stage

RL = {"kind": "rl", "steps": 12, "questions_per_step": 8, "lr": 1e-3, "save_every": 0, "log_rollouts_every": 0}
SFT = {"kind": "sft", "steps": 12, "batch_size": 16, "micro_batch_size": 16, "lr": 1e-3, "save_every": 0}


def trainer(folder: Path, stage: dict, **model) -> StepTrainer:
    recipe = Recipe.model_validate(
        {
            "name": "trust",
            "output": str(folder),
            "model": {"dtype": "float32", "device": "cpu"} | model,
            "pixels": {"full": 12544, "crop": 4704, "min": 784},
            "data": {"world": {"scenes": 24, "eval_scenes": 0}},
            "rollout": {"tokens_per_batch": 2048, "max_tokens_locate": 24, "max_tokens_answer": 8},
            "stages": [stage],
        }
    )
    folder.mkdir(parents=True, exist_ok=True)
    runner = Runner(recipe_model("embedded", load_policy(recipe.model), recipe, {}))
    made, splits = Stage(recipe, 0, folder), load_splits(recipe)
    made.folder.mkdir(parents=True, exist_ok=True)
    return made.trainer(runner, splits.rl or splits.sft, evaluator=None)


def trained(of: StepTrainer) -> list[torch.Tensor]:
    """Copies of what is trained, and of the optimizer's moments."""
    states = of.optimizer.state.values() if of.optimizer else ()
    moments = [value for state in states for _, value in sorted(state.items())]
    return [t.detach().clone() for t in (*(p for p in of.model.parameters() if p.requires_grad), *moments)]
