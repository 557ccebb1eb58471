"""The stages of a recipe, in order, in a run directory (`hart_lite.runs.layout`) that holds everything it took and
everything that came out."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import closing
from functools import partial
from pathlib import Path

from accelerate import PartialState

from hart_lite.config.environment import check_machine
from hart_lite.config.schema import Recipe
from hart_lite.errors import HartError
from hart_lite.inference.load import recipe_model
from hart_lite.inference.rollout import Runner
from hart_lite.inference.vllm_engine import serve_model
from hart_lite.models.fingerprint import fingerprint
from hart_lite.models.loading import load_policy
from hart_lite.models.policy import Policy
from hart_lite.rl.rewards import Reward, load_reward, with_rewards
from hart_lite.runs.layout import ADAPTER, BEFORE, SERVED
from hart_lite.runs.run_dir import held_run, open_run, save_adapter
from hart_lite.runs.splits import Splits, load_splits
from hart_lite.training.best_weights import check_measurable
from hart_lite.training.callbacks import (
    highest_of_all,
)
from hart_lite.training.evaluation import RunEvaluator, failed_before_training, summarise
from hart_lite.training.failures import translate_errors
from hart_lite.training.sample_tracking import SampleTracker, select_tracked
from hart_lite.training.signals import Stop
from hart_lite.training.stage import Stage
from hart_lite.training.trackers import Trackers

log = logging.getLogger(__name__)


def train(
    recipe: Recipe,
    resume: bool = False,
    max_minutes: float | None = None,
    reward: Reward | None = None,
    predicted: str = "",
) -> dict[str, dict]:
    """Run all stages; returns the summary {name of evaluation: figures}. `reward` stands in for the recipe's;
    `predicted` is what the plan says of memory and time, for the line that the run begins with.

    Everything that can be wrong with recipe, machine and data is said before the model is loaded. Raises `Stopped`
    after Ctrl-C, SIGTERM or `max_minutes`, with what was done saved, and `HartError` where the run cannot go on.
    """
    check_machine(recipe)
    if reward is not None and recipe.rollout.scores_answers:
        raise HartError(
            "rollout.verify = 'score' and rollout.control_region know the probability of an answer and no text to give "
            "to a reward function; leave out reward=, or use rollout.verify=sample and rollout.control_region=false"
        )
    reward = reward or load_reward(recipe.reward)
    splits = load_splits(recipe)
    run = recipe.run_dir
    processes = PartialState(cpu=recipe.model.device == "cpu")
    stop = Stop(run, max_minutes, highest_of_all if processes.num_processes > 1 else None)
    stages = [Stage(recipe, index, run, stop) for index in range(len(recipe.stages))]
    for stage in stages:
        stage.check(splits)
    check_measurable(recipe.evaluate, splits.eval)
    with stop, held_run(run, recipe, resume), translate_errors(run, splits):
        return _train(recipe, splits, stages, stop, reward, predicted)


def _train(
    recipe: Recipe, splits: Splits, stages: Sequence[Stage], stop: Stop, reward: Reward, predicted: str
) -> dict[str, dict]:
    run = recipe.run_dir
    done = [stage for stage in stages if stage.done]
    begun_from = Path(recipe.model.adapter) if recipe.model.adapter else None
    policy = load_policy(recipe.model, done[-1].adapter if done else begun_from, recipe.seed)
    log.info("%s", _begins(run, splits, policy, predicted))
    model = recipe_model(recipe.model.base, policy, recipe, {"base": fingerprint(policy.family)})
    if recipe.rollout.engine == "vllm":
        model = serve_model(model, recipe, run / SERVED)
    rewarded = partial(with_rewards, reward, recipe.reward_timeout, recipe.reward_workers)
    with closing(model.engine):
        with PartialState().main_process_first():
            open_run(run, recipe, policy.family, str(policy.device))
        with closing(Trackers(recipe, run)) as trackers:
            return _stages(recipe, splits, stages, Runner(model, rewarded, recipe.train_turns), stop, trackers)


def _stages(
    recipe: Recipe, splits: Splits, stages: Sequence[Stage], runner: Runner, stop: Stop, trackers: Trackers
) -> dict[str, dict]:
    run, policy, done = recipe.run_dir, runner.policy, [stage for stage in stages if stage.done]
    evaluator = RunEvaluator(run, recipe, runner.model, splits.eval, trackers)
    if not done:
        evaluator.evaluate(BEFORE, recipe.model.adapter or recipe.model.base)
    asked = splits.eval or splits.rl or splits.sft
    chosen = select_tracked(asked, recipe.evaluate.watch, failed_before_training(run))
    tracker = SampleTracker(run, runner, chosen, held_out=bool(splits.eval))
    if not done:
        tracker.record(BEFORE)
    for stage in stages:
        stop.check()
        if not stage.done:
            stage.run_on(runner, splits, evaluator, tracker)
        if stage not in done[:-1]:  # after those the policy was another one
            evaluator.evaluate(f"after-{stage.name}", str(stage.adapter))
            tracker.record(f"after-{stage.name}")
    save_adapter(policy, run / ADAPTER)
    with PartialState().main_process_first():
        return summarise(run, [BEFORE, *(f"after-{stage.name}" for stage in stages)])


def _begins(run: Path, splits: Splits, policy: Policy, predicted: str) -> str:
    """The run in a line: where it goes, what it reads, what it trains, what it takes."""
    trained, all_of_them = policy.peft.get_nb_trainable_parameters()
    return "; ".join(
        [
            f"run {run}",
            f"{len(splits.rl):,} questions for RL, {len(splits.sft):,} for SFT, {len(splits.eval):,} held out",
            f"{trained:,} of {all_of_them:,} parameters are trained",
            *filter(None, [predicted]),
        ]
    )
