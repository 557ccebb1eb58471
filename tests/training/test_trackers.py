"""Trackers: one run for all stages, steps that go on counting, evaluations with pictures, no step twice."""

import json
import os
import signal
from importlib.util import find_spec

import pytest
from small_runs import make_up, metrics, rl_stage, sft_stage, small_recipe
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from hart_lite.training import rl_trainer
from hart_lite.training.signals import Stopped
from hart_lite.training.train import train


@pytest.fixture(autouse=True)
def _made_up(monkeypatch):
    make_up(monkeypatch.setattr)


class Killed(BaseException):
    """What nothing catches."""


def recipe_in(base, run, *trackers: str):
    stages = [rl_stage(steps=3, log_rollouts_every=0), sft_stage(steps=2)]
    evaluate = {"every": 2, "modes": ["full", "crops"], "watch": 0}
    return small_recipe(base, run, stages, evaluate=evaluate, report_to=list(trackers))


def test_tensorboard_gets_all_stages_as_one_run(tiny_base, tmp_path, monkeypatch):
    recipe = recipe_in(tiny_base, tmp_path / "run", "tensorboard")
    rollout, calls = rl_trainer.RLTrainer.rollout, []

    def ended(self, *args, **kwargs):
        calls.append(1)
        if len(calls) == 2:  # in step 2, before any checkpoint: step 1 is taken again
            raise Killed
        if len(calls) == 5:  # in the stage's last step: it is evaluated when the run goes on
            os.kill(os.getpid(), signal.SIGTERM)
        return rollout(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(rl_trainer.RLTrainer, "rollout", ended)
        for how in (Killed, Stopped):
            with pytest.raises(how):
                train(recipe, resume=True)
    train(recipe, resume=True)
    events = EventAccumulator(str(recipe.run_dir / "tensorboard"), size_guidance={"images": 0})
    events.Reload()
    rows = metrics(recipe.run_dir)
    loss = events.Scalars("train/loss")
    assert [event.step for event in loss] == [1, 2, 3, 4, 5]
    assert [event.value for event in loss] == pytest.approx([row["loss"] for row in rows])
    summary = json.loads((recipe.run_dir / "summary.json").read_text())
    right = events.Scalars("eval/accuracy/crops")
    assert [event.step for event in right] == [0, 2, 3, 5]  # before, within RL, after each stage
    assert (right[0].value, right[-1].value) == pytest.approx(
        (summary["before"]["accuracy"]["crops"], summary["after-2-sft"]["accuracy"]["crops"])
    )
    looks = [tag for tag in events.Tags()["images"] if tag.startswith("looks/")]
    assert len(looks) == 4
    assert events.Images(looks[0])[0].width >= 480


@pytest.mark.skipif(find_spec("wandb") is None, reason="wandb is not installed; it is not a dependency")
def test_wandb_offline_gets_one_run(tiny_base, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    recipe = recipe_in(tiny_base, tmp_path / "run", "wandb")
    train(recipe)
    runs = list((recipe.run_dir / "wandb").glob("offline-run-*"))
    assert len(runs) == 1
    assert len(list((runs[0] / "files/media/images/looks").glob("*.png"))) >= 4
