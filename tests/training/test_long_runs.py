"""A long run holds at its end what it held at its beginning, and the check that measures one would notice a leak."""

import gc
import json
import os
import sys
from functools import partial

import numpy as np
import pytest
import torch
from small_runs import make_up
from trainers import rl_trainer, sft_trainer
from transformers import TrainerCallback

from tests.reliability.long_runs import Sample, growth, slope

STEPS = 8


class Holdings(TrainerCallback):
    """(tensors, open files) after some steps; the first steps make the optimizer's moments."""

    def __init__(self) -> None:
        self.after: dict[int, tuple[int, int]] = {}

    def on_step_end(self, args, state, control, **kwargs) -> None:
        if state.global_step in (3, STEPS - 1):
            gc.collect()
            tensors = sum(isinstance(held, torch.Tensor) for held in gc.get_objects())
            self.after[state.global_step] = tensors, len(os.listdir("/proc/self/fd"))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("kind", ["rl", "sft"])
def test_a_step_leaves_nothing_behind(new_policy, tiny_base, tmp_path, monkeypatch, kind):
    make_up(monkeypatch.setattr)
    if kind == "rl":
        stage = {"steps": STEPS, "save_every": 3, "log_rollouts_every": 2, "lr": 1e-6}
        trainer = rl_trainer(new_policy, tiny_base, tmp_path, stage=stage)
    else:
        trainer = sft_trainer(new_policy, tiny_base, tmp_path, steps=STEPS, save_every=3)
    held = Holdings()
    trainer.add_callback(held)
    trainer.train()
    early, late = held.after.values()
    assert late[0] <= early[0]
    assert late[1] <= early[1]


def test_a_checkpoint_does_not_grow_with_what_the_run_has_said(new_policy, tiny_base, tmp_path, monkeypatch):
    make_up(monkeypatch.setattr)
    stage = {"steps": STEPS, "save_every": 4}
    trainer = rl_trainer(new_policy, tiny_base, tmp_path, stage=stage)
    trainer.train()
    early, late = (
        (tmp_path / "stages" / "1-rl" / f"checkpoint-{step}" / "trainer_state.json").read_bytes() for step in (4, 8)
    )
    assert abs(len(late) - len(early)) < 200  # a row is over 600 bytes, or 126 less where every group is flat
    assert [len(json.loads(state)["log_history"]) for state in (early, late)] == [2, 2]


# -- the check -------------------------------------------------------------------------------------------------------


def a_run(memory=lambda step: 600.0, files=lambda step: 9, seconds=lambda step: 0.1) -> list[Sample]:
    """1,500 steps with noise, and every hundredth step out of line."""
    noise, spent, out = np.random.default_rng(0), 0.0, []
    for step in range(500, 2000):
        pause = 5.0 if step % 100 == 0 else 1.0
        spent += seconds(step) * pause * noise.uniform(0.8, 1.2)
        resident = (memory(step) * pause + noise.normal(0, 2)) * 2**20
        out.append(Sample(step, resident, files(step) + (step % 50 == 0), spent))
    return out


def passed(samples: list[Sample]) -> list[bool]:
    return [check.passed for check in growth(samples, 2000)]


def test_a_flat_run_passes():
    assert passed(a_run()) == [True, True, True]


def test_each_leak_fails_its_check():
    grow = partial(np.interp, xp=(500, 2000))
    assert passed(a_run(memory=lambda step: grow(step, fp=(600, 640)))) == [False, True, True]  # 27 MiB in 1,000 steps
    assert passed(a_run(files=lambda step: 9 + step // 200)) == [True, False, True]
    assert passed(a_run(seconds=lambda step: grow(step, fp=(0.1, 0.112)))) == [True, True, False]


def test_the_slope_is_the_median_of_all():
    x = np.arange(9.0)
    assert slope(x, 3 * x + 1) == 3
    y = 3 * x
    y[4] = 1000
    assert slope(x, y) == 3
