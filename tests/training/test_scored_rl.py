"""RL on scored verification: the direction of a step, what it packs and prints, what is refused, exact resume."""

from functools import partial

import pytest
import torch
from small_runs import make_up, metrics, rl_stage, small_recipe
from trainers import adapters, rl_trainer, same

from hart_lite.errors import DataError, HartError
from hart_lite.models.packing import pack
from hart_lite.runs.splits import load_splits
from hart_lite.training import train as stages
from hart_lite.training.stage import Stage
from hart_lite.training.train import train

SCORED = {"verify": "score", "flat_below": 0.0}


@pytest.fixture
def new_trainer(new_policy, tiny_base, tmp_path, monkeypatch):
    make_up(monkeypatch.setattr)
    return partial(rl_trainer, new_policy, tiny_base, tmp_path)


def test_a_step_raises_boxes_whose_crops_make_the_right_answer_likelier(new_trainer):
    trainer = new_trainer(stage={"steps": 1, "questions_per_step": 1, "lr": 1e-3}, rollout=SCORED | {"samples": 4})
    policy, step = trainer.policy, trainer.rollout
    [group] = step(trainer.questions(0), 0)
    trainer.rollout = lambda examples, step: [group]
    best, *_, worst = sorted(group.trajectories, key=lambda t: -t.reward)
    assert 1 > best.reward > worst.reward + 1e-3

    def score(trajectory) -> float:
        with torch.no_grad():
            return sum(
                policy.logps(p, 8.0).sum().item() for p in pack(trajectory.sequences, policy.family.positions, 4096)
            )

    before = score(best), score(worst)
    trainer.train()
    assert score(best) > before[0] + 1e-4 and score(worst) < before[1] - 1e-4


def test_a_scored_step_packs_no_answer_and_says_what_the_reward_was_made_of(new_trainer):
    trainer = new_trainer(rollout=SCORED | {"control_region": True, "max_overlap": 0.5})
    trainer.training_step(trainer.model, {})
    row = trainer.step_metrics
    assert 0 < row["reward"] < 1 and row["tokens_verify"] == 0 and row["boxes_overlap"] == 0
    assert row["reward"] <= row["crops_reward"] < 1 and 0 < row["control_reward"] < 1
    assert row["control_unplaced"] == 0 and 0 < row["answers_mass"] < 1
    sampled = new_trainer(rollout={"flat_below": 0.0})
    sampled.training_step(sampled.model, {})
    assert row["packed_tokens"] < 0.7 * sampled.step_metrics["packed_tokens"]
    assert row["tokens_locate"] == sampled.step_metrics["tokens_locate"] and sampled.step_metrics["tokens_verify"] > 0


def test_a_resumed_run_ends_like_an_unbroken_one(new_policy, tiny_base, tmp_path, monkeypatch):
    make_up(monkeypatch.setattr)
    ended = []
    for name in ("whole", "resumed"):
        stage = {"steps": 3, "save_every": 2}
        trainer = rl_trainer(
            new_policy, tiny_base, tmp_path / name, stage=stage, rollout=SCORED | {"control_region": True}
        )
        torch.manual_seed(5)
        checkpoint = str(tmp_path / "whole/stages/1-rl/checkpoint-2") if ended else None
        trainer.train(resume_from_checkpoint=checkpoint)
        ended.append((adapters(trainer), metrics(tmp_path / name)[-1]["reward"]))
    assert same(ended[0][0], ended[1][0]) and ended[0][1] == ended[1][1]


@pytest.mark.parametrize("settings", [{"verify": "score"}, {"control_region": True}])
def test_rows_that_cannot_be_scored_are_named_before_a_model_is_loaded(tiny_base, tmp_path, monkeypatch, settings):
    rows = tmp_path / "rows.jsonl"
    recipe = small_recipe(tiny_base, tmp_path / "run", [rl_stage()], rollout=settings)
    [image, *_] = load_splits(recipe).rl
    image.images[0].load().save(tmp_path / "0.png")
    line = '{"id": "%d", "image": "0.png", "question": "What is it?", "answer": "%s"}\n'
    rows.write_text("".join(line % (n, "a word" if n else "more words than anybody would guess") for n in range(4)))
    monkeypatch.setattr(stages, "load_policy", lambda *_: pytest.fail("a model was loaded"))
    recipe = small_recipe(tiny_base, tmp_path / "run", [rl_stage()], rollout=settings, data={"train": str(rows)})
    with pytest.raises(DataError, match=r"1 of 4 questions have no choices and a longer answer, '0' the first"):
        train(recipe)
    assert not (tmp_path / "run").exists()
    Stage(recipe.model_copy(update={"rollout": recipe.rollout.model_copy(update={"verify": "sample",
          "control_region": False})}), 0, tmp_path).check(load_splits(recipe))  # fmt: skip


def test_a_reward_passed_in_python_has_no_answer_to_judge(tiny_base, tmp_path):
    recipe = small_recipe(tiny_base, tmp_path, [rl_stage()], rollout={"verify": "score"})
    with pytest.raises(HartError, match="know the probability of an answer and no text to give to a reward function"):
        train(recipe, reward=lambda example, trajectory: 1.0)
