"""Trainers of both kinds as a run makes them, at the sizes of `small_runs`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from small_runs import distil_stage, rl_stage, sft_stage, small_recipe

from hart_lite.config.schema import Recipe
from hart_lite.inference.load import recipe_model
from hart_lite.inference.rollout import Runner
from hart_lite.models.policy import Policy
from hart_lite.runs.splits import load_splits
from hart_lite.training.distil_trainer import DistilTrainer
from hart_lite.training.rl_trainer import RLTrainer
from hart_lite.training.sft_trainer import SFTStageTrainer
from hart_lite.training.stage import Stage

NewPolicy = Callable[..., Policy]
ON_CPU = {"dtype": "float32", "device": "cpu", "lora": {"r": 4}}


def rl_trainer(
    new_policy: NewPolicy, base: Path, run: Path, adapter_std: float = 0.05, stage=None, model=None, **changes
) -> RLTrainer:
    """`adapter_std` 0 is an untouched adapter."""
    recipe = small_recipe(base, run, [rl_stage(**stage or {})], **changes)
    return trainer_of(recipe, new_policy(adapter_std, **ON_CPU | (model or {})))


def sft_trainer(new_policy: NewPolicy, base: Path, run: Path, model=None, **stage) -> SFTStageTrainer:
    recipe = small_recipe(base, run, [sft_stage(**stage)])
    return trainer_of(recipe, new_policy(**ON_CPU | (model or {})))


def distil_trainer(new_policy: NewPolicy, base: Path, run: Path, adapter_std: float = 0.05, **stage) -> DistilTrainer:
    recipe = small_recipe(base, run, [distil_stage(**stage)])
    return trainer_of(recipe, new_policy(adapter_std, **ON_CPU))


def trainer_of(recipe: Recipe, policy: Policy) -> RLTrainer | SFTStageTrainer | DistilTrainer:
    """Of the recipe's first stage."""
    stage, splits = Stage(recipe, 0, recipe.run_dir), load_splits(recipe)
    stage.folder.mkdir(parents=True, exist_ok=True)
    examples = splits.rl if recipe.stages[0].kind == "rl" else splits.sft
    return stage.trainer(runner_of(recipe, policy), examples, evaluator=None)


def runner_of(recipe: Recipe, policy: Policy) -> Runner:
    return Runner(recipe_model(recipe.model.base, policy, recipe, {}), train_turns=recipe.train_turns)


def adapters(trainer) -> list[torch.Tensor]:
    """Copies of what is trained, as it is now."""
    return [p.detach().clone() for p in trainer.model.parameters() if p.requires_grad]


def same(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    """To the bit."""
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
